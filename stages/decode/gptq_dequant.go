package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/nibbles"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// GPTQLayout says how the codes of a GPTQ module are stored.
type GPTQLayout struct {
	Bits   int // 2, 3, 4 or 8; planar also 5, 6 and 7
	Planar bool
	// ZeroBias is what is added to a stored zero point: 1 in checkpoint_format gptq, 0 in gptq_v2 and gptq_p.
	ZeroBias int
	// WrapZeros makes zero points of all ones mean what GPTQModel since 0.9 means by them: one whole-word add, which carries into the
	// next field, and with 3 bits, which do not fill words, 0. Without it such a field is refused.
	WrapZeros bool
	// Symmetric modules ignore the stored zero points: each is 2^(Bits-1).
	Symmetric bool
	// ActOrder takes the group of every input feature from g_idx; otherwise it is k/Group.
	ActOrder bool
	Group    int // input features in a group
	Groups   int
}

// GPTQDequant makes the Op that turns a GPTQ module into floating-point weights: w = scale * (code - zero), in F32, rounded once.
//
// Inputs: the whole qweight I32 [K*bits/32, N], scales [G, N] of dtype scales, qzeros I32 [G, N*bits/32], and with act-order g_idx I32
// [K]. Destination: N rows of K elements of to (F32, F16 or BF16). A zero point that cannot be represented, a group out of range, scales
// that are not finite and weights that to cannot hold are *stages.DataErrors.
func GPTQDequant(l GPTQLayout, scales, to stages.DType) (stages.Op, error) {
	c, err := floatsOf(scales, to)
	if err != nil {
		return nil, err
	}
	switch l.Bits {
	case 2, 3, 4, 8:
	case 5, 6, 7:
		if !l.Planar {
			return nil, fmt.Errorf("decode: gptq has 2, 3, 4 or 8 bits, not %d", l.Bits)
		}
	default:
		return nil, fmt.Errorf("decode: gptq has 2 to 8 bits, not %d", l.Bits)
	}
	return &gptqDequant{GPTQLayout: l, floats: c}, nil
}

// floats are the dtypes of an Op that takes scales to F32, in which weights are computed, and those to their dtype.
type floats struct {
	scales, to     stages.DType
	toF32, fromF32 convert.Kernel
}

func floatsOf(scales, to stages.DType) (floats, error) {
	toF32, ok := convert.Func(scales, safetensors.F32)
	fromF32, ok2 := convert.Func(safetensors.F32, to)
	if !ok || !ok2 {
		return floats{}, fmt.Errorf("%w: %s scales to %s weights", ErrNoCast, scales, to)
	}
	return floats{scales: scales, to: to, toF32: toF32, fromF32: fromF32}, nil
}

type gptqDequant struct {
	GPTQLayout
	floats

	alongN bool // codes and zero points are packed along N, [nibbles.EvensFirst]: see AWQDequant
}

func (*gptqDequant) Phase() stages.Phase { return stages.PhaseDecode }

func (op *gptqDequant) String() string {
	format := "gptq"
	if op.alongN {
		format = "awq"
	}
	return fmt.Sprintf("dequantise %s %d-bit to %s", format, op.Bits, op.to)
}

// The inputs of the Op.
const (
	dequantWeight = iota
	dequantScales
	dequantZeros
	dequantOrder
)

const (
	// lanes is how many columns are decoded together: a cache line of a packed row.
	lanes = 16
	// chunk is how many weights of a column are decoded together: their codes and values stay in the first-level cache.
	chunk = 1024
)

func (op *gptqDequant) Run(j *stages.Job) error {
	n, k := j.Rows, j.RowBytes/(op.to.Bits()/8)
	want := []int{k / 32 * op.Bits * 4 * n, op.Groups * n * op.scales.Bits() / 8, op.Groups * ((n*op.Bits + 31) / 32) * 4}
	if op.ActOrder {
		want = append(want, 4*k)
	}
	if len(j.Src) != len(want) {
		return fmt.Errorf("%s: %d inputs, want %d", op, len(j.Src), len(want))
	}
	if n <= 0 || k <= 0 || k%32 != 0 || k*op.to.Bits()/8 != j.RowBytes {
		return fmt.Errorf("%s: %d rows of %d bytes, want rows of whole blocks of 32 weights", op, n, j.RowBytes)
	}
	if op.alongN && n%8 != 0 {
		return fmt.Errorf("%s: %d output features are no whole words", op, n)
	}
	if op.Planar && n%32 != 0 {
		return fmt.Errorf("%s: %d output features are no whole blocks of 32", op, n)
	}
	for i, w := range want {
		if len(j.Src[i]) != w {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(j.Src[i]), w)
		}
	}
	if at := convert.FirstNonFinite(op.scales, j.Src[dequantScales]); at >= 0 {
		return convert.NonFinite(j.Inputs[dequantScales].Tensor, op.scales, at)
	}
	d := borrowDequantiser(op, j, n, k)
	defer d.release()
	if err := d.prepare(); err != nil {
		return err
	}
	done, err := d.panels()
	if err != nil {
		return err
	}
	return d.generic(done, n)
}

