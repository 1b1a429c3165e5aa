package repack

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// The kernels read a scale of NVFP4 as S0E5M3: five bits of exponent, three of fraction, no sign: the upper bits of scale * factor * 2^7 as a
// half. factor is a power of two. In F16 it is 1; in BF16, where the kernels want the first bit of every byte to be set, it is as large as
// the largest scale allows, of all tensors that one factor serves. Scales below 2 after that are 0. What factor and the kernels' conversion
// of the codes put in goes out again by the scale of the tensor. This is the form of vLLM 0.33; earlier ones had none of the factor.
// Source: LAYOUTS C4.

const (
	nanE4M3     = 0x7F // the least byte that is no positive number
	zeroE4M3    = 0x80 // -0, which is one all the same
	normalE4M3  = 0x08 // the least normal number
	biasS0E5M3  = 0x78 // what a normal number grows by, and by 8 for each power of two
	leastS0E5M3 = 0x80 // the byte of 2
)

// s0e5m3 is the byte of the scale c, a positive F8_E4M3, times 2^shift. Source: LAYOUTS C4.3.
func s0e5m3(c byte, shift int) byte {
	switch {
	case c == 0:
		return 0
	case c >= normalE4M3:
		return byte(int(c) + biasS0E5M3 + 8*shift)
	}
	top := bits.Len8(c) - 1 // c units of 2^-9, times 2^7, are a normal half
	return byte((15-2+shift+top)<<3) | c<<(3-top)&7
}

// nvfp4Shift is the logarithm of the factor when peak is the largest scale, a positive F8_E4M3: that of the largest power of two which keeps
// it below 448; 0 when all scales are 0.
func nvfp4Shift(peak byte) int {
	if peak == 0 {
		return 0
	}
	return max(0, math.Ilogb(float64(448/convert.E4M3ToF32(peak))))
}

// NVFP4Peak makes the Op of a scan: it finds the largest of the scales of NVFP4 modules. A scale that is negative or no number is a
// *stages.DataError.
//
// Input: one, scales F8_E4M3. Found: the largest, as its byte.
func NVFP4Peak() stages.Op { return nvfp4Peak{} }

type nvfp4Peak struct{}

func (nvfp4Peak) Phase() stages.Phase { return stages.PhaseRepack }
func (nvfp4Peak) String() string      { return "find the largest NVFP4 scale" }

func (op nvfp4Peak) Run(j *stages.Job) error {
	if len(j.Src) != 1 {
		return fmt.Errorf("%s: %d inputs, want 1", op, len(j.Src))
	}
	peak, at := peakE4M3(j.Src[0], 0)
	if at >= 0 {
		return badScale(j, 0, at)
	}
	j.Found = uint64(peak)
	return nil
}

// badScale is the error for scale at of an input.
func badScale(j *stages.Job, input, at int) error {
	return &stages.DataError{
		Tensor: j.Inputs[input].Tensor, Problem: fmt.Sprintf("element %d is no scale that the Marlin kernels can hold", at),
		Expected: "positive numbers", Found: fmt.Sprint(convert.E4M3ToF32(j.Src[input][at])),
		Advice: "use --layout dequant or raw; a scale that is no number means that the checkpoint is damaged",
	}
}

// peakE4M3 is the largest byte of b or peak, whichever is larger, and the place of the first that is negative or no number; -1 for none.
func peakE4M3(b []byte, peak byte) (_ byte, bad int) {
	const lanes, tops = 0x0101_0101_0101_0101, 0x8080_8080_8080_8080
	for i := 0; i < len(b); {
		// Whatever is larger than peak sets the first bit of its sum, or has it.
		over := uint64(nanE4M3-peak) * lanes
		for i+16 <= len(b) {
			x, y := binary.LittleEndian.Uint64(b[i:]), binary.LittleEndian.Uint64(b[i+8:])
			if (x|y|(x+over)|(y+over))&tops != 0 {
				break
			}
			i += 16
		}
		for end := min(i+16, len(b)); i < end; i++ {
			switch c := b[i]; {
			case c == zeroE4M3:
			case c >= nanE4M3:
				return peak, i
			default:
				peak = max(peak, c)
			}
		}
	}
	return peak, -1
}

