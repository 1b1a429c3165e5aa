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

	enoughE4M3 = 0x77 // 240, the least that leaves the factor at 1
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
// Input: one, scales F8_E4M3. Found: the largest, as its byte. Enough is one with which the factor is 1, as it is with all larger ones.
func NVFP4Peak() stages.Op { return nvfp4Peak{} }

type nvfp4Peak struct{}

func (nvfp4Peak) Phase() stages.Phase { return stages.PhaseRepack }
func (nvfp4Peak) String() string      { return "find the largest NVFP4 scale" }
func (nvfp4Peak) Enough() uint64      { return enoughE4M3 }

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
	largest, done := largestE4M3(b)
	if largest >= nanE4M3 {
		return peakBytes(b, peak)
	}
	if peak, bad = peakBytes(b[done:], max(peak, largest)); bad >= 0 {
		bad += done
	}
	return peak, bad
}

// peakBytes is peakE4M3. It is the reference.
func peakBytes(b []byte, peak byte) (_ byte, bad int) {
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
func (f *nvfp4Factor) check(op stages.Op, j *stages.Job, own int) error {
	joint := f.act == safetensors.BF16 && !f.scanned
	if n := len(j.Src); joint && n <= own || !joint && n != own {
		return fmt.Errorf("%s: %d inputs", op, n)
	}
	return nil
}

// peak is the largest of the scales that the factor serves; 0 without one. own is how many inputs are the Op's own.
func (f *nvfp4Factor) peak(op stages.Op, j *stages.Job, own int) (byte, error) {
	if f.scanned {
		if j.Scanned >= nanE4M3 {
			return 0, fmt.Errorf("%s: a scan found %d, which is no F8_E4M3", op, j.Scanned)
		}
		return byte(j.Scanned), nil
	}
	var peak byte
	for i := own; i < len(j.Src); i++ {
		var at int
		if peak, at = peakE4M3(j.Src[i], peak); at >= 0 {
			return 0, badScale(j, i, at)
		}
	}
	return peak, nil
}

// shift is the logarithm of the factor.
func (f *nvfp4Factor) shift(op stages.Op, j *stages.Job) (int, error) {
	peak, err := f.peak(op, j, 1)
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
	if err := op.check(op, j, 1); err != nil {
		return err
	}
	if n := j.Rows * j.RowBytes; len(j.Src[0]) != n {
		return fmt.Errorf("%s: input 0 has %d bytes, want %d", op, len(j.Src[0]), n)
	}
	m, most, err := op.maker(j, 1)
	if err != nil {
		return err
	}
	return fp4Scales(j, func(first int, strip, tmp []byte) ([]byte, error) {
		own, at := m.change(tmp, strip)
		return tmp, wantScales(j, 0, first, own, most, at)
	})
}

// maker makes what changes scales, with the largest that there may be. inputs are the Op's own.
func (op *nvfp4MarlinScales) maker(j *stages.Job, inputs int) (m *toS0E5M3, most byte, err error) {
	peak, err := op.peak(op, j, inputs)
	if err != nil {
		return nil, 0, err
	}
	m = newS0E5M3(nvfp4Shift(peak))
	if op.act == safetensors.F16 || peak >= enoughE4M3 {
		return m, nanE4M3 - 1, nil // the factor is 1, whatever is larger
	}
	return m, peak, nil
}

// wantScales is the error for scales of an input, from first on, of which own is the largest, at most most, or that at is bad; nil for neither.
func wantScales(j *stages.Job, input, first int, own, most byte, at int) error {
	switch {
	case at >= 0:
		return badScale(j, input, first+at)
	case own > most:
		return &stages.DataError{
			Tensor: j.Inputs[input].Tensor, Problem: "has a larger scale than when it was looked at before: the file changed during the load",
			Expected: fmt.Sprintf("at most %g", convert.E4M3ToF32(most)), Found: fmt.Sprint(convert.E4M3ToF32(own)),
			Advice: "leave the checkpoint alone while it is read",
		}
	}
	return nil
}

// settle looks at several members at once: Padded makes their tiles one by one.
func (op *nvfp4MarlinScales) settle(j *stages.Job, inputs int) (stages.Op, error) {
	if err := op.check(op, j, inputs); err != nil {
		return nil, err
	}
	m, most, err := op.maker(j, inputs)
	if err != nil {
		return nil, err
	}
	for i := range inputs {
		own, at := peakE4M3(j.Src[i], 0)
		if err := wantScales(j, i, 0, own, most, at); err != nil {
			return nil, err
		}
	}
	return &nvfp4MarlinTiles{nvfp4MarlinScales: op, made: m}, nil
}

// nvfp4MarlinTiles makes tiles of scales that were looked at. Only the first input is of the tiles.
type nvfp4MarlinTiles struct {
	*nvfp4MarlinScales

	made *toS0E5M3
}

func (op *nvfp4MarlinTiles) Run(j *stages.Job) error {
	return fp4Scales(j, func(_ int, strip, tmp []byte) ([]byte, error) {
		op.made.change(tmp, strip)
		return tmp, nil
	})
}

// toS0E5M3 changes scales to their bytes.
type toS0E5M3 struct {
	table [256]byte
	add   byte // to normal numbers
}

func newS0E5M3(shift int) *toS0E5M3 {
	m := &toS0E5M3{add: byte(biasS0E5M3 + 8*shift)}
	for c := range byte(nanE4M3) {
		if b := s0e5m3(c, shift); b >= leastS0E5M3 {
			m.table[c] = b
		}
	}
	return m
}

// change makes the bytes of the scales in src, which are in range for the shift, and finds the largest, as peakE4M3 does. What it makes where
// a scale is no positive number is undefined.
func (m *toS0E5M3) change(dst, src []byte) (peak byte, bad int) {
	largest, done := m.changeLines(dst, src)
	if largest >= nanE4M3 {
		return peakBytes(src, 0)
	}
	m.changeBytes(dst[done:], src[done:])
	if peak, bad = peakBytes(src[done:], largest); bad >= 0 {
		bad += done
	}
	return peak, bad
}

// changeBytes makes the bytes of scales. It is the reference.
func (m *toS0E5M3) changeBytes(dst, src []byte) {
	dst = dst[:len(src)]
	for i, c := range src {
		dst[i] = m.table[c]
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
	if err := op.check(op, j, 1); err != nil {
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
