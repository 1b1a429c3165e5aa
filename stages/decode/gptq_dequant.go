package decode

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"

	"github.com/coldload/coldload/internal/convert"
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
	// next field. Without it such a field is refused.
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
	toF32, ok := convert.Func(scales, safetensors.F32)
	fromF32, ok2 := convert.Func(safetensors.F32, to)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%w: %s scales to %s weights", ErrNoCast, scales, to)
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
	return &gptqDequant{GPTQLayout: l, scales: scales, to: to, toF32: toF32, fromF32: fromF32}, nil
}

type gptqDequant struct {
	GPTQLayout
	scales, to     stages.DType
	toF32, fromF32 convert.Kernel
}

func (*gptqDequant) Phase() stages.Phase { return stages.PhaseDecode }

func (op *gptqDequant) String() string {
	return fmt.Sprintf("dequantise gptq %d-bit to %s", op.Bits, op.to)
}

// The inputs of the Op.
const (
	dequantWeight = iota
	dequantScales
	dequantZeros
	dequantOrder
)

// mostLanes is how many columns the generic code decodes together: a cache line of a packed row.
const mostLanes = 16

func (op *gptqDequant) Run(j *stages.Job) error {
	n, k := j.Rows, j.RowBytes/(op.to.Bits()/8)
	want := []int{k * op.Bits / 8 * n, op.Groups * n * op.scales.Bits() / 8, op.Groups * ((n*op.Bits + 31) / 32) * 4}
	if op.ActOrder {
		want = append(want, 4*k)
	}
	if len(j.Src) != len(want) || k%32 != 0 {
		return fmt.Errorf("%d inputs for %d input features, want %d", len(j.Src), k, len(want))
	}
	for i, w := range want {
		if len(j.Src[i]) != w {
			return fmt.Errorf("input %d has %d bytes, want %d", i, len(j.Src[i]), w)
		}
	}
	if at := convert.FirstNonFinite(op.scales, j.Src[dequantScales]); at >= 0 {
		return convert.NonFinite(j.Inputs[dequantScales].Tensor, op.scales, at)
	}
	d := &dequantiser{op: op, job: j, n: n, k: k}
	if err := d.prepare(); err != nil {
		return err
	}
	done, err := d.panels()
	if err != nil {
		return err
	}
	for c := done; c < n; c += mostLanes {
		if err := d.columns(c, min(mostLanes, n-c)); err != nil {
			return err
		}
	}
	return nil
}

// dequantiser is the state of one Run.
type dequantiser struct {
	op   *gptqDequant
	job  *stages.Job
	n, k int

	groups []int32 // of every input feature
	codes  int     // 2^bits
	limit  float32 // the magnitude from which on a weight is infinite in the target

	// The generic code: scales and zero points of some columns, [mostLanes, groups], and 32 weights before they are rounded.
	scales, zeros []float32
	values        [4 * 32]byte

	offsets []int32 // the kernels: the place of every input feature's group in a panel, in bytes
}

func (d *dequantiser) prepare() error {
	d.codes = 1 << d.op.Bits
	d.groups = make([]int32, d.k)
	for k := range d.groups {
		g := k / d.op.Group
		if d.op.ActOrder {
			g = int(int32(binary.LittleEndian.Uint32(d.job.Src[dequantOrder][4*k:])))
			if g < 0 || g >= d.op.Groups {
				return &stages.DataError{
					Tensor: d.job.Inputs[dequantOrder].Tensor, Problem: fmt.Sprintf("g_idx[%d] is out of range", k),
					Expected: fmt.Sprintf("0 to %d", d.op.Groups-1), Found: strconv.Itoa(g), Advice: "the checkpoint is damaged: get it again",
				}
			}
		}
		d.groups[k] = int32(g)
	}
	switch d.op.to { //nolint:exhaustive // only the targets
	case safetensors.F16:
		d.limit = 65520
	case safetensors.BF16:
		d.limit = math.Float32frombits(0x7F7F_8000)
	default:
		d.limit = float32(math.Inf(1))
	}
	return nil
}

// columns decodes lanes columns from c on.
func (d *dequantiser) columns(c, lanes int) error {
	if d.scales == nil {
		d.scales, d.zeros = make([]float32, mostLanes*d.op.Groups), make([]float32, mostLanes*d.op.Groups)
	}
	for lane := range lanes {
		for g := range d.op.Groups {
			if err := d.fill(g, c+lane, lane); err != nil {
				return err
			}
		}
	}
	var codes [32]uint8
	for block := range d.k / 32 {
		for lane := range lanes {
			d.unpack(&codes, block, c+lane)
			d.write(c+lane, lane, 32*block, &codes)
		}
	}
	return nil
}

// fill computes the scale and the zero point of group g in column n, and checks that the target holds the weight of every code.
func (d *dequantiser) fill(g, n, lane int) error {
	zero, err := d.zero(g, n)
	if err != nil {
		return err
	}
	size := d.op.scales.Bits() / 8
	at := (g*d.n + n) * size
	d.op.toF32(d.values[:4], d.job.Src[dequantScales][at:at+size])
	scale := math.Float32frombits(binary.LittleEndian.Uint32(d.values[:]))
	d.scales[lane*d.op.Groups+g], d.zeros[lane*d.op.Groups+g] = scale, float32(zero)
	if abs(scale)*float32(max(zero, d.codes-1-zero)) < d.limit {
		return nil
	}
	code := 0
	for abs(scale*float32(code-zero)) < d.limit {
		code++
	}
	return &stages.DataError{
		Tensor: d.job.Inputs[dequantScales].Tensor, Problem: fmt.Sprintf("a weight of group %d, output %d does not fit in %s", g, n, d.op.to),
		Expected: "finite weights", Found: fmt.Sprintf("%g times %d", scale, code-zero), Advice: "use --dtype bf16 or f32",
	}
}

