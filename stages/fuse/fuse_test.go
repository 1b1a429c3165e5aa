package fuse

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/stages"
)

const canary = 0xA5

func job(dst []byte, rows, rowBytes, stride int, src []byte) *stages.Job {
	return &stages.Job{
		Dst: dst, Rows: rows, RowBytes: rowBytes, Stride: stride, Src: [][]byte{src},
		Inputs: []stages.Input{{Tensor: "model.a.weight"}},
	}
}

// Any member at any place: every byte of the rectangle is the source's, every other byte is as it was.
func TestConcatAgainstBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.IntRange(0, 40).Draw(t, "rows")
		rowBytes := rapid.IntRange(0, 70).Draw(t, "rowBytes")
		stride := rowBytes + rapid.SampledFrom([]int{0, 0, 1, 2, 64}).Draw(t, "gap")
		off := rapid.IntRange(0, 9).Draw(t, "off")
		src := rapid.SliceOfN(rapid.Byte(), rows*rowBytes, rows*rowBytes).Draw(t, "src")

		used := max(0, (rows-1)*stride+rowBytes)
		slab := bytes.Repeat([]byte{canary}, off+used+20)
		want := bytes.Clone(slab)
		for i, c := range src {
			want[off+i/rowBytes*stride+i%rowBytes] = c
		}
		dst := slab[off : off+used : off+used]
		if err := Concat().Run(job(dst, rows, rowBytes, stride, src)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(slab, want) {
			t.Fatalf("got %v, want %v", slab, want)
		}
	})
}

// Whatever the sizes, Run returns: it neither panics nor writes when it refuses.
func TestConcatNeverPanics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number := rapid.OneOf(rapid.IntRange(-2, 20), rapid.Int())
		dst := bytes.Repeat([]byte{canary}, rapid.IntRange(0, 60).Draw(t, "dst"))
		src := make([]byte, rapid.IntRange(0, 60).Draw(t, "src"))
		j := job(dst, number.Draw(t, "rows"), number.Draw(t, "rowBytes"), number.Draw(t, "stride"), src)
		if err := Concat().Run(j); err != nil {
			if bytes.Count(dst, []byte{canary}) != len(dst) {
				t.Fatal("refused, but wrote")
			}
		} else if len(src) != j.Rows*j.RowBytes {
			t.Fatal("accepted a source of the wrong size")
		}
	})
}

// q, k and v joined along the last dimension of a Slab, by Parts that run at once: the race detector sees no shared byte.
func TestMembersSideBySide(t *testing.T) {
	const rows = 16
	widths := []int{8, 2, 2}
	slab := make([]byte, rows*12)
	var wg sync.WaitGroup
	off := 0
	for m, w := range widths {
		src := bytes.Repeat([]byte{byte('q' + m)}, rows*w)
		dst := slab[off : (rows-1)*12+off+w]
		wg.Go(func() {
			if err := Concat().Run(job(dst, rows, w, 12, src)); err != nil {
				t.Error(err)
			}
		})
		off += w
	}
	wg.Wait()
	if want := bytes.Repeat([]byte("qqqqqqqqrrss"), rows); !bytes.Equal(slab, want) {
		t.Errorf("got %q", slab)
	}
}

func TestConcatIsOneOp(t *testing.T) {
	if Concat() != Concat() || Concat().Phase() != stages.PhaseFuse || Concat().String() != "concat" {
		t.Error("wrong identity, phase or name")
	}
	if name := Stage(execute.Options{}).Name(); name != "fuse" {
		t.Errorf("stage %q", name)
	}
}

func TestRunDoesNotAllocate(t *testing.T) {
	j := job(make([]byte, 200), 4, 20, 60, make([]byte, 80))
	if n := testing.AllocsPerRun(20, func() {
		if err := Concat().Run(j); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// 8 MiB in rows of several lengths, next to each other and with a gap as long as a row; "copy" is what one copy of them takes.
func BenchmarkConcat(b *testing.B) {
	const n = 8 << 20
	// Written first: untouched pages would all be the one zero page of the kernel, and the copy would read from L1.
	src, dst := bytes.Repeat([]byte{1}, n), bytes.Repeat([]byte{2}, 2*n)
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(n)
		for b.Loop() {
			copy(dst, src)
		}
	})
	for _, row := range []int{64, 1024, 16384} {
		for _, stride := range []int{row, 2 * row} {
			j := job(dst[:(n/row-1)*stride+row], n/row, row, stride, src)
			b.Run(fmt.Sprintf("row=%d/stride=%d", row, stride), func(b *testing.B) {
				b.SetBytes(n)
				for b.Loop() {
					if err := Concat().Run(j); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
