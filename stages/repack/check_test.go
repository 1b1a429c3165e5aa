package repack

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/stages"
)

// wrongKernel is an Op whose kernel has a fault: it makes one word in every so many wrong.
type wrongKernel struct {
	stages.Op
	stages.Checker

	every int
}

func (op wrongKernel) Run(j *stages.Job) error {
	err := op.Op.Run(j)
	for r := range j.Rows {
		for at := 0; at < j.RowBytes; at += 4 * op.every {
			j.Row(r)[at] ^= 0x30
		}
	}
	return err
}

// plain are Views in memory.
type plain []byte

func (p plain) Bytes(int) []byte { return p }
func (plain) Method() string     { return "test" }
func (plain) Release()           {}

// TestWrongKernelIsCaught: a load with a kernel that is wrong in every word ends at its first Part; with one that is wrong in one word in 16, at one
// of the next; and without the self-check not at all.
func TestWrongKernelIsCaught(t *testing.T) {
	const rows, columns = 8, 1024
	src := make([]byte, rows*columns*8)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(src) // never fails
	right := GPTQMarlin4()
	checker, ok := right.(stages.Checker)
	if !ok {
		t.Fatal("no Checker")
	}
	parts := func(every int, opt execute.Options) (n int, err error) {
		op := right
		if every > 0 {
			op = wrongKernel{right, checker, every}
		}
		for n < 1000 && err == nil {
			n++
			b := &stages.Batch{
				Slabs: []stages.Slab{{Off: 1 << 40, Len: int64(len(src))}}, Outputs: []stages.Output{{Name: "joined.qweight"}}, Dst: [][]byte{make([]byte, len(src))}, Views: plain(src),
				Ranges: []stages.Extent{{Shard: 3, Len: int64(len(src))}},
				Parts: []stages.Part{{
					Op: op, Dst: stages.Rect{RowBytes: 8 * columns, Stride: 8 * columns, Rows: rows},
					Inputs: []stages.Input{{Tensor: "a.qweight", Extent: stages.Extent{Shard: 3, Len: int64(len(src))}}},
				}},
			}
			_, err = Stage(opt).Process(t.Context(), b)
		}
		return n, err
	}
	named := execute.Options{FileName: func(int32) string { return "model.safetensors" }}
	n, err := parts(1, named)
	if _, wrong := errors.AsType[*stages.MismatchError](err); !wrong || n != 1 {
		t.Errorf("after %d parts: %v", n, err)
	}
	for _, says := range []string{
		"repack gptq 4-bit to marlin", "model.safetensors", "a.qweight", "self-check", "output joined.qweight, byte 10995", "input feature", "must be",
		"report it", "--no-self-check",
	} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
	if n, err := parts(16, named); err == nil {
		t.Errorf("not caught in %d parts", n)
	}
	if n, err := parts(1, execute.Options{NoSelfCheck: true}); err != nil {
		t.Errorf("switched off, after %d parts: %v", n, err)
	}
	if n, err := parts(0, named); err != nil {
		t.Errorf("nothing is wrong, after %d parts: %v", n, err)
	}
}