// generic decodes the columns from c to end, c a multiple of lanes. It is the reference for the kernels, and finds the first fault.
func (d *dequantiser) generic(c, end int) error {
	d.scales, d.zeros = sized(d.scales, lanes*d.op.Groups), sized(d.zeros, lanes*d.op.Groups)
	d.packed = sized(d.packed, lanes*chunk/8*d.op.Bits+8)
	for ; c < end; c += lanes {
		if err := d.columns(c, min(lanes, end-c)); err != nil {
			return err
		}
	}
	return nil
}

// dequantiser is the state of one Run. Workers reuse its memory from module to module.
type dequantiser struct {
	op   *gptqDequant
	job  *stages.Job
	n, k int

	groups []int32 // of every input feature
	panel  panel   // of the kernels

	// The rest is the generic code's. scales and zeros are those of the columns at hand, lane by lane, group by group.
	scales []float32
	zeros  []int32
	// packed holds the words of a chunk, lane by lane. A read of 8 bytes may reach behind the last one.
	packed []byte
	codes  [chunk]uint8
	values [4 * chunk]byte // F32, before they are rounded
	large  bool            // a weight of the columns at hand may not even fit in F32
}

var dequantisers = sync.Pool{New: func() any { return new(dequantiser) }}

// borrowDequantiser returns a dequantiser for one Run, to be given back with release.
func borrowDequantiser(op *gptqDequant, j *stages.Job, n, k int) *dequantiser {
	d, ok := dequantisers.Get().(*dequantiser)
	if !ok {
		d = new(dequantiser)
	}
	d.op, d.job, d.n, d.k = op, j, n, k
	return d
}

func (d *dequantiser) release() {
	d.op, d.job = nil, nil
	dequantisers.Put(d)
}

// prepare finds the group of every input feature.
func (d *dequantiser) prepare() error {
	d.groups = sized(d.groups, d.k)
	for i := range d.groups {
		g := i / d.op.Group
		if d.op.ActOrder {
			g = int(int32(binary.LittleEndian.Uint32(d.job.Src[dequantOrder][4*i:])))
		}
		if g < 0 || g >= d.op.Groups {
			return outOfRange(d.job, len(d.job.Src)-1, i, int32(g), d.op.Groups)
		}
		d.groups[i] = int32(g)
	}
	return nil
}

// sized is s with n elements, in the same memory if that is large enough. The content is undefined.
func sized[E any](s []E, n int) []E {
	if cap(s) < n {
		return make([]E, n)
	}
	return s[:n]
}

// columns decodes lanes columns from c on.
func (d *dequantiser) columns(c, lanes int) error {
	if err := d.params(c, lanes); err != nil {
		return err
	}
	for k := 0; k < d.k; k += chunk {
		m := min(chunk, d.k-k)
		size := m / 8 * d.op.Bits
		d.transpose(k/32*d.op.Bits, size/4, c, lanes)
		for lane := range lanes {
			unpack(d.codes[:m], d.packed[lane*size:], d.op.Bits, planesOf(d.op.Bits, d.op.Planar))
			d.multiply(k, m, lane)
			if err := d.round(k, m, c+lane); err != nil {
				return err
			}
		}
	}
	return nil
}

// params collects the scales and zero points of the columns from c on.
func (d *dequantiser) params(c, lanes int) error {
	op, size := d.op, d.op.scales.Bits()/8
	d.large = false
	for g := range op.Groups {
		at := (g*d.n + c) * size
		row := d.values[:4*lanes] // only here for want of other memory
		op.toF32(row, d.job.Src[dequantScales][at:at+lanes*size])
		for lane := range lanes {
			s := math.Float32frombits(binary.LittleEndian.Uint32(row[4*lane:]))
			d.scales[lane*op.Groups+g] = s
			d.large = d.large || s > math.MaxFloat32/256 || s < -math.MaxFloat32/256
			z, err := d.zero(g, c+lane)
			if err != nil {
				return err
			}
			d.zeros[lane*op.Groups+g] = int32(z)
		}
	}
	return nil
}

