package plan

import (
	"fmt"
	"slices"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/fuse"
)

// rewrite asks the user's rules about an Output, one after the other: each sees what those before it made. ok is false when the Output is
// dropped, or cannot be what a rule wants.
func (c *compiler) rewrite(o stages.Output, r recipe) (stages.Output, recipe, bool) {
	for _, rule := range c.opt.Rules {
		w := rule.Rewrite(o)
		if w.Drop {
			c.dropped = append(c.dropped, r)
			return o, r, false
		}
		if !keeps(w.DType) && w.DType != o.DType {
			again, recipe, problem := c.retype(o, r, w.DType)
			if problem != "" {
				c.faults.add(stages.Fault{
					Code: stages.CodeUnsupported, Tensor: o.Name, Problem: fmt.Sprintf("a rule wants it to be %s: %s", w.DType, problem),
					Found: fmt.Sprintf("%s in layout %s", o.DType, o.Layout), Advice: "change the rule",
				})
				return o, r, false
			}
			o, r = again, recipe
		}
		if w.Name != "" {
			o.Name = w.Name
		}
	}
	return o, r, true
}

// countDropped counts the tensors that only Outputs need which rules dropped: they are not read.
func (c *compiler) countDropped() {
	if len(c.dropped) == 0 {
		return
	}
	c.noteUnchecked(c.dropped)
	used := map[int32]bool{}
	mark := func(t int32) { used[c.views.real(t)] = true }
	for _, r := range c.plan.recipes {
		eachTensor(r, mark)
	}
	s := &c.plan.Summary
	for _, r := range c.dropped {
		eachTensor(r, func(t int32) {
			if t = c.views.real(t); !used[t] {
				used[t] = true
				s.Ignored++
				s.IgnoredIn += c.in.Catalog.Extent(int(t)).Len
			}
		})
	}
}

// eachTensor calls f for the tensors that a recipe reads, some of them more than once.
func eachTensor(r recipe, f func(int32)) {
	all := func(lists ...[]int32) {
		for _, list := range lists {
			for _, t := range list {
				if t != none {
					f(t)
				}
			}
		}
	}
	all(bulk(r))
	switch r := r.(type) {
	case *grid:
		all(r.sides...)
		all(r.joint...)
		if r.needs != nil {
			all(r.needs.tensors)
		}
	case *tall:
		all(r.parts...)
	case *turned:
		for _, p := range r.parts {
			all(p.tensors)
		}
	}
	for _, k := range checksOf(r) {
		all(k.tensors...)
	}
}

// checksOf lists the checks that go with a recipe.
func checksOf(r recipe) []check {
	switch r := r.(type) {
	case *grid:
		return r.checks
	case *tall:
		return r.checks.checks
	}
	return nil
}

// bulk lists the tensors that a recipe turns into bytes.
func bulk(r recipe) []int32 {
	switch r := r.(type) {
	case single:
		return []int32{r.tensor}
	case *segments:
		return r.tensors
	case *grid:
		return r.tensors
	case *tall:
		return r.parts[0]
	case *turned:
		return r.parts[0].tensors
	}
	return nil
}

// retype makes an Output in another dtype, or says why it cannot be had: values that are copied or cast are cast from the file's, and
// dequantised weights are made in that dtype at once.
func (c *compiler) retype(o stages.Output, r recipe, to stages.DType) (stages.Output, recipe, string) {
	switch {
	case to != safetensors.F32 && to != safetensors.F16 && to != safetensors.BF16:
		return o, r, "only F32, F16 and BF16 can be asked for"
	case o.Layout != stages.LayoutRaw:
		return o, r, "a kernel's layout has the dtype that --dtype gives it"
	case !convert.Supported(o.DType, to):
		return o, r, "only floating-point values are cast"
	}
	if _, ok := castSize(o.Size, o.DType, to); !ok {
		return o, r, "it would be too large"
	}
	if t, ok := r.(*tall); ok {
		return retypeTall(o, t, to)
	}
	if g, ok := r.(*grid); ok && g.opFor != nil {
		return retypeMade(o, g, to)
	}
	if t, ok := r.(*turned); ok {
		return retypeTurned(o, t, to)
	}
	from := c.in.Catalog.DType(int(bulk(r)[0]))
	op, err := decode.Cast(from, to)
	if err != nil {
		return o, r, err.Error()
	}
	if from == to && o.Kind != stages.KindKept && o.Kind != stages.KindCast {
		op = fuse.Concat()
	}
	switch r := r.(type) {
	case single:
		r.op, r.from, r.to = op, uint8(elementBytes(from)), uint8(elementBytes(to))
		o.Size = c.in.Catalog.Extent(int(r.tensor)).Len / int64(r.from) * int64(r.to)
		o.SlabBytes = slabOf(o.Size)
		return retyped(o, from, to), r, ""
	case *segments:
		if r.codes {
			return o, r, "its values mean nothing without their scales (use --layout dequant)"
		}
		s := &segments{op: op, tensors: r.tensors, from: elementBytes(from), to: elementBytes(to)}
		o = retyped(o, from, to)
		return c.sized(o, s), s, ""
	case *grid:
		if !places(r.op, from, o.DType) {
			break
		}
		return retypeGrid(retyped(o, from, to), r, from, to, op)
	}
	return o, r, "its format makes it in one dtype only"
}

