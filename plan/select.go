package plan

import (
	"maps"
	"path"
	"slices"
	"strings"
)

// choose drops the Outputs that Options.Include and Exclude leave out.
func (c *compiler) choose() {
	if len(c.opt.Include)+len(c.opt.Exclude) == 0 {
		return
	}
	p, n := c.plan, 0
	for i := range p.Outputs {
		if c.wanted(p.Outputs[i].Name) {
			p.Outputs[n], p.Outputs[i] = p.Outputs[i], p.Outputs[n]
			p.recipes[n], p.recipes[i] = p.recipes[i], p.recipes[n]
			n++
		}
	}
	p.Summary.LeftOut = len(p.Outputs) - n
	c.noteUnchecked(p.recipes[n:])
	clear(p.Outputs[n:])
	clear(p.recipes[n:])
	p.Outputs, p.recipes = p.Outputs[:n], p.recipes[:n]
	if p.Summary.LeftOut > 0 {
		c.note("%d outputs are left out, as asked for", p.Summary.LeftOut)
	}
}

// noteUnchecked says which value checks are not made because they go with Outputs that are left out.
func (c *compiler) noteUnchecked(left []recipe) {
	n, parts := 0, map[string]bool{}
	for _, r := range left {
		checks := checksOf(r)
		if len(checks) > 0 {
			n++
		}
		for _, k := range checks {
			if t := slices.IndexFunc(k.tensors[0], func(t int32) bool { return t != none }); t >= 0 {
				_, part := cutLast(c.in.Catalog.Name(int(k.tensors[0][t])))
				parts[part] = true
			}
		}
	}
	if n > 0 {
		c.note("%d outputs that are left out take value checks with them: of %s", n, strings.Join(slices.Sorted(maps.Keys(parts)), ", "))
	}
}

func (c *compiler) wanted(name string) bool {
	matches := func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	}
	return (len(c.opt.Include) == 0 || slices.ContainsFunc(c.opt.Include, matches)) && !slices.ContainsFunc(c.opt.Exclude, matches)
}
