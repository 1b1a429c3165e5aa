package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/nibbles"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// CheckShape makes the Op that compares a weight_shape with what the shapes of the other tensors say: [N, K], N one of rows.
//
// Input: one, weight_shape: I64 or I32 [2]. No destination.
func CheckShape(rows []int64, k int64) stages.Op { return &checkShape{rows: rows, k: k} }

type checkShape struct {
	rows []int64
	k    int64
}

func (*checkShape) Phase() stages.Phase { return stages.PhaseDecode }
func (op *checkShape) String() string {
	return fmt.Sprintf("check weight_shape %d x %d", op.rows, op.k)
}

func (op *checkShape) Run(j *stages.Job) error {
	if err := wantInputs(op, j, 1); err != nil {
		return err
	}
	var found [2]int64
	b := j.Src[0]
	for i := range found {
		switch len(b) {
		case 16:
			found[i] = int64(binary.LittleEndian.Uint64(b[8*i:]))
		case 8:
			found[i] = int64(int32(binary.LittleEndian.Uint32(b[4*i:])))
		default:
			return fmt.Errorf("%s: %d bytes are no two numbers", op, len(b))
		}
	}
	if slices.Contains(op.rows, found[0]) && found[1] == op.k {
		return nil
	}
	return &stages.DataError{
		Tensor: j.Inputs[0].Tensor, Problem: "contradicts the shape of weight_packed", Expected: fmt.Sprintf("[%d, %d]", op.rows[0], op.k),
		Found: fmt.Sprintf("[%d, %d]", found[0], found[1]), Advice: "input features that do not fill whole words are not supported; else get it again",
	}
}

// RowsLayout says how codes are stored whose rows are those of the weight: packed along K, low bits first, without gaps.
type RowsLayout struct {
	Bits int // 4 or 8
	// Symmetric codes have the zero point 2^(Bits-1); otherwise there is a tensor of them.
	Symmetric bool
	// ActOrder takes the group of every input feature from a g_idx; otherwise it is k/Group.
	ActOrder bool
	Group    int // input features in a group
	Groups   int
	// Signed codes are I8: 8 bits, symmetric, stored as what they are.
	Signed bool
	// OneScale is a scale for the whole module: one group, symmetric.
	OneScale bool
}

// check says what is wrong with a layout.
func (l RowsLayout) check() error {
	switch {
	case l.Bits != 4 && l.Bits != 8:
		return fmt.Errorf("decode: rows of codes have 4 or 8 bits, not %d", l.Bits)
	case l.Group <= 0 || l.Groups <= 0:
		return fmt.Errorf("decode: %d groups of %d", l.Groups, l.Group)
	case l.Signed && (l.Bits != 8 || !l.Symmetric):
		return fmt.Errorf("decode: signed codes have 8 bits and no zero points, not %d", l.Bits)
	case l.OneScale && (l.Groups != 1 || !l.Symmetric):
		return fmt.Errorf("decode: one scale for a module is for one group without zero points, not %d", l.Groups)
	}
	return nil
}