// retyped is an Output whose dtype in the file is from.
func retyped(o stages.Output, from, to stages.DType) stages.Output {
	o.DType = to
	switch {
	case o.Kind == stages.KindKept && from != to:
		o.Kind = stages.KindCast
	case o.Kind == stages.KindCast && from == to:
		o.Kind = stages.KindKept
	}
	return o
}

// places reports whether an Op does no more than to place values, cast or not.
func places(op stages.Op, from, to stages.DType) bool {
	cast, err := decode.Cast(from, to)
	return op == decode.Copy() || op == fuse.Concat() || err == nil && op == cast
}

// retypeMade has the format make its Op again, and makes every row wider or narrower.
func retypeMade(o stages.Output, r *grid, to stages.DType) (stages.Output, recipe, string) {
	op, err := r.opFor(to)
	if err != nil {
		return o, r, err.Error()
	}
	was := o.DType
	o.DType = to
	wider := func(n int64) int64 { return n / elementBytes(was) * elementBytes(to) }
	return resizeGrid(o, r, op, func(col column) int64 { return wider(col.width) })
}

// retypeGrid makes every row wider or narrower.
func retypeGrid(o stages.Output, r *grid, from, to stages.DType, op stages.Op) (stages.Output, recipe, string) {
	return resizeGrid(o, r, op, func(col column) int64 { return col.src / elementBytes(from) * elementBytes(to) })
}

// resizeGrid is r with another Op and columns of other widths, and its Output with the sizes that follow.
func resizeGrid(o stages.Output, r *grid, op stages.Op, width func(column) int64) (stages.Output, recipe, string) {
	g := *r
	g.op, g.columns, g.stride = op, slices.Clone(r.columns), 0
	for i := range g.columns {
		col := &g.columns[i]
		col.off, col.width = g.stride, width(*col)
		g.stride += col.width
	}
	g.perSlab = rowsPerSlab(g.rows, g.stride, o.Kind == stages.KindStacked)
	o.Size = int64(len(g.tensors)/len(g.columns)) * g.rows * g.stride
	o.SlabBytes = min(g.perSlab*g.stride, o.Size)
	return o, &g, ""
}

// retypeTurned has the Op made again, and cuts the Slabs anew.
func retypeTurned(o stages.Output, r *turned, to stages.DType) (stages.Output, recipe, string) {
	op, err := r.opFor(to)
	if err != nil {
		return o, r, err.Error()
	}
	t := *r
	t.op, t.to = op, elementBytes(to)
	t.cut()
	o.Size, _ = castSize(o.Size, o.DType, to)
	o.SlabBytes, o.DType = t.perSlab*t.cols*t.to, to
	return o, &t, ""
}

// retypeTall has the format make its Op again.
func retypeTall(o stages.Output, r *tall, to stages.DType) (stages.Output, recipe, string) {
	if r.opFor == nil {
		return o, r, "its format makes it in one dtype only"
	}
	op, err := r.opFor(to)
	if err != nil {
		return o, r, err.Error()
	}
	t := *r
	t.op = op
	t.row, _ = castSize(r.row, o.DType, to)
	o.Size, _ = castSize(o.Size, o.DType, to)
	o.SlabBytes, _ = castSize(o.SlabBytes, o.DType, to)
	o.DType = to
	return o, &t, ""
}

// sized fills in where the segments end, and the sizes of their Output.
func (c *compiler) sized(o stages.Output, s *segments) stages.Output {
	var size int64
	s.ends = make([]int64, 0, len(s.tensors))
	for _, t := range s.tensors {
		size += c.in.Catalog.Extent(int(t)).Len / s.from * s.to
		s.ends = append(s.ends, size)
	}
	o.Size = size
	s.slab = slabOf(size)
	if o.Kind == stages.KindStacked && o.Shape[0] > 0 {
		s.slab = stackedSlab(size/o.Shape[0], o.DType)
	}
	o.SlabBytes = min(s.slab, size)
	return o
}
