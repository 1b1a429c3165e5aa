package plan

import (
	"fmt"

	"github.com/coldload/coldload/internal/convert"
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
			c.drop(r)
			return o, r, false
		}
		if !keeps(w.DType) && w.DType != o.DType {
			again, recipe, ok := c.retype(o, r, w.DType)
			if !ok {
				c.faults.add(stages.Fault{
					Code: stages.CodeUnsupported, Tensor: o.Name, Problem: fmt.Sprintf("a rule wants it to be %s", w.DType),
					Expected: "F32, F16 or BF16 for floating-point values in row-major order", Found: fmt.Sprintf("%s in layout %s", o.DType, o.Layout),
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

// drop counts the tensors of an Output that is not made.
func (c *compiler) drop(r recipe) {
	for _, t := range bulk(r) {
		c.plan.Summary.Ignored++
		c.plan.Summary.IgnoredIn += c.in.Catalog.Extent(int(t)).Len
	}
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
	}
	return nil
}

// retype makes an Output that is copied or cast in another dtype.
func (c *compiler) retype(o stages.Output, r recipe, to stages.DType) (stages.Output, recipe, bool) {
	tensors := bulk(r)
	_, one := r.(single)
	_, many := r.(*segments)
	if !one && !many {
		return o, r, false
	}
	from := c.in.Catalog.DType(int(tensors[0]))
	if !convert.Supported(from, to) {
		return o, r, false
	}
	op, err := decode.Cast(from, to)
	if err != nil {
		return o, r, false
	}
	o.DType = to
	if one {
		return c.retypeSingle(o, tensors[0], from, to, op)
	}
	s := &segments{op: op, tensors: tensors, from: elementBytes(from), to: elementBytes(to)}
	if from == to && o.Kind != stages.KindKept {
		s.op = fuse.Concat()
	}
	return c.sized(o, s), s, true
}

func (c *compiler) retypeSingle(o stages.Output, t int32, from, to stages.DType, op stages.Op) (stages.Output, recipe, bool) {
	size, ok := castSize(c.in.Catalog.Extent(int(t)).Len, from, to)
	o.Size, o.SlabBytes, o.Kind = size, slabOf(size), stages.KindCast
	if from == to {
		op, o.Kind = decode.Copy(), stages.KindKept
	}
	return o, single{op: op, tensor: t, from: uint8(elementBytes(from)), to: uint8(elementBytes(to))}, ok
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