// transpose copies the words of some columns, from row first on, so that those of one column lie together.
func (d *dequantiser) transpose(first, rows, c, lanes int) {
	if d.op.alongN {
		d.turn(d.packed, 1, rows, first, rows, c, lanes)
		return
	}
	for r := range rows {
		src := d.job.Src[dequantWeight][4*((first+r)*d.n+c):][:4*lanes]
		for lane := range lanes {
			binary.LittleEndian.PutUint32(d.packed[4*(lane*rows+r):], binary.LittleEndian.Uint32(src[4*lane:]))
		}
	}
}

// unpack reads codes, a multiple of 32 of them, from words that lie together: every 32 codes take bits words, plane by plane from the low
// bits up, and a plane of width w is a stream of w bits a code. Codes that are no planes are one plane. 8 bytes can be read at the end of b.
func unpack(codes []uint8, b []byte, bits int, planes []int) {
	clear(codes)
	for ; len(codes) >= 32; codes, b = codes[32:], b[4*bits:] {
		off := 0
		for _, width := range planes {
			step, mask := uint(width)&7, uint64(1)<<width-1 // a whole byte needs no step of its own
			for i := 0; i < 32; i += 8 {
				v, eight := binary.LittleEndian.Uint64(b[4*off+i/8*width:]), uint64(0)
				if width == 8 {
					eight = v
				} else {
					for at := uint(0); at < 64; at += 8 {
						eight |= v & mask << at
						v >>= step
					}
				}
				binary.LittleEndian.PutUint64(codes[i:], binary.LittleEndian.Uint64(codes[i:])|eight<<off)
			}
			off += width // a plane of width w also takes w words
		}
	}
}

// multiply computes the weights of m codes from input feature k on.
func (d *dequantiser) multiply(k, m, lane int) {
	n := d.op.Groups
	scales, zeros, groups := d.scales[lane*n:(lane+1)*n], d.zeros[lane*n:(lane+1)*n], d.groups[k:k+m]
	if d.op.ActOrder {
		for i, g := range groups {
			w := scales[g] * float32(int32(d.codes[i])-zeros[g])
			binary.LittleEndian.PutUint32(d.values[4*i:], math.Float32bits(w))
		}
		return
	}
	for i := 0; i < m; {
		g := groups[i]
		end := min(m, (int(g)+1)*d.op.Group-k)
		product(d.values[4*i:4*end], d.codes[i:end], scales[g], zeros[g])
		i = end
	}
}

// product is scale * (code - zero) for codes of one group.
func product(dst []byte, codes []uint8, scale float32, zero int32) {
	for i, c := range codes {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(scale*float32(int32(c)-zero)))
	}
}

// round stores m weights of row n from column k on.
func (d *dequantiser) round(k, m, n int) error {
	size := d.op.to.Bits() / 8
	over := -1
	if d.large {
		over = convert.FirstNonFinite(safetensors.F32, d.values[:4*m])
	}
	if over < 0 {
		over = d.op.fromF32(d.job.Row(n)[k*size:(k+m)*size], d.values[:4*m])
	}
	if over < 0 {
		return nil
	}
	g := int(d.groups[k+over])
	lane := n % lanes
	scale, zero := d.scales[lane*d.op.Groups+g], d.zeros[lane*d.op.Groups+g]
	return &stages.DataError{
		Tensor: d.job.Inputs[dequantScales].Tensor, Problem: fmt.Sprintf("the weight of output %d, input %d does not fit in %s", n, k+over, d.op.to),
		Expected: "finite weights", Found: fmt.Sprintf("%g times %d", scale, int32(d.codes[over])-zero), Advice: "use --dtype bf16 or f32",
	}
}

// zero is the zero point of group g, column n.
func (d *dequantiser) zero(g, n int) (int, error) {
	op := d.op
	if op.Symmetric {
		return 1 << (op.Bits - 1), nil
	}
	row := d.zeroRow(g)
	switch {
	case op.alongN:
		return row.field(n&^7 | int(nibbles.FieldOf[n%8])), nil
	case op.ZeroBias == 0:
		return row.field(n), nil
	case !row.full(n):
		return row.field(n) + op.ZeroBias, nil
	case op.WrapZeros && 32%op.Bits == 0:
		return row.wrapped(n), nil
	case op.WrapZeros:
		return 0, nil // such fields are added to one by one: all ones is -1
	}
	return 0, fullField(d.job.Inputs[dequantZeros].Tensor, g, n, op.Bits)
}

// zeroRow is the stored zero points of group g.
func (d *dequantiser) zeroRow(g int) zeroRow {
	words := (d.n*d.op.Bits + 31) / 32
	return zeroRow{b: d.job.Src[dequantZeros][4*g*words : 4*(g+1)*words], bits: d.op.Bits, planes: planesOf(d.op.Bits, d.op.Planar)}
}
