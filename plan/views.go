package plan

import (
	"fmt"
	"math"
	"strconv"

	"github.com/coldload/coldload/stages"
)

// Slice is what the experts of a layer have of one tensor that holds them all along its first axis: expert by expert an equal share, or some
// rows of every share.
type Slice struct {
	Tensor int32 // of the Catalog; -1 for none
	// From and Rows choose rows: along the tensor's second axis, the first of every share. Rows is 0 for all of them.
	From, Rows int64
}

// NoSlice stands for a tensor that is not there.
var NoSlice = Slice{Tensor: none}

// views is the Catalog that a Plan is made from: the tensors of the checkpoint, and behind them as many virtual ones as were asked for. A
// virtual tensor is one expert's share of a tensor: a range of its bytes with a shape of its own, which everything but a name can be asked
// of. Len and Lookup know only the real ones.
type views struct {
	Catalog // of the checkpoint

	slices []share
	known  map[Slice]int32 // index into slices
	list   []view
}

// share is a Slice that was checked, in bytes of the tensor.
type share struct {
	Slice

	experts int64 // along the first axis
	each    int64 // of one expert
	off     int64 // of the chosen rows within it
	size    int64 // of them
}

// view is one virtual tensor. There can be hundreds of thousands.
type view struct {
	share  int32 // index into views.slices
	expert int32
}

// mostViews bounds what hostile shapes make of few bytes; the largest models that are known need half a million.
const mostViews = 1 << 21

func newViews(c Catalog) *views { return &views{Catalog: c, known: map[Slice]int32{}} }

// virtual is the view that has number i, or nil for a real tensor.
func (v *views) virtual(i int) (view, bool) {
	if i -= v.Len(); i >= 0 {
		return v.list[i], true
	}
	return view{}, false
}

// real is the tensor of the checkpoint in which tensor i lies.
func (v *views) real(i int32) int32 {
	if x, ok := v.virtual(int(i)); ok {
		return v.slices[x.share].Tensor
	}
	return i
}

// Name is that of the real tensor.
func (v *views) Name(i int) string { return v.Catalog.Name(int(v.real(int32(i)))) }

// describe is the name with the number of the expert, for errors about values.
func (v *views) describe(i int32) string {
	x, ok := v.virtual(int(i))
	if !ok {
		return v.Catalog.Name(int(i))
	}
	return v.Name(int(i)) + " (expert " + strconv.Itoa(int(x.expert)) + ")"
}

// Layout is that of the real tensor.
func (v *views) Layout(i int) stages.Layout { return layoutOf(v.Catalog, int(v.real(int32(i)))) }

func (v *views) DType(i int) stages.DType { return v.Catalog.DType(int(v.real(int32(i)))) }

// AppendShape leaves out the axis of the experts.
func (v *views) AppendShape(dst []int64, i int) []int64 {
	x, ok := v.virtual(i)
	if !ok {
		return v.Catalog.AppendShape(dst, i)
	}
	s := &v.slices[x.share]
	var buf [8]int64
	dims := v.Catalog.AppendShape(buf[:0], int(s.Tensor))[1:]
	n := len(dst)
	dst = append(dst, dims...)
	if s.Rows > 0 {
		dst[n] = s.Rows
	}
	return dst
}

func (v *views) Extent(i int) stages.Extent {
	x, ok := v.virtual(i)
	if !ok {
		return v.Catalog.Extent(i)
	}
	s := &v.slices[x.share]
	whole := v.Catalog.Extent(int(s.Tensor))
	return stages.Extent{Shard: whole.Shard, Off: whole.Off + int64(x.expert)*s.each + s.off, Len: s.size}
}

// slice finds or checks a Slice. problem says what is wrong with it.
func (v *views) slice(s Slice) (at int32, problem string) {
	if at, ok := v.known[s]; ok {
		return at, ""
	}
	if s.Tensor < 0 || int(s.Tensor) >= v.Len() {
		return none, "is no tensor of the checkpoint"
	}
	dims := shapeOf(v.Catalog, int(s.Tensor))
	size := v.Catalog.Extent(int(s.Tensor)).Len
	switch {
	case len(dims) == 0 || dims[0] <= 0:
		return none, "has no axis of experts"
	case dims[0] > mostExperts:
		return none, fmt.Sprintf("has more than %d experts", mostExperts)
	case size%dims[0] != 0:
		return none, "has experts that end within a byte"
	}
	x := share{Slice: s, experts: dims[0], each: size / dims[0], size: size / dims[0]}
	if s.Rows != 0 {
		if problem := x.choose(dims[1:]); problem != "" {
			return none, problem
		}
	}
	at = int32(len(v.slices))
	v.slices = append(v.slices, x)
	v.known[s] = at
	return at, ""
}

// choose narrows the share to rows of it; dims is its shape.
func (x *share) choose(dims []int64) string {
	switch {
	case len(dims) == 0:
		return "has no rows to choose"
	case x.From < 0 || x.Rows < 0 || x.From > math.MaxInt64-x.Rows || x.From+x.Rows > dims[0]:
		return fmt.Sprintf("has %d rows, not %d from row %d on", dims[0], x.Rows, x.From)
	case x.each%dims[0] != 0:
		return "has rows that end within a byte"
	}
	row := x.each / dims[0]
	x.off, x.size = x.From*row, x.Rows*row
	return ""
}

// add makes the virtual tensor of one expert.
func (v *views) add(s Slice, expert int64) (i int32, problem string) {
	at, problem := v.slice(s)
	switch {
	case problem != "":
		return none, problem
	case expert < 0 || expert >= v.slices[at].experts:
		return none, fmt.Sprintf("has %d experts, not number %d", v.slices[at].experts, expert)
	case len(v.list) >= mostViews || v.Len()+len(v.list) >= math.MaxInt32:
		return none, fmt.Sprintf("is one of stacks of more than %d experts' tensors", mostViews)
	}
	v.list = append(v.list, view{share: at, expert: int32(expert)})
	return int32(v.Len() + len(v.list) - 1), ""
}
