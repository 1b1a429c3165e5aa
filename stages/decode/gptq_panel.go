package decode

import (
	"math"
	"unsafe"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/internal/nibbles"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// The kernels of GPTQDequant decode some columns of some input features in one call, by multiplying: they compute what the generic
// code does, with the same two roundings. They find scales and zeros as F32, for a panel of columns at a time.

const (
	// panelWidth is the most columns of a panel.
	panelWidth = 256
	// panelAlong is the same for one that is decoded along the packed rows.
	panelAlong = 1024
)

// two23 is where the F32s are whole numbers: the zero points of a panel are 2^23 larger than they are, because the codes are, too.
const two23 = 1 << 23

// panel is the scales and zero points of some columns, [groups, width], and the place of every input feature's group in it, in bytes.
type panel struct {
	width         int
	stream        bool // whole lines go past the caches
	along         bool // a call takes one block of the input features of all columns: it reads few long pieces of memory, and writes a line to each row
	scales, zeros []float32
	offsets       []int32
	words         []byte // codes packed along K that the source has packed along N: those of one call
}

// resize makes room for so many groups and input features. The content is undefined.
func (p *panel) resize(groups, width, features int) {
	p.width = width
	p.scales, p.zeros = sized(p.scales, groups*width), sized(p.zeros, groups*width)
	p.offsets = sized(p.offsets, features)
}

// panels decodes the columns for which there is a kernel, from the first on, and returns how many those are: whole groups of lanes, as
// the generic code takes them, so that the fault it finds first is the same everywhere.
func (d *dequantiser) panels() (int, error) {
	if d.n < lanes || !d.hasKernel() {
		return 0, nil
	}
	p, whole := &d.panel, d.n/lanes*lanes
	p.resize(d.op.Groups, min(d.panelShape(p), whole), d.k)
	for k, g := range d.groups {
		p.offsets[k] = g * int32(4*p.width)
	}
	for c := 0; c < whole; {
		n := min(p.width, whole-c)
		if d.fillPanel(p, c, n) {
			d.decodePanel(p, c, n)
		} else if err := d.generic(c, c+n); err != nil {
			// A weight may not fit, or a zero point is in doubt: the generic code decides and says where.
			return 0, err
		}
		c += n
	}
	return whole, nil
}

// panelShape decides how the panels of a Run are decoded, and returns the most columns of one. Only lines that are written as a whole may come
// each from another row: others would leave the cache before their second half comes. Codes of 4 bits have half as many packed rows to a call;
// they gain nothing.
func (d *dequantiser) panelShape(p *panel) int {
	j := d.job
	p.stream = cpu.Streams(j.Soon, j.Rows*j.RowBytes, j.Dst, j.Stride)
	p.along = p.stream && d.op.Bits == 8
	if p.along {
		return panelAlong
	}
	return panelWidth
}

// infiniteFrom is the magnitude from which on a weight is infinite in the target.
func infiniteFrom(to stages.DType) float32 {
	switch to { //nolint:exhaustive // only the targets
	case safetensors.F16:
		return 65520
	case safetensors.BF16:
		return math.Float32frombits(0x7F7F_8000)
	}
	return float32(math.Inf(1))
}

// fillPanel computes the scales and zero points of n columns from c on. It reports whether all of their weights are finite.
func (d *dequantiser) fillPanel(p *panel, c, n int) bool {
	size, most, limit := d.op.scales.Bits()/8, float32(int(1)<<d.op.Bits-1), infiniteFrom(d.op.to)
	for g := range d.op.Groups {
		scales, zeros := p.scales[g*p.width:][:n], p.zeros[g*p.width:][:n]
		at := (g*d.n + c) * size
		d.op.toF32(asBytes(scales), d.job.Src[dequantScales][at:at+n*size])
		if !d.panelZeros(zeros, g, c) {
			return false
		}
		for i, s := range scales {
			// The weights farthest from zero are those of the first and of the last code.
			z := zeros[i] - two23
			if largest := abs(s) * max(abs(z), abs(most-z)); !(largest < limit) {
				return false
			}
		}
	}
	return true
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// panelZeros computes the zero points of group g from column c on. It returns false when the generic code has to decide about one.
func (d *dequantiser) panelZeros(zeros []float32, g, c int) bool {
	op := d.op
	if op.Symmetric {
		for i := range zeros {
			zeros[i] = two23 + float32(int(1)<<(op.Bits-1))
		}
		return true
	}
	per, mask := 32/op.Bits, uint32(1)<<op.Bits-1
	row := d.zeroRow(g)
	for len(zeros) > 0 {
		w := row.word(c)
		n := min(per, len(zeros)) // c is a multiple of per
		if op.alongN {
			w = nibbles.Natural(w)
		}
		bias := float32(two23 + op.ZeroBias)
		if op.ZeroBias != 0 && row.full(c) {
			if !op.WrapZeros {
				return false
			}
			w, bias = w+row.ones(), two23
		}
		for i := range n {
			zeros[i] = bias + float32(w&mask)
			w >>= op.Bits
		}
		zeros, c = zeros[n:], c+n
	}
	return true
}

func asBytes(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}