// RowsDequant makes the Op that turns integer codes of compressed-tensors into floating-point weights: w = scale * (code - zero), in F32,
// rounded once. Codes and zero points are stored 2^(Bits-1) larger than they are, which cancels, but for signed ones.
//
// Inputs: the whole weight_packed I32 [N, K*bits/32] (signed: weight I8 [N, K]), weight_scale [N, G] of dtype scales (or one), unless symmetric weight_zero_point I32
// [N*bits/32, G] (packed along N), and with act-order weight_g_idx I32 [K]. Destination: N rows of K elements of to (F32, F16 or BF16). A
// group out of range, scales that are not finite and weights that to cannot hold are *stages.DataErrors.
func RowsDequant(l RowsLayout, scales, to stages.DType) (stages.Op, error) {
	c, err := floatsOf(scales, to)
	if err != nil {
		return nil, err
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	return &rowsDequant{RowsLayout: l, floats: c}, nil
}

type rowsDequant struct {
	RowsLayout
	floats
}

func (*rowsDequant) Phase() stages.Phase { return stages.PhaseDecode }

func (op *rowsDequant) String() string {
	return fmt.Sprintf("dequantise rows of %d-bit codes to %s", op.Bits, op.to)
}

// The first inputs of the Op; zero points and g_idx follow where there are any.
const (
	rowsCodes = iota
	rowsScales
)

func (op *rowsDequant) Run(j *stages.Job) error {
	n, k := j.Rows, j.RowBytes/(op.to.Bits()/8)
	if n <= 0 || k*op.to.Bits()/8 != j.RowBytes || k != op.Group*op.Groups || k*op.Bits%32 != 0 {
		return fmt.Errorf("%s: %d rows of %d bytes, want %d groups of %d weights in whole words", op, n, j.RowBytes, op.Groups, op.Group)
	}
	scales := n * op.Groups
	if op.OneScale {
		scales = 1
	}
	want := []int{n * k * op.Bits / 8, scales * op.scales.Bits() / 8}
	if !op.Symmetric {
		want = append(want, (n*op.Bits+31)/32*op.Groups*4)
	}
	if op.ActOrder {
		want = append(want, 4*k)
	}
	if err := wantInputs(op, j, len(want)); err != nil {
		return err
	}
	for i, w := range want {
		if len(j.Src[i]) != w {
			return fmt.Errorf("%s: input %d has %d bytes, want %d", op, i, len(j.Src[i]), w)
		}
	}
	if at := convert.FirstNonFinite(op.scales, j.Src[rowsScales]); at >= 0 {
		return convert.NonFinite(j.Inputs[rowsScales].Tensor, op.scales, at)
	}
	d := borrowRows(op, j, k)
	defer d.release()
	if err := d.order(); err != nil {
		return err
	}
	return d.all(n)
}

// rowsDequantiser is the state of one Run. Workers reuse its memory from module to module.
type rowsDequantiser struct {
	op  *rowsDequant
	job *stages.Job
	k   int

	groups []int32 // of every input feature, with act-order

	scales []float32 // of some rows
	zeros  []float32 // of the row at hand: 2^23 more than they are, see two23

	raised []byte // a row of signed codes, made unsigned
	codes  [chunk]uint8
	values [4 * chunk]byte // F32, before they are rounded
}

var rowsDequantisers = sync.Pool{New: func() any { return new(rowsDequantiser) }}

// borrowRows returns the state for one Run, to be given back with release.
func borrowRows(op *rowsDequant, j *stages.Job, k int) *rowsDequantiser {
	d, ok := rowsDequantisers.Get().(*rowsDequantiser)
	if !ok {
		d = new(rowsDequantiser)
	}
	d.op, d.job, d.k = op, j, k
	return d
}

func (d *rowsDequantiser) release() {
	d.op, d.job = nil, nil
	rowsDequantisers.Put(d)
}

// order reads the groups of the input features.
func (d *rowsDequantiser) order() error {
	if !d.op.ActOrder {
		return nil
	}
	last := len(d.job.Src) - 1
	d.groups = sized(d.groups, d.k)
	for i := range d.groups {
		g := int32(binary.LittleEndian.Uint32(d.job.Src[last][4*i:]))
		if g < 0 || int(g) >= d.op.Groups {
			return outOfRange(d.job, last, i, g, d.op.Groups)
		}
		d.groups[i] = g
	}
	return nil
}

// all decodes every row. Scales become F32 for several rows at once: one row has too few to be worth a call.
func (d *rowsDequantiser) all(n int) error {
	const most = 4096 // scales at once: they stay in the first-level cache
	groups, size := d.op.Groups, d.op.scales.Bits()/8
	each := max(most/groups, 1)
	if d.op.OneScale {
		return d.allWithOne(n)
	}
	d.middle()
	for first := 0; first < n; first += each {
		rows := min(each, n-first)
		d.scales = sized(d.scales, rows*groups)
		d.op.toF32(asBytes(d.scales), d.job.Src[rowsScales][first*groups*size:(first+rows)*groups*size])
		for i := range rows {
			if err := d.row(first+i, d.scales[i*groups:(i+1)*groups]); err != nil {
				return err
			}
		}
	}
	return nil
}

// allWithOne decodes every row with the one scale that there is.
func (d *rowsDequantiser) allWithOne(n int) error {
	d.middle()
	d.scales = sized(d.scales, 1)
	d.op.toF32(asBytes(d.scales), d.job.Src[rowsScales])
	for i := range n {
		if err := d.row(i, d.scales); err != nil {
			return err
		}
	}
	return nil
}

// middle sets the zero points of symmetric codes.
func (d *rowsDequantiser) middle() {
	d.zeros = sized(d.zeros, d.op.Groups)
	for g := range d.zeros {
		d.zeros[g] = two23 + float32(int(1)<<(d.op.Bits-1))
	}
}

// stored is the row n of codes, unsigned.
func (d *rowsDequantiser) stored(n int) []byte {
	row := d.job.Src[rowsCodes][n*d.k*d.op.Bits/8:][:d.k*d.op.Bits/8]
	if d.op.Signed {
		d.raised = sized(d.raised, len(row))
		nibbles.FlipSigns(d.raised, row)
		return d.raised
	}
	return row
}

// row decodes one row: by a kernel, or by the generic code where there is none or a weight may not fit.
func (d *rowsDequantiser) row(n int, scales []float32) error {
	if !d.op.Symmetric {
		d.zeroPoints(n)
	}
	codes := d.stored(n)
	if d.hasKernel() && d.fits(scales) {
		d.kernel(n, codes, scales)
		return nil
	}
	return d.generic(n, codes, scales)
}

// zeroPoints reads those of a row, which share words with those of its neighbours.
func (d *rowsDequantiser) zeroPoints(n int) {
	per, mask := 32/d.op.Bits, uint32(1)<<d.op.Bits-1
	words := d.job.Src[rowsScales+1][4*(n/per*d.op.Groups):]
	for g := range d.zeros {
		d.zeros[g] = two23 + float32(binary.LittleEndian.Uint32(words[4*g:])>>(d.op.Bits*(n%per))&mask)
	}
}

// fits reports whether all weights of a row are finite.
func (d *rowsDequantiser) fits(scales []float32) bool {
	limit, most := infiniteFrom(d.op.to), float32(int(1)<<d.op.Bits-1)
	if d.op.Symmetric {
		largest := float32(0)
		for _, s := range scales {
			largest = max(largest, abs(s))
		}
		return largest*(most+1)/2 < limit
	}
	for g, s := range scales {
		// The weights farthest from zero are those of the first and of the last code.
		if z := d.zeros[g] - two23; !(abs(s)*max(abs(z), abs(most-z)) < limit) {
			return false
		}
	}
	return true
}

// generic decodes a row. It is the reference for the kernels, and finds the first fault.
func (d *rowsDequantiser) generic(n int, codes []byte, scales []float32) error {
	size := d.op.to.Bits() / 8
	for k := 0; k < d.k; k += chunk {
		m := min(chunk, d.k-k)
		unpackRow(d.codes[:m], codes[k*d.op.Bits/8:], d.op.Bits)
		d.multiply(k, m, scales)
		over := convert.FirstNonFinite(safetensors.F32, d.values[:4*m])
		if over < 0 {
			over = d.op.fromF32(d.job.Row(n)[k*size:(k+m)*size], d.values[:4*m])
		}
		if over < 0 {
			continue
		}
		g := d.groupOf(k + over)
		return &stages.DataError{
			Tensor: d.job.Inputs[rowsScales].Tensor, Problem: fmt.Sprintf("the weight of output %d, input %d does not fit in %s", n, k+over, d.op.to),
			Expected: "finite weights", Found: fmt.Sprintf("%g times %g", scales[g], float32(d.codes[over])-(d.zeros[g]-two23)),
			Advice: "use --dtype bf16 or f32",
		}
	}
	return nil
}

func (d *rowsDequantiser) groupOf(k int) int {
	if d.op.ActOrder {
		return int(d.groups[k])
	}
	return k / d.op.Group
}

// unpackRow reads len(codes) codes that lie one after the other. Their number is even when they are narrower than a byte.
func unpackRow(codes []uint8, b []byte, bits int) {
	if bits == 8 {
		copy(codes, b)
		return
	}
	b = b[:len(codes)/2]
	for i, x := range b {
		codes[2*i], codes[2*i+1] = x&15, x>>4
	}
}

// multiply computes the weights of m codes from input feature k on.
func (d *rowsDequantiser) multiply(k, m int, scales []float32) {
	if d.op.ActOrder {
		for i, g := range d.groups[k : k+m] {
			w := scales[g] * (float32(d.codes[i]) - (d.zeros[g] - two23))
			binary.LittleEndian.PutUint32(d.values[4*i:], math.Float32bits(w))
		}
		return
	}
	for i := 0; i < m; {
		g := (k + i) / d.op.Group
		end := min(m, (g+1)*d.op.Group-k)
		product(d.values[4*i:4*end], d.codes[i:end], scales[g], int32(d.zeros[g]-two23))
		i = end
	}
}