// nvfp4Factor is how an Op gets the factor of BF16.
type nvfp4Factor struct {
	act     stages.DType // F16 or BF16, what the kernels compute in
	scanned bool         // BF16: the largest scale is what a scan found; else it is that of the inputs from the second on
}

func nvfp4FactorOf(act stages.DType, scanned bool) (nvfp4Factor, error) {
	return nvfp4Factor{act: act, scanned: scanned && act == safetensors.BF16}, checkScales(act)
}

// check wants as many inputs as the Op has: more than its own only where those say what the factor is.
func (f *nvfp4Factor) check(op stages.Op, j *stages.Job) error {
	joint := f.act == safetensors.BF16 && !f.scanned
	if n := len(j.Src); joint && n < 2 || !joint && n != 1 {
		return fmt.Errorf("%s: %d inputs", op, n)
	}
	return nil
}

// peak is the largest of the scales that the factor serves.
func (f *nvfp4Factor) peak(op stages.Op, j *stages.Job) (byte, error) {
	if f.scanned {
		if j.Scanned >= nanE4M3 {
			return 0, fmt.Errorf("%s: a scan found %d, which is no F8_E4M3", op, j.Scanned)
		}
		return byte(j.Scanned), nil
	}
	var peak byte
	for i := 1; i < len(j.Src); i++ {
		var at int
		if peak, at = peakE4M3(j.Src[i], peak); at >= 0 {
			return 0, badScale(j, i, at)
		}
	}
	return peak, nil
}

// shift is the logarithm of the factor.
func (f *nvfp4Factor) shift(op stages.Op, j *stages.Job) (int, error) {
	if f.act == safetensors.F16 {
		return 0, nil
	}
	peak, err := f.peak(op, j)
	return nvfp4Shift(peak), err
}

// NVFP4MarlinScales makes the Op that makes the S0E5M3 scales of one module, transposes them and permutes every row, for kernels that compute
// in act (F16 or BF16).
//
// Inputs: the whole scales F8_E4M3 [N, G]; for BF16 also the scales of all modules that have one factor, these included, of any sizes,
// unless a scan has found the largest of them (scanned): Job.Scanned is its byte then. Destination: G rows of N bytes, N a multiple of 64. A
// scale that is negative or no number is a *stages.DataError, and so is one that is larger than the scan found: the file has changed.
func NVFP4MarlinScales(act stages.DType, scanned bool) (stages.Op, error) {
	f, err := nvfp4FactorOf(act, scanned)
	if err != nil {
		return nil, err
	}
	return &nvfp4MarlinScales{f}, nil
}

type nvfp4MarlinScales struct{ nvfp4Factor }

func (*nvfp4MarlinScales) Phase() stages.Phase { return stages.PhaseRepack }

func (op *nvfp4MarlinScales) String() string {
	return fmt.Sprintf("transpose and permute NVFP4 scales for %s", op.act)
}

func (op *nvfp4MarlinScales) Run(j *stages.Job) error {
	if j.RowBytes%tileN != 0 {
		return fmt.Errorf("%s: %d columns are no whole blocks of %d", op, j.RowBytes, tileN)
	}
	if err := op.check(op, j); err != nil {
		return err
	}
	if n := j.Rows * j.RowBytes; len(j.Src[0]) != n {
		return fmt.Errorf("%s: input 0 has %d bytes, want %d", op, len(j.Src[0]), n)
	}
	own, at := peakE4M3(j.Src[0], 0)
	if at >= 0 {
		return badScale(j, 0, at)
	}
	shift := 0
	if op.act == safetensors.BF16 {
		peak, err := op.peak(op, j)
		if err != nil {
			return err
		}
		if own > peak {
			return &stages.DataError{
				Tensor: j.Inputs[0].Tensor, Problem: "has a larger scale than when it was looked at before: the file changed during the load",
				Expected: fmt.Sprintf("at most %g", convert.E4M3ToF32(peak)), Found: fmt.Sprint(convert.E4M3ToF32(own)),
				Advice: "leave the checkpoint alone while it is read",
			}
		}
		shift = nvfp4Shift(peak)
	}
	m := newS0E5M3(shift)
	fp4Scales(j, m.change)
	return nil
}