// zero is the zero point of group g, column n.
func (d *dequantiser) zero(g, n int) (int, error) {
	op := d.op
	if op.Symmetric {
		return 1 << (op.Bits - 1), nil
	}
	words := (d.n*op.Bits + 31) / 32
	row := d.job.Src[dequantZeros][4*g*words : 4*(g+1)*words]
	field := d.field(row, n)
	if op.ZeroBias == 0 {
		return field, nil
	}
	if !d.hasFullField(row, n) {
		return field + op.ZeroBias, nil
	}
	if op.WrapZeros && 32%op.Bits == 0 {
		return d.wrapped(row, n), nil
	}
	return 0, &stages.DataError{
		Tensor: d.job.Inputs[dequantZeros].Tensor, Problem: fmt.Sprintf("a zero point of group %d near output %d is stored as %d, all ones", g, n, d.codes-1),
		Expected: fmt.Sprintf("at most %d in checkpoint_format gptq", d.codes-2), Found: strconv.Itoa(d.codes - 1),
		Advice: "the writer's meaning is ambiguous: convert the checkpoint to gptq_v2",
	}
}

// field is code i of a packed row: a stream of bits along the row, or planes for every 32 codes.
func (d *dequantiser) field(row []byte, i int) int {
	b := d.op.Bits
	if d.op.Planar {
		return planarCode(func(w int) uint32 { return binary.LittleEndian.Uint32(row[4*w:]) }, b, i)
	}
	pos := b * i
	v := uint64(binary.LittleEndian.Uint32(row[pos/32*4:]))
	if next := (pos/32 + 1) * 4; next < len(row) {
		v |= uint64(binary.LittleEndian.Uint32(row[next:])) << 32
	}
	return int(v >> (pos % 32) & (1<<b - 1))
}

// hasFullField reports whether a field of the word that holds column n is all ones: then adding one would carry, and readers disagree.
func (d *dequantiser) hasFullField(row []byte, n int) bool {
	if 32%d.op.Bits != 0 {
		return d.field(row, n) == d.codes-1
	}
	per := 32 / d.op.Bits
	first := n / per * per
	for i := first; i < min(first+per, d.n); i++ {
		if d.field(row, i) == d.codes-1 {
			return true
		}
	}
	return false
}

// wrapped is the zero point after one whole-word add of one to every field.
func (d *dequantiser) wrapped(row []byte, n int) int {
	b := d.op.Bits
	var ones uint32
	for at := 0; at < 32; at += b {
		ones |= 1 << at
	}
	w := binary.LittleEndian.Uint32(row[b*n/32*4:]) + ones
	return int(w >> (b * n % 32) & uint32(d.codes-1))
}

// unpack reads the 32 codes of a block of column n.
func (d *dequantiser) unpack(codes *[32]uint8, block, n int) {
	b := d.op.Bits
	var w [8]uint32
	for i := range b {
		w[i] = binary.LittleEndian.Uint32(d.job.Src[dequantWeight][4*((block*b+i)*d.n+n):])
	}
	switch {
	case d.op.Planar:
		for i := range codes {
			codes[i] = uint8(planarCode(func(k int) uint32 { return w[k] }, b, i))
		}
	case b == 4:
		for i := range 4 {
			for s := range 8 {
				codes[8*i+s] = uint8(w[i] >> (4 * s) & 15)
			}
		}
	default:
		mask := uint64(1)<<b - 1
		for i := range codes {
			pos := b * i
			v := uint64(w[pos/32]) | uint64(w[(pos/32+1)%8])<<32
			codes[i] = uint8(v >> (pos % 32) & mask)
		}
	}
}

// planarCode is code i of planar packing (GPTQModel's gptq_p): every 32 codes take bits words, plane by plane from the low bits up;
// a plane of width w holds 32/w codes a word.
func planarCode(word func(int) uint32, bits, i int) int {
	block, c := i/32*bits, i%32
	code, off := 0, 0
	for _, width := range planes[bits] {
		per := 32 / width
		code |= int(word(block+off+c/per)>>(width*(c%per))&(1<<width-1)) << off
		off += width
	}
	return code
}

// planes are the widths that make up a number of bits. A plane of width w also takes w words, so off counts both.
var planes = [9][]int{2: {2}, 3: {2, 1}, 4: {4}, 5: {4, 1}, 6: {4, 2}, 7: {4, 2, 1}, 8: {8}}

// write computes the weights of 32 codes and stores them in row n from column k on.
func (d *dequantiser) write(n, lane, k int, codes *[32]uint8) {
	scales, zeros := d.scales[lane*d.op.Groups:][:d.op.Groups], d.zeros[lane*d.op.Groups:][:d.op.Groups]
	groups := d.groups[k:][:len(codes)]
	for i, c := range codes {
		w := scales[groups[i]] * (float32(c) - zeros[groups[i]])
		binary.LittleEndian.PutUint32(d.values[4*i:], math.Float32bits(w))
	}
	size := d.op.to.Bits() / 8
	d.op.fromF32(d.job.Row(n)[k*size:(k+32)*size], d.values[:])
}
