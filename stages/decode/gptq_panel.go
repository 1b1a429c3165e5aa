package decode

import (
	"encoding/binary"
	"math"
	"sync"
	"unsafe"
)

// The kernels of GPTQDequant decode some columns of some input features in one call, by multiplying: they compute what the generic
// code does, with the same two roundings. They find scales and zeros as F32, for a panel of columns at a time.

// panelWidth is the most columns of a panel.
const panelWidth = 256

// two23 is where the F32s are whole numbers: the zero points of a panel are 2^23 larger than they are, because the codes are, too.
const two23 = 1 << 23

// panel is the scales and zero points of some columns, [groups, width].
type panel struct {
	width         int
	scales, zeros []float32
}

var panelPool = sync.Pool{New: func() any { return new(panel) }}

// resize makes room for so many groups. The content is undefined.
func (p *panel) resize(groups, width int) {
	p.width = width
	if n := groups * width; cap(p.scales) < n {
		p.scales, p.zeros = make([]float32, n), make([]float32, n)
	} else {
		p.scales, p.zeros = p.scales[:n], p.zeros[:n]
	}
}

// panels decodes the columns for which there is a kernel, from the first on, and returns how many those are.
func (d *dequantiser) panels() (int, error) {
	vectors := d.vectors()
	if vectors == 0 || d.n < vectors || d.k == 0 {
		return 0, nil
	}
	p, ok := panelPool.Get().(*panel)
	if !ok {
		p = new(panel)
	}
	defer panelPool.Put(p)
	width := min(panelWidth, d.n/vectors*vectors)
	p.resize(d.op.Groups, width)
	d.offsets = make([]int32, d.k)
	for k, g := range d.groups {
		d.offsets[k] = g * int32(4*width)
	}
	c := 0
	for d.n-c >= vectors {
		n := min(width, (d.n-c)/vectors*vectors)
		if d.fillPanel(p, c, n) {
			d.decodePanel(p, c, n)
			c += n
			continue
		}
		// Something is wrong with a weight. The generic code finds the first one and says what.
		for end := c + n; c < end; {
			lanes := min(mostLanes, end-c)
			if err := d.columns(c, lanes); err != nil {
				return 0, err
			}
			c += lanes
		}
	}
	return c, nil
}

// fillPanel computes the scales and zero points of n columns from c on. It reports whether all of their weights are finite.
func (d *dequantiser) fillPanel(p *panel, c, n int) bool {
	size, most := d.op.scales.Bits()/8, float32(d.codes-1)
	for g := range d.op.Groups {
		scales, zeros := p.scales[g*p.width:][:n], p.zeros[g*p.width:][:n]
		at := (g*d.n + c) * size
		d.op.toF32(asBytes(scales), d.job.Src[dequantScales][at:at+n*size])
		if !d.zeroRow(zeros, g, c) {
			return false
		}
		for i, s := range scales {
			// The weights farthest from zero are those of the first and of the last code.
			z := zeros[i] - two23
			if largest := abs(s) * max(abs(z), abs(most-z)); !(largest < d.limit) {
				return false
			}
		}
	}
	return true
}

func abs(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

// zeroRow computes the zero points of group g from column c on. It returns false when the generic code has to decide about one.
func (d *dequantiser) zeroRow(zeros []float32, g, c int) bool {
	op := d.op
	if op.Symmetric {
		for i := range zeros {
			zeros[i] = two23 + float32(int(1)<<(op.Bits-1))
		}
		return true
	}
	per, ones := 32/op.Bits, uint32(math.MaxUint32)/uint32(d.codes-1)
	words := (d.n*op.Bits + 31) / 32
	row := d.job.Src[dequantZeros][4*g*words : 4*(g+1)*words]
	mask := uint32(d.codes - 1)
	for len(zeros) > 0 {
		w := binary.LittleEndian.Uint32(row[c/per*4:])
		n := min(per, len(zeros)) // c is a multiple of per
		bias := float32(two23 + op.ZeroBias)
		if op.ZeroBias != 0 && hasOnes(w, ones, op.Bits) {
			if !op.WrapZeros {
				return false
			}
			w, bias = w+ones, two23
		}
		for i := range n {
			zeros[i] = bias + float32(w&mask)
			w >>= op.Bits
		}
		zeros, c = zeros[n:], c+n
	}
	return true
}

// hasOnes reports whether a field of the word is all ones. ones has the lowest bit of every field.
func hasOnes(w, ones uint32, bits int) bool {
	for s := 1; s < bits; s *= 2 { // the lowest bit of a field becomes the AND of 2s bits from it on
		w &= w >> s
	}
	return w&ones != 0
}

func asBytes(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}
