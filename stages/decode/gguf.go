package decode

import (
	"fmt"
	"sync"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/convert/rows"
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// GGUFDequant makes the Op that turns rows of ggml's blocks into floating-point weights, computed in F32 and rounded once. Types are Q4_0, Q8_0,
// Q4_K, Q6_K and MXFP4; the error of any other is ErrNoCast.
//
// Input: one, Rows rows of K / elements of a block * bytes of a block. Destination: Rows rows of K elements of to (F32, F16 or BF16); K is whole
// blocks. Scales that are not finite and weights that to cannot hold are *stages.DataErrors. Source: LAYOUTS A7, F7.
func GGUFDequant(t gguf.Type, to stages.DType) (stages.Op, error) {
	d, ok := ggufBlocks[t]
	fromF32, ok2 := convert.Func(safetensors.F32, to)
	stream, ok3 := convert.StreamFunc(safetensors.F32, to)
	if !ok || !ok2 || !ok3 {
		return nil, fmt.Errorf("%w: from %s to %s", ErrNoCast, t, to)
	}
	elements, bytes := t.Block()
	return &ggufDequant{typ: t, elements: int(elements), bytes: int(bytes), block: d, to: to, fromF32: fromF32, stream: stream}, nil
}

// ggufBlock knows one type of block.
type ggufBlock struct {
	// decode computes the values of whole blocks. It is the reference for the kernels.
	decode func(dst []float32, blocks []byte)
	// scales are where a block has F16 values that all others are multiplied with; of MXFP4 the one scale is an F8_E8M0, at 0.
	scales []int
}

// ggufBlocks are the types that are processed.
var ggufBlocks = map[gguf.Type]ggufBlock{
	gguf.Q4_0:  {decodeQ4_0, []int{0}},
	gguf.Q8_0:  {decodeQ8_0, []int{0}},
	gguf.Q4K:   {decodeQ4K, []int{0, 2}},
	gguf.Q6K:   {decodeQ6K, []int{208}},
	gguf.MXFP4: {decodeMXFP4Blocks, nil},
}

type ggufDequant struct {
	typ             gguf.Type
	elements, bytes int // of a block
	block           ggufBlock
	to              stages.DType
	fromF32, stream convert.Kernel
}

func (*ggufDequant) Phase() stages.Phase { return stages.PhaseDecode }
func (op *ggufDequant) String() string   { return fmt.Sprintf("dequantise %s to %s", op.typ, op.to) }

// ggufChunk is how many weights are computed in F32 before they are rounded: they stay in the first-level cache. It is whole blocks of every
// type.
const ggufChunk = 4096

// ggufValues are the buffers of Runs, which workers use again.
var ggufValues = sync.Pool{New: func() any { return new([ggufChunk]float32) }}

func (op *ggufDequant) Run(j *stages.Job) error {
	size := op.to.Bits() / 8
	k := j.RowBytes / size
	if k*size != j.RowBytes || k%op.elements != 0 {
		return fmt.Errorf("%s: rows of %d bytes are no whole blocks of %d", op, j.RowBytes, op.elements)
	}
	srcRow := k / op.elements * op.bytes
	if err := rows.Check(j, srcRow); err != nil {
		return err
	}
	if len(j.Src[0]) == 0 {
		return nil
	}
	values, ok := ggufValues.Get().(*[ggufChunk]float32)
	if !ok {
		values = new([ggufChunk]float32)
	}
	defer ggufValues.Put(values)
	if rows.Contiguous(j) {
		return op.run(j, j.Dst, 0, len(j.Src[0]), values)
	}
	for i := range j.Rows {
		if err := op.run(j, j.Row(i), i*srcRow, srcRow, values); err != nil {
			return err
		}
	}
	return nil
}

// run decodes n bytes of the source from off on, to dst.
func (op *ggufDequant) run(j *stages.Job, dst []byte, off, n int, values *[ggufChunk]float32) error {
	size, src, round := op.to.Bits()/8, j.Src[0], op.fromF32
	if !j.Soon && j.Rows*j.RowBytes >= cpu.MinStream {
		round = op.stream
	}
	for end := off + n; off < end; {
		step := min(ggufChunk/op.elements*op.bytes, end-off)
		v := values[:step/op.bytes*op.elements]
		op.values(v, src[off:off+step])
		at := round(dst[:len(v)*size], asBytes(v))
		if no := convert.FirstNonFinite(safetensors.F32, asBytes(v)); no >= 0 && (at < 0 || no < at) { // a value that was none before
			at = no
		}
		if at >= 0 {
			return op.fault(j, off+at/op.elements*op.bytes, v[at])
		}
		dst, off = dst[len(v)*size:], off+step
	}
	return nil
}

// fault is the error for a weight of the block at off that to cannot hold.
func (op *ggufDequant) fault(j *stages.Job, off int, w float32) error {
	// The Op does not know where in the tensor its source begins, but where in the file.
	place := fmt.Sprintf("in the block at byte %d of the file", j.Inputs[0].Extent.Off+int64(off))
	block := j.Src[0][off : off+op.bytes]
	e := &stages.DataError{Tensor: j.Inputs[0].Tensor, Expected: "a finite scale", Advice: "the file is damaged: get it again"}
	for _, at := range op.block.scales {
		if d := convert.F16ToF32(le.Uint16(block[at:])); d-d != 0 { //nolint:gocritic // infinite, or no number
			e.Problem, e.Found = "has a "+op.typ.String()+" scale that is not finite", fmt.Sprintf("%v %s", d, place)
			return e
		}
	}
	if op.typ == gguf.MXFP4 && block[0] == 0xFF {
		e.Problem, e.Found = "has an MXFP4 scale that is no number", "0xFF "+place
		return e
	}
	e.Problem, e.Expected, e.Found = "a weight does not fit in "+op.to.String(), "finite weights", fmt.Sprintf("%g %s", w, place)
	if e.Advice = "use --dtype bf16 or f32"; op.to != safetensors.F16 {
		e.Advice = "use --layout raw"
	}
	return e
}

// half is the F16 at the start of b.
func half(b []byte) float32 { return convert.F16ToF32(le.Uint16(b)) }

// Products and sums are converted explicitly, so that no compiler fuses them into one rounding.

// decodeQ4_0 decodes blocks of 32: F16 d, 16 bytes of codes. Element e is the low (e < 16) or the high half of byte e%16: d * (code - 8).
func decodeQ4_0(dst []float32, b []byte) {
	for ; len(b) >= 18; b, dst = b[18:], dst[32:] {
		d, low, high := half(b), dst[:16], dst[16:32]
		for i, q := range b[2:18] {
			low[i], high[i] = d*float32(int(q&15)-8), d*float32(int(q>>4)-8)
		}
	}
}

// decodeQ8_0 decodes blocks of 32: F16 d, 32 signed bytes: d * code.
func decodeQ8_0(dst []float32, b []byte) {
	for ; len(b) >= 34; b, dst = b[34:], dst[32:] {
		d, out := half(b), dst[:32]
		for i, q := range b[2:34] {
			out[i] = d * float32(int8(q))
		}
	}
}

// decodeQ4K decodes blocks of 256: F16 d, F16 dmin, 12 bytes with 8 scales and 8 minima of 6 bits, 128 bytes of codes. Of every 32 elements the
// codes are the low or, of the next 32, the high halves of the same 32 bytes: d * scale * code - dmin * minimum.
func decodeQ4K(dst []float32, b []byte) {
	for ; len(b) >= 144; b, dst = b[144:], dst[256:] {
		d, dmin := half(b), half(b[2:])
		for j := range 8 {
			scale, minimum := q4kScale(b[4:16], j)
			ds, dm := float32(d*float32(scale)), float32(dmin*float32(minimum))
			out, shift := dst[32*j:32*j+32], 4*(j&1)
			for i, q := range b[16+32*(j/2) : 48+32*(j/2)] {
				out[i] = float32(ds*float32(q>>shift&15)) - dm
			}
		}
	}
}

// q4kScale unpacks the scale and the minimum of the j-th 32 elements: those of the first four lie in the low six bits of their bytes, those of
// the others in halves, with their upper two bits in what the first leave.
func q4kScale(s []byte, j int) (scale, minimum uint8) {
	if j < 4 {
		return s[j] & 63, s[j+4] & 63
	}
	return s[j+4]&15 | s[j-4]>>6<<4, s[j+4]>>4 | s[j]>>6<<4
}

// decodeQ6K decodes blocks of 256: 128 bytes with the low four bits of the codes, 64 bytes with their upper two, 16 signed scales, F16 d. Halves
// of 128 elements are apart; of each, byte l of 32 holds bits of elements l, l+32, l+64 and l+96: d * scale * (code - 32).
func decodeQ6K(dst []float32, b []byte) {
	for ; len(b) >= 210; b, dst = b[210:], dst[256:] {
		d := half(b[208:])
		for h := range 2 {
			for t := range 4 {
				low, high, out := b[64*h+32*(t%2):64*h+32*(t%2)+32], b[128+32*h:160+32*h], dst[128*h+32*t:128*h+32*t+32]
				scales := b[192+8*h+2*t : 194+8*h+2*t]
				for l := range 32 {
					code := int(low[l]>>(4*(t/2))&15 | high[l]>>(2*t)&3<<4)
					out[l] = float32(d*float32(int8(scales[l/16]))) * float32(code-32)
				}
			}
		}
	}
}

// fp4Values are the values of FP4 codes. ggml has them as integers, so that code 8 is 0 and not -0 as elsewhere.
var fp4Values = [16]float32{0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6}

// decodeMXFP4Blocks decodes blocks of 32: F8_E8M0 scale, 16 bytes of FP4 codes in the order of Q4_0: value * scale.
func decodeMXFP4Blocks(dst []float32, b []byte) {
	for ; len(b) >= 17; b, dst = b[17:], dst[32:] {
		d, low, high := convert.E8M0ToF32(b[0]), dst[:16], dst[16:32]
		for i, q := range b[1:17] {
			low[i], high[i] = d*fp4Values[q&15], d*fp4Values[q>>4]
		}
	}
}
