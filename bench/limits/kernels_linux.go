package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/repack"
)

// kernel is an Op and the Part that it runs on, again and again: from memory to memory, by one processor.
type kernel struct {
	name      string
	op        stages.Op
	rows, row int // of the destination, and the bytes of one
	in        int // bytes of the bulk source
	sides     [][]byte
	counted   int // bytes of a Part that its rate counts
	masked    bool
}

// A module: output and input features.
const features, inputs, groups = 1536, 2048, 2048 / 128

func kernels() ([]kernel, error) {
	f32, f16, bf16 := safetensors.F32, safetensors.F16, safetensors.BF16
	marlin, err1 := repack.GPTQMarlin(4)
	half, err2 := decode.Cast(f16, f32)
	brain, err3 := decode.Cast(bf16, f32)
	dequant, err4 := decode.GPTQDequant(decode.GPTQLayout{Bits: 4, Symmetric: true, Group: 128, Groups: groups}, f16, bf16)
	const codes, weights, elements = inputs * features / 2, 2 * inputs * features, 1 << 20
	scales, zeros := bytes.Repeat([]byte{0x00, 0x24}, groups*features), bytes.Repeat([]byte{0x77}, groups*features/2)
	return []kernel{
		{"repack 4 bits", marlin, inputs / 16, 8 * features, codes, nil, codes, true},
		{"cast F16 to F32", half, 1, 4 * elements, 2 * elements, nil, 3 * elements, false}, // moved: half of what is read and written
		{"cast BF16 to F32", brain, 1, 4 * elements, 2 * elements, nil, 3 * elements, false},
		{"dequantise 4 bits", dequant, features, 2 * inputs, codes, [][]byte{scales, zeros}, weights, false},
	}, errors.Join(err1, err2, err3, err4)
}

// measures are the kernel as every kind of processor that this one can play, or as the best.
func (k kernel) measures(m *memory, passes int) (list []measure) {
	best := cpu.X86.String()
	for _, names := range cpu.Masks() {
		restore := cpu.Disable(names...)
		as := cpu.X86.String()
		restore()
		if len(names) > 0 && (!k.masked || as == best) {
			continue
		}
		list = append(list, k.measure(m, passes, as, names))
	}
	return list
}

func (k kernel) measure(m *memory, passes int, as string, without []string) measure {
	times := max(1, len(m.dst)/max(k.in, k.rows*k.row))
	return measure{
		name: fmt.Sprintf("%s, %s", k.name, as), how: inside, bytes: int64(passes * times * k.counted),
		run: inProcess(func() (reading, error) {
			defer cpu.Disable(without...)()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			return timed(func() error { return k.work(m, passes, times) })
		}),
	}
}

func (k kernel) work(m *memory, passes, times int) error {
	job := stages.Job{
		Rows: k.rows, RowBytes: k.row, Stride: k.row, Src: append([][]byte{nil}, k.sides...),
		Inputs: make([]stages.Input, 1+len(k.sides)), Warn: func(string, ...any) {},
	}
	out := k.rows * k.row
	for range passes {
		for i := range times {
			job.Dst, job.Src[0] = m.dst[i*out:(i+1)*out:(i+1)*out], m.src[offset+i*k.in:offset+(i+1)*k.in]
			if err := k.op.Run(&job); err != nil {
				return err
			}
		}
	}
	return nil
}

// finite fills b with numbers that are finite as F16, as BF16 and as scales: half random, with small exponents.
func finite(b []byte) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := 0; i+1 < len(b); i += 2 {
		v := 0x2400 | uint16(rng.Uint32())&0x83FF
		b[i], b[i+1] = byte(v), byte(v>>8)
	}
}
