package plan

import (
	"fmt"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// marlinHolds says why the Marlin kernels cannot hold a Group of codes in groups of so many input features (-1: all of K), with scales and
// a bias of these dtypes (Invalid: no bias); "" when they can.
func marlinHolds(g *Group, group int64, scales, bias stages.DType) string {
	m := g.First()
	span := group
	if group == -1 {
		span = m.K
	}
	switch {
	case scales != safetensors.F16 && scales != safetensors.BF16:
		return "Marlin takes F16 or BF16 scales, these are " + scales.String() + " (use --dtype f16 or bf16)"
	case bias == safetensors.F32:
		return "Marlin takes an F16 or BF16 bias, this one is F32 (use --dtype f16 or bf16)"
	case group != -1 && group != 32 && group != 64 && group != 128 && m.K > group:
		return fmt.Sprintf("Marlin has groups of 32, 64, 128 or all, not %d", group)
	case m.K%span != 0:
		return fmt.Sprintf("%d input features are no whole groups of %d", m.K, group)
	}
	return marlinTiles(g, group)
}

// marlinTiles says why the tiles of the Marlin kernels do not fit a Group whose scales span group input features (-1: all of them); "" when
// they do. The limits are those of the kernels' tile shapes: dense (128,128), (64,256), (64,128), (128,64) over K and N; experts need 128
// hidden and whole groups of intermediate features. Source: LAYOUTS C7.
func marlinTiles(g *Group, group int64) string {
	for _, m := range g.Modules[:len(g.Members)] {
		if m.N%64 != 0 {
			return fmt.Sprintf("%d output features are not a multiple of 64", m.N)
		}
	}
	if g.Stacked() {
		return marlinHoldsExperts(g, group)
	}
	n, k := g.N(), g.First().K
	if n%64 == 0 && k%128 == 0 || n%128 == 0 && k%64 == 0 {
		return ""
	}
	return fmt.Sprintf("[%d, %d] has no whole tiles: N%%64 and K%%128, or N%%128 and K%%64, must be 0", n, k)
}

// marlinHoldsExperts wants the hidden size to be a multiple of 128 and the intermediate size one of max(64, group). For gate and up the
// first is K and the second N; for down it is the other way round.
func marlinHoldsExperts(g *Group, group int64) string {
	m := g.First()
	hidden, inter := m.K, m.N
	switch {
	case g.Pair != NoPair:
		inter /= 2
	case len(g.Members) == 1:
		hidden, inter = m.N, m.K
	}
	if hidden%128 != 0 {
		return fmt.Sprintf("hidden size %d of the experts is not a multiple of 128", hidden)
	}
	if by := max(64, group); inter%by != 0 {
		return fmt.Sprintf("intermediate size %d of the experts is not a multiple of %d", inter, by)
	}
	return ""
}
