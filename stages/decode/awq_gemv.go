package decode

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// AWQGemvLayout says how a 4-bit AWQ module of version gemv or gemv_fast is stored.
type AWQGemvLayout struct {
	Fast      bool // version gemv_fast
	Group     int  // input features in a group
	Groups    int
	ZeroWords int // words that the zero points of an output feature take, filled up: there are 8 scales to each
}

// AWQGemvDequant makes the Op that turns such a module into floating-point weights, in F32, rounded once to the target.
//
// gemv: the inputs are the whole qweight I32 [N, K/8], eight codes a word along K, scales [N, 8Z] of dtype scales and qzeros I32 [N, Z],
// Z = ZeroWords; w = scale * (code - zero). gemv_fast: qweight I16 [N/4, K], interleaved as [awqFastRow] says, scales and qzeros [8Z, N] of
// dtype scales; w = scale * code + qzero, where qzero is -scale*zero as the writer rounded it. Destination: N rows of K elements of to
// (F32, F16 or BF16). Scales that are not finite and weights that to cannot hold are *stages.DataErrors.
func AWQGemvDequant(l AWQGemvLayout, scales, to stages.DType) (stages.Op, error) {
	c, err := floatsOf(scales, to)
	if err != nil {
		return nil, err
	}
	return &awqGemv{AWQGemvLayout: l, floats: c}, nil
}

type awqGemv struct {
	AWQGemvLayout
	floats
}

func (*awqGemv) Phase() stages.Phase { return stages.PhaseDecode }

func (op *awqGemv) String() string {
	version := "gemv"
	if op.Fast {
		version = "gemv_fast"
	}
	return fmt.Sprintf("dequantise awq %s 4-bit to %s", version, op.to)
}

func (op *awqGemv) Run(j *stages.Job) error {
	size := op.to.Bits() / 8
	n, k := j.Rows, j.RowBytes/size
	if k*size != j.RowBytes || k != op.Group*op.Groups || k%32 != 0 || op.Fast && (k%64 != 0 || n%4 != 0) {
		return fmt.Errorf("%s: %d rows of %d bytes do not hold %d groups of %d", op, n, j.RowBytes, op.Groups, op.Group)
	}
	scales := 8 * op.ZeroWords * n * op.scales.Bits() / 8
	zeros := 4 * op.ZeroWords * n
	if op.Fast {
		zeros = scales
	}
	if len(j.Src) != 3 {
		return fmt.Errorf("%s: %d inputs, want 3", op, len(j.Src))
	}
	for i, want := range []int{n * k / 2, scales, zeros} {
		if len(j.Src[i]) != want || op.Groups > 8*op.ZeroWords {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(j.Src[i]), want)
		}
	}
	floats := []int{dequantScales}
	if op.Fast {
		floats = append(floats, dequantZeros)
	}
	for _, i := range floats {
		if at := convert.FirstNonFinite(op.scales, j.Src[i]); at >= 0 {
			return convert.NonFinite(j.Inputs[i].Tensor, op.scales, at)
		}
	}
	return op.rows(j, k)
}

// rows decodes row by row.
func (op *awqGemv) rows(j *stages.Job, k int) error {
	codes, values := make([]uint8, k), make([]byte, 4*k)
	for n := range j.Rows {
		if op.Fast {
			awqFastRow(codes, j.Src[dequantWeight][n/4*2*k:], n%4)
		} else {
			awqGemvRow(codes, j.Src[dequantWeight][n*k/2:])
		}
		for g := range op.Groups {
			in, out := codes[g*op.Group:(g+1)*op.Group], values[4*g*op.Group:]
			if op.Fast {
				scaleAndAdd(out, in, op.float(j.Src[dequantScales], g*j.Rows+n), op.float(j.Src[dequantZeros], g*j.Rows+n))
				continue
			}
			word := binary.LittleEndian.Uint32(j.Src[dequantZeros][4*(n*op.ZeroWords+g/8):])
			product(out, in, op.float(j.Src[dequantScales], n*8*op.ZeroWords+g), int32(word>>(4*(g%8))&15))
		}
		over := convert.FirstNonFinite(safetensors.F32, values)
		if over < 0 {
			over = op.fromF32(j.Row(n), values)
		}
		if over >= 0 {
			return &stages.DataError{
				Tensor: j.Inputs[dequantScales].Tensor, Problem: fmt.Sprintf("the weight of output %d, input %d does not fit in %s", n, over, op.to),
				Expected: "finite weights", Found: fmt.Sprint(math.Float32frombits(binary.LittleEndian.Uint32(values[4*over:]))),
				Advice: "use --dtype bf16 or f32",
			}
		}
	}
	return nil
}

// float is element i of scales, or of zero points that lie as scales.
func (op *awqGemv) float(b []byte, i int) float32 {
	size := op.scales.Bits() / 8
	var v [4]byte
	op.toF32(v[:], b[i*size:(i+1)*size])
	return math.Float32frombits(binary.LittleEndian.Uint32(v[:]))
}

// awqGemvRow reads the codes of an output feature of version gemv, which lie one after the other.
func awqGemvRow(codes []uint8, row []byte) {
	for i, b := range row[:len(codes)/2] {
		codes[2*i], codes[2*i+1] = b&15, b>>4
	}
}

// awqFastRow reads the codes of one of four output features that share a row of version gemv_fast: i is which. Of every 64 words of 16 bits,
// those from 16i on are its own; nibble t of word 8h + c of these is the code of input feature 32h + 8t + c.
func awqFastRow(codes []uint8, row []byte, i int) {
	for k := 0; k < len(codes); k += 64 {
		for m := range 16 {
			w := binary.LittleEndian.Uint16(row[2*(k+16*i+m):])
			for t := range 4 {
				codes[k+32*(m/8)+8*t+m%8] = uint8(w >> (4 * t) & 15)
			}
		}
	}
}

// scaleAndAdd is scale * code + zero for codes of one group. The product is exact, so that the sum is rounded once.
func scaleAndAdd(dst []byte, codes []uint8, scale, zero float32) {
	for i, c := range codes {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(float32(scale*float32(c))+zero))
	}
}
