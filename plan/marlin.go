package plan

import (
	"fmt"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// marlinCodes is what the Marlin kernels want to know of integer codes, whatever format they come from.
type marlinCodes struct {
	bits, group int64 // group -1: one over all of K
	sym         bool
	scales      stages.DType // as they are to be
	bias        stages.DType // likewise; Invalid for none
}

// holds says why the Marlin kernels cannot hold a Group; "" when they can. The limits are those of the kernels' tile shapes: dense
// (128,128), (64,256), (64,128), (128,64) over K and N; experts need 128 hidden and whole groups of intermediate features.
func (c marlinCodes) holds(g *Group) string {
	m := g.First()
	span := c.group
	if span <= 0 {
		span = m.K
	}
	switch {
	case c.bits != 4 && c.bits != 8:
		return fmt.Sprintf("Marlin has 4 or 8 bits, not %d", c.bits)
	case !c.sym:
		return "Marlin without zero points holds symmetric modules only, these are asymmetric"
	case c.scales != safetensors.F16 && c.scales != safetensors.BF16:
		return "Marlin takes F16 or BF16 scales, these are " + c.scales.String() + " (use --dtype f16 or bf16)"
	case c.bias == safetensors.F32:
		return "Marlin takes an F16 or BF16 bias, this one is F32 (use --dtype f16 or bf16)"
	case span < m.K && span != 32 && span != 64 && span != 128:
		return fmt.Sprintf("Marlin has groups of 32, 64, 128 or all, not %d", c.group)
	case m.K%span != 0:
		return fmt.Sprintf("%d input features are no whole groups of %d", m.K, c.group)
	}
	for _, m := range g.Modules[:len(g.Members)] {
		if m.N%64 != 0 {
			return fmt.Sprintf("%d output features are not a multiple of 64", m.N)
		}
	}
	if g.Stacked() {
		return c.holdsExperts(g)
	}
	if n := g.N(); n%64 == 0 && m.K%128 == 0 || n%128 == 0 && m.K%64 == 0 {
		return ""
	}
	return fmt.Sprintf("[%d, %d] has no whole tiles: N%%64 and K%%128, or N%%128 and K%%64, must be 0", g.N(), m.K)
}

// holdsExperts wants the hidden size to be a multiple of 128 and the intermediate size one of max(64, group). For gate and up the
// first is K and the second N; for down it is the other way round.
func (c marlinCodes) holdsExperts(g *Group) string {
	m := g.First()
	hidden, inter := m.K, m.N
	if len(g.Members) == 1 {
		hidden, inter = m.N, m.K
	}
	if hidden%128 != 0 {
		return fmt.Sprintf("hidden size %d of the experts is not a multiple of 128", hidden)
	}
	if by := max(64, c.group); inter%by != 0 {
		return fmt.Sprintf("intermediate size %d of the experts is not a multiple of %d", inter, by)
	}
	return ""
}