// toS0E5M3 changes scales to their bytes.
type toS0E5M3 struct {
	table [256]byte
	add   uint64 // to normal numbers, in every lane
}

func newS0E5M3(shift int) *toS0E5M3 {
	m := &toS0E5M3{add: uint64(byte(biasS0E5M3+8*shift)) * 0x0101_0101_0101_0101}
	for c := range byte(nanE4M3) {
		if b := s0e5m3(c, shift); b >= leastS0E5M3 {
			m.table[c] = b
		}
	}
	return m
}

// change handles scales that are in range for the shift. Eight at a time are normal numbers most of the time.
func (m *toS0E5M3) change(b []byte) {
	const tops, normal = 0x8080_8080_8080_8080, normalE4M3 * 0x0101_0101_0101_0101
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		if x&tops != 0 || ((x|tops)-normal)&tops != tops { // -0, or below the normal numbers
			for k, c := range b[i : i+8] {
				b[i+k] = m.table[c]
			}
			continue
		}
		binary.LittleEndian.PutUint64(b[i:], x+m.add)
	}
	for k, c := range b[i:] {
		b[i+k] = m.table[c]
	}
}

// NVFP4MarlinGlobal makes the Op that makes the scale of a tensor what the kernels of act (F16 or BF16) want, with the scales that
// NVFP4MarlinScales makes: times 2^7 or 2^119, over the factor.
//
// Inputs: the scale, one F32: a multiplier, or with divisor what the weights are divided by; the others, and scanned, as those of
// NVFP4MarlinScales. Destination: one F32. A scale that is not finite, before or after, is a *stages.DataError.
func NVFP4MarlinGlobal(act stages.DType, divisor, scanned bool) (stages.Op, error) {
	f, err := nvfp4FactorOf(act, scanned)
	if err != nil {
		return nil, err
	}
	return &nvfp4MarlinGlobal{nvfp4Factor: f, divisor: divisor}, nil
}

type nvfp4MarlinGlobal struct {
	nvfp4Factor

	divisor bool
}

func (*nvfp4MarlinGlobal) Phase() stages.Phase { return stages.PhaseRepack }

func (op *nvfp4MarlinGlobal) String() string {
	kind := "multiplier"
	if op.divisor {
		kind = "divisor"
	}
	return fmt.Sprintf("NVFP4 %s for %s", kind, op.act)
}

func (op *nvfp4MarlinGlobal) Run(j *stages.Job) error {
	if err := op.check(op, j); err != nil {
		return err
	}
	if len(j.Src[0]) != 4 || j.Rows != 1 || j.RowBytes != 4 {
		return fmt.Errorf("%s: %d bytes to %d rows of %d, want one F32", op, len(j.Src[0]), j.Rows, j.RowBytes)
	}
	if at := convert.FirstNonFinite(safetensors.F32, j.Src[0]); at >= 0 {
		return convert.NonFinite(j.Inputs[0].Tensor, safetensors.F32, at)
	}
	shift, err := op.shift(op, j)
	if err != nil {
		return err
	}
	global := math.Float32frombits(binary.LittleEndian.Uint32(j.Src[0]))
	made := global
	if op.divisor {
		made = 1 / global
	}
	made *= op.bias()
	if made-made != 0 { //nolint:gocritic // infinite, or no number
		return &stages.DataError{
			Tensor: j.Inputs[0].Tensor, Problem: fmt.Sprintf("is no %s that the Marlin kernels can hold: it times %g does not fit in F32", op, op.bias()),
			Expected: "a scale that stays finite", Found: fmt.Sprint(global), Advice: "use --layout dequant or raw",
		}
	}
	binary.LittleEndian.PutUint32(j.Dst, math.Float32bits(made/float32(math.Ldexp(1, shift))))
	return nil
}

// bias is what the kernels' conversion of codes and scales leaves out: 2^14 or 2^126 of the codes, less 2^7 that the scales have too much.
func (op *nvfp4MarlinGlobal) bias() float32 {
	if op.act == safetensors.F16 {
		return 0x1p7
	}
	return 0x1p119
}
