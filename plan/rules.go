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
			c.dropped = append(c.dropped, r)
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

// countDropped counts the tensors that only Outputs need which rules dropped: they are not read.
func (c *compiler) countDropped() {
	if len(c.dropped) == 0 {
		return
	}
	used := map[int32]bool{}
	mark := func(t int32) { used[t] = true }
	for _, r := range c.plan.recipes {
		eachTensor(r, mark)
	}
	s := &c.plan.Summary
	for _, r := range c.dropped {
		eachTensor(r, func(t int32) {
			if !used[t] {
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
	checks := []check(nil)
	switch r := r.(type) {
	case *grid:
		all(r.sides...)
		checks = r.checks
	case *tall:
		all(r.parts...)
		checks = r.checks.checks
	}
	for _, k := range checks {
		all(k.tensors...)
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
