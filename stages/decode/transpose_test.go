package decode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// turnSlow is the definition of a transpose.
func turnSlow(src []byte, rows, columns, size int) []byte {
	dst := make([]byte, len(src))
	for r := range rows {
		for c := range columns {
			copy(dst[(c*rows+r)*size:(c*rows+r+1)*size], src[(r*columns+c)*size:])
		}
	}
	return dst
}

func runTranspose(t *testing.T, op stages.Op, j *stages.Job) {
	t.Helper()
	if err := op.Run(j); err != nil {
		t.Fatal(err)
	}
	for i := range j.Rows - 1 {
		if gap := j.Dst[i*j.Stride+j.RowBytes : (i+1)*j.Stride]; bytes.Count(gap, []byte{canary}) != len(gap) {
			t.Fatalf("wrote behind row %d", i)
		}
	}
	optest.WantChecks(t, op, j)
}

func TestTransposeEverySize(t *testing.T) {
	for _, d := range []stages.DType{safetensors.U8, safetensors.BF16, safetensors.F32, safetensors.F64} {
		op, err := Transpose(d, d)
		if err != nil {
			t.Fatal(err)
		}
		size := d.Bits() / 8
		for _, k := range []int{1, 2, 3, 4, 5, 7, 8, 63, 511, 512, 513, 1030} {
			for _, n := range []int{1, 2, 3, 4, 5, 31, 32, 33, 70} {
				src := counting(k * n * size)
				for i := range src {
					src[i] ^= byte(i >> 8 * 37)
				}
				want := turnSlow(src, k, n, size)
				for _, gap := range []int{0, 3} {
					whole := job(n, k*size, k*size+gap, src)
					rows := job(n, k*size, k*size+gap, nil)
					rows.Src = nil
					for r := range k {
						rows.Src = append(rows.Src, src[r*n*size:(r+1)*n*size])
					}
					for name, j := range map[string]*stages.Job{"whole": whole, "rows": rows} {
						runTranspose(t, op, j)
						for i := range n {
							if !bytes.Equal(j.Row(i), want[i*k*size:(i+1)*k*size]) {
								t.Fatalf("%s [%d, %d] %s gap %d: row %d differs", d, k, n, name, gap, i)
							}
						}
					}
				}
			}
		}
	}
}

func TestTransposeCasts(t *testing.T) {
	for p, c := range casts {
		if p.from == p.to {
			continue
		}
		op, err := Transpose(p.from, p.to)
		if err != nil {
			t.Fatal(err)
		}
		const k, n = 521, 35
		src := make([]byte, k*n*c.fromSize)
		for i := range k * n {
			src[i*c.fromSize] = byte(i * 7) // subnormals, which all of them hold
		}
		want := make([]byte, k*n*c.toSize)
		c.kernel(want, turnSlow(src, k, n, c.fromSize))
		j := job(n, k*c.toSize, k*c.toSize+5, src)
		runTranspose(t, op, j)
		for i := range n {
			if !bytes.Equal(j.Row(i), want[i*k*c.toSize:(i+1)*k*c.toSize]) {
				t.Fatalf("%s: row %d differs", op, i)
			}
		}
	}
}

func TestTransposeNamesTheValueThatDoesNotFit(t *testing.T) {
	op, err := Transpose(safetensors.F32, safetensors.F16)
	if err != nil {
		t.Fatal(err)
	}
	const k, n = 600, 40
	src := make([]byte, 4*k*n)
	binary.LittleEndian.PutUint32(src[4*(555*n+38):], math.Float32bits(1e9))
	var de *stages.DataError
	if err := op.Run(job(n, 2*k, 2*k, src)); !errors.As(err, &de) || !strings.Contains(de.Found, "1e+09 at row 555, column 38") ||
		!strings.Contains(de.Found, fmt.Sprintf("byte %d of", 1000+4*(555*n+38))) {
		t.Errorf("got %v", err)
	}
	j := job(n, 2*k, 2*k, nil)
	j.Src, j.Inputs = nil, nil
	for r := range k {
		j.Src = append(j.Src, src[4*n*r:4*n*(r+1)])
		j.Inputs = append(j.Inputs, stages.Input{Tensor: "a", Extent: stages.Extent{Off: int64(10000 * r)}})
	}
	if err := op.Run(j); !errors.As(err, &de) || !strings.Contains(de.Found, fmt.Sprintf("byte %d of", 5550000+4*38)) {
		t.Errorf("got %v", err)
	}
}

func TestTransposeRefuses(t *testing.T) {
	if _, err := Transpose(safetensors.F4, safetensors.F4); !errors.Is(err, ErrNoCast) {
		t.Errorf("F4: %v", err)
	}
	if _, err := Transpose(safetensors.I32, safetensors.F16); !errors.Is(err, ErrNoCast) {
		t.Errorf("I32 to F16: %v", err)
	}
	op, err := Transpose(safetensors.BF16, safetensors.BF16)
	if err != nil {
		t.Fatal(err)
	}
	short := job(4, 6, 6, counting(24))
	short.Dst = short.Dst[:23]
	two := job(4, 6, 6, counting(24))
	two.Src = [][]byte{counting(8), counting(8)}
	for name, j := range map[string]*stages.Job{
		"odd bytes": job(4, 5, 6, counting(24)), "source": job(4, 6, 6, counting(23)), "destination": short, "rows": two, "stride": job(4, 6, 4, counting(24)),
	} {
		if err := op.Run(j); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	again, _ := Transpose(safetensors.BF16, safetensors.BF16)
	if op != again {
		t.Error("two values of one Op")
	}
}

func FuzzTranspose(f *testing.F) {
	f.Add(5, 9, uint8(1), []byte("columns"))
	f.Fuzz(func(t *testing.T, k, n int, pick uint8, seed []byte) {
		k, n = 1+k&1023, 1+n&127
		d := []stages.DType{safetensors.U8, safetensors.BF16, safetensors.F32, safetensors.F64}[pick&3]
		size := d.Bits() / 8
		src := make([]byte, k*n*size)
		for i := range src {
			src[i] = byte(i*31 + i>>8)
			if len(seed) > 0 {
				src[i] ^= seed[i%len(seed)]
			}
		}
		op, err := Transpose(d, d)
		if err != nil {
			t.Fatal(err)
		}
		j := job(n, k*size, k*size, src)
		runTranspose(t, op, j)
		if !bytes.Equal(j.Dst, turnSlow(src, k, n, size)) {
			t.Fatalf("%s [%d, %d] differs", d, k, n)
		}
	})
}

func BenchmarkTranspose(b *testing.B) {
	const k, n = 2880, 5760
	src, dst := make([]byte, 2*k*n), make([]byte, 2*k*n)
	for _, to := range []stages.DType{safetensors.BF16, safetensors.F16} {
		op, err := Transpose(safetensors.BF16, to)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(to.String(), func(b *testing.B) {
			b.SetBytes(2 * k * n)
			for b.Loop() {
				if err := op.Run(&stages.Job{Dst: dst, Rows: n, RowBytes: 2 * k, Stride: 2 * k, Src: [][]byte{src}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
