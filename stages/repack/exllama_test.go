package repack

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/stages"
)

func TestExllamaEveryWidth(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 1))
	for _, bits := range []int{2, 3, 4, 8} {
		for _, s := range [][2]int{{32, 1}, {32, 8}, {64, 3}, {96, 40}, {128, 64}} {
			k, n := s[0], s[1]
			codes := codesOf(r, k, n, bits)
			q := optest.PackRows(codes, n, bits, false)
			sources.WantRows(t, mustOp(t)(GPTQExllama(bits, 0)), k*bits/32, slowExllama(codes, n, bits), q)
			if bits == 3 {
				continue
			}
			g := balancedGroups(r, k, 4)
			ordered := permuteRows(codes, n, slowPerm(g))
			sources.WantRows(t, mustOp(t)(GPTQExllama(bits, 4)), k*bits/32, slowExllama(ordered, n, bits), q, gptqInts(g))
		}
	}
}

func TestExllamaRefuses(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 2))
	for _, bits := range []int{-1, 0, 1, 5, 6, 7, 16, 32} {
		if op, err := GPTQExllama(bits, 0); err == nil {
			t.Errorf("%s", op)
		}
	}
	if op, err := GPTQExllama(3, 2); err == nil {
		t.Errorf("act-order: %s", op)
	}
	for _, bits := range []int{2, 3, 4, 8} {
		q := optest.PackRows(codesOf(r, 64, 8, bits), 8, bits, false)
		refusesSizes(t, mustOp(t)(GPTQExllama(bits, 0)), 2*bits, 32, q)
		if bits != 3 {
			refusesSizes(t, mustOp(t)(GPTQExllama(bits, 2)), 2*bits, 32, q, gptqInts(balancedGroups(r, 64, 2)))
		}
	}
	j, _ := sources.Job(4, 32, 0, make([]byte, 128))
	if err := mustOp(t)(GPTQExllama(3, 0)).Run(j); err == nil {
		t.Error("four rows of 3-bit codes are no whole blocks")
	}
	j, _ = sources.Job(3, 6, 0, make([]byte, 18)) // no whole words
	if err := mustOp(t)(GPTQExllama(4, 0)).Run(j); err == nil {
		t.Error("rows of 6 bytes are no whole words")
	}
}

func TestExllamaDoesNotAllocate(t *testing.T) {
	for _, bits := range []int{2, 3, 4, 8} {
		j, _ := sources.Job(2*bits, 256, 0, make([]byte, 2*bits*256))
		op := mustOp(t)(GPTQExllama(bits, 0))
		if n := testing.AllocsPerRun(20, func() {
			if err := op.Run(j); err != nil {
				t.Fatal(err)
			}
		}); n > 1 {
			t.Errorf("%s: %v allocations", op, n)
		}
	}
}

func FuzzExllama(f *testing.F) {
	f.Add(uint64(1), uint8(1), uint8(1), uint8(3))
	f.Fuzz(func(t *testing.T, seed uint64, blocks, cols, which uint8) {
		bits := []int{2, 3, 4, 8}[which%4]
		k, n := 32*int(blocks%3+1), int(cols%70+1)
		codes := codesOf(rand.New(rand.NewPCG(seed, 0)), k, n, bits)
		want, q := slowExllama(codes, n, bits), optest.PackRows(codes, n, bits, false)
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { sources.WantRows(t, mustOp(t)(GPTQExllama(bits, 0)), k*bits/32, want, q) })
		}
	})
}

// TestExllamaKernels: every number of words in a row, against pages that cannot be touched, and rows that go past the caches.
func TestExllamaKernels(t *testing.T) {
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, bits := range []int{2, 3, 4} {
				for words := 1; words < 70; words++ {
					checkExllama(t, bits, words, 4*words, words%2 == 0)
				}
				checkExllama(t, bits, 16<<10, 64<<10, true)
				checkExllama(t, bits, 16<<10, 64<<10+64, false)
				checkExllama(t, bits, 16<<10+5, 64<<10+64, false)
			}
		})
	}
}

// checkExllama shuffles six rows of so many words, stride bytes apart.
func checkExllama(t *testing.T, bits, words, stride int, atEnd bool) {
	t.Helper()
	const rows = 6
	row := 4 * words
	src := random(uint64(words), rows*row)
	framed, dst := canaries((rows-1)*stride + row)
	j := &stages.Job{Dst: dst, Rows: rows, RowBytes: row, Stride: stride, Src: [][]byte{cputest.Guarded(t, src, atEnd)}}
	if err := mustOp(t)(GPTQExllama(bits, 0)).Run(j); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, row)
	for i := range rows {
		if bits != 3 {
			exllamaRow(want, src[i*row:(i+1)*row], bits)
		} else {
			three, of := [3][]byte{make([]byte, row), make([]byte, row), make([]byte, row)}, src[i/3*3*row:]
			exllama3Rows(three, [3][]byte{of[:row], of[row : 2*row], of[2*row : 3*row]})
			want = three[i%3]
		}
		if string(j.Row(i)) != string(want) {
			t.Fatalf("bits=%d, row %d of %d words: differs", bits, i, words)
		}
	}
	wantFrame(t, framed, rows, row, stride)
}

func BenchmarkExllama(b *testing.B) {
	for _, bits := range []int{2, 3, 4, 8} {
		b.Run(fmt.Sprintf("%dbit", bits), func(b *testing.B) {
			benchOp(b, mustOp(b)(GPTQExllama(bits, 0)), benchK*bits/32, benchN*4, make([]byte, benchK*benchN*bits/8))
		})
	}
}
