package plan

import (
	"path"
	"slices"
)

// choose drops the Outputs that Options.Include and Exclude leave out.
func (c *compiler) choose() {
	if len(c.opt.Include)+len(c.opt.Exclude) == 0 {
		return
	}
	p, n := c.plan, 0
	for i := range p.Outputs {
		if c.wanted(p.Outputs[i].Name) {
			p.Outputs[n], p.recipes[n] = p.Outputs[i], p.recipes[i]
			n++
		}
	}
	p.Summary.LeftOut = len(p.Outputs) - n
	clear(p.Outputs[n:])
	clear(p.recipes[n:])
	p.Outputs, p.recipes = p.Outputs[:n], p.recipes[:n]
	if p.Summary.LeftOut > 0 {
		c.note("%d outputs are left out, as asked for", p.Summary.LeftOut)
	}
}

func (c *compiler) wanted(name string) bool {
	matches := func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	}
	return (len(c.opt.Include) == 0 || slices.ContainsFunc(c.opt.Include, matches)) && !slices.ContainsFunc(c.opt.Exclude, matches)
}
