package plan

import (
	"fmt"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/repack"
)

// marlinTile is the output features of a tile of the Marlin kernels.
const marlinTile = 64

// marlinAsk is what a format asks of the Marlin kernels for a Group.
type marlinAsk struct {
	group        int64        // input features that share a scale; -1: all of them
	own          bool         // the kernels of this format have groups of that size, which others have not
	partial      bool         // the last group may be filled in part
	actOrder     bool         // the input features of a group lie anywhere
	scales, bias stages.DType // Invalid: none, or none that is not looked at elsewhere
}

// marlinHolds finds the shape of the Builder's Group for the Marlin kernels, or says why they cannot hold it.
func (b *Builder) marlinHolds(ask marlinAsk) (tileShape, string) {
	m, group, span := b.group.First(), ask.group, ask.group
	if group == -1 {
		span = m.K
	}
	switch {
	case ask.scales != safetensors.Invalid && ask.scales != safetensors.F16 && ask.scales != safetensors.BF16:
		return tileShape{}, "Marlin takes F16 or BF16 scales, these are " + ask.scales.String() + " (use --dtype f16 or bf16)"
	case ask.bias == safetensors.F32:
		return tileShape{}, "Marlin takes an F16 or BF16 bias, this one is F32 (use --dtype f16 or bf16)"
	case !ask.own && !marlinGroup(group) && m.K > group:
		return tileShape{}, fmt.Sprintf("Marlin has groups of 32, 64, 128 or all, not %d", group)
	case m.K%span != 0 && !ask.partial:
		return tileShape{}, fmt.Sprintf("%d input features are no whole groups of %d", m.K, group)
	}
	reason := marlinFits(b.group, group)
	switch {
	case reason == "":
		return b.group.padded(b.group.N(), m.K, false)
	case b.NoPad():
		return tileShape{}, reason + " (padding is off)"
	case ask.actOrder:
		return tileShape{}, reason + " (with act-order nothing is padded)"
	}
	return marlinPadded(b.group, group, ask.partial)
}

// marlinGroup reports whether the kernels have groups of that size.
func marlinGroup(group int64) bool { return group == -1 || group == 32 || group == 64 || group == 128 }

// marlinSpan is the group that a kernel works in for scales that span group input features: -1 for all of them, which a group of any other
// size than the kernels' is.
func marlinSpan(group int64) int64 {
	if !marlinGroup(group) {
		return -1
	}
	return group
}

// marlinHoldsZeros says why the Marlin kernels have no zero points for codes of so many bits; "" when they have, or need none.
func marlinHoldsZeros(symmetric bool, bits int64, actOrder bool) string {
	switch {
	case symmetric:
	case bits != 4:
		return fmt.Sprintf("Marlin has zero points with 4 bits only, these modules are asymmetric with %d", bits)
	case actOrder:
		return "Marlin has no act-order with zero points, these modules are asymmetric"
	}
	return ""
}

// marlinFits says why the tiles of the Marlin kernels do not fit a Group as it is, with scales that span group input features (-1: all of
// them); "" when they do. The limits are those of the kernels' tile shapes: dense (128,128), (64,256), (64,128), (128,64) over K and N; experts
// need 128 hidden and whole groups of intermediate features. Source: LAYOUTS C7.
func marlinFits(g *Group, group int64) string {
	n, k := g.N(), g.First().K
	if group > 0 && k%group != 0 {
		return fmt.Sprintf("%d input features are no whole groups of %d", k, group)
	}
	for _, m := range g.Modules[:len(g.Members)] {
		if m.N%marlinTile != 0 {
			return fmt.Sprintf("%d output features are not a multiple of %d", m.N, marlinTile)
		}
	}
	if g.Stacked() {
		inter, reason := marlinExperts(g)
		if by := max(64, group); reason == "" && inter%by != 0 {
			return fmt.Sprintf("intermediate size %d of the experts is not a multiple of %d", inter, by)
		}
		return reason
	}
	if n%64 == 0 && k%128 == 0 || n%128 == 0 && k%64 == 0 {
		return ""
	}
	return fmt.Sprintf("[%d, %d] has no whole tiles: N%%64 and K%%128, or N%%128 and K%%64, must be 0", n, k)
}

// marlinExperts is the intermediate size of stacked experts, whose hidden size must be a multiple of 128. For gate and up that is K and the
// other N; for down it is the other way round.
func marlinExperts(g *Group) (inter int64, reason string) {
	m := g.First()
	hidden, inter := m.K, m.N
	switch {
	case g.Pair != NoPair && inter%2 != 0:
		return inter, fmt.Sprintf("%d output features are no gate and up", inter)
	case g.Pair != NoPair:
		inter /= 2
	case len(g.Members) == 1:
		hidden, inter = m.N, m.K
	}
	if hidden%128 != 0 {
		return inter, fmt.Sprintf("hidden size %d of the experts is not a multiple of 128", hidden)
	}
	return inter, ""
}

// marlinPadded is the shape of a Group whose tiles are filled up with zeros, or why that is not done. Of a dense Group the rows of all members
// are filled up at their end: to whichever of the two kinds of tiles takes less. Of experts the intermediate features are filled up, gate's and
// up's each by themselves, and hidden ones never. partial says that the last group may be filled in part. Source: LAYOUTS C8.
func marlinPadded(g *Group, group int64, partial bool) (tileShape, string) {
	by, k := max(1, marlinSpan(group)), g.First().K
	if !g.Stacked() {
		n := g.N()
		a, b := [2]int64{up(n, 64), up(k, lcm(128, by))}, [2]int64{up(n, 128), up(k, lcm(64, by))}
		if b[0]*b[1] < a[0]*a[1] || b[0]*b[1] == a[0]*a[1] && b[0]+b[1] < a[0]+a[1] {
			a = b
		}
		return g.padded(a[0], a[1], false)
	}
	inter, reason := marlinExperts(g)
	switch whole := up(inter, lcm(64, by)); {
	case reason != "":
		return tileShape{}, reason
	case inter%by != 0 && !partial:
		return tileShape{}, fmt.Sprintf("intermediate size %d of the experts is no whole groups of %d", inter, by)
	case g.Pair == PairInterleaved:
		return g.padded(2*whole, k, false)
	case g.Pair == PairHalves:
		return g.padded(2*whole, k, true)
	case len(g.Members) == 1:
		return g.padded(g.N(), whole, false)
	default:
		return g.padded(whole*int64(len(g.Members)), k, true)
	}
}

// up is the least multiple of by that is not less than n.
func up(n, by int64) int64 { return (n + by - 1) / by * by }

func lcm(a, b int64) int64 { return a / gcd(a, b) * b }

// tileShape is what a kernel of tiles gets of a Group, of one expert when it is stacked.
type tileShape struct {
	K, N    int64           // input and output features, padding included
	members []repack.Member // where the members' output features are
	joined  bool            // rows are made of all members at once: one does not fill whole tiles, or there is padding
	padding *stages.Padding // nil for none
}

// groups is the number of groups that the Marlin kernels have for scales that span group input features.
func (s *tileShape) groups(group int64) int64 {
	if group = marlinSpan(group); group == -1 {
		return 1
	}
	return (s.K + group - 1) / group
}

// scaleOrder is how the kernels order scales that span group input features, and how many groups they have.
func (s *tileShape) scaleOrder(group int64) (repack.Permutation, int64) {
	if n := s.groups(group); n > 1 {
		return repack.Grouped, n
	}
	return repack.Single, 1
}

// marlinBias is the Op that puts a bias into the kernels' order; nil when from says that there is none.
func marlinBias(from, to stages.DType) (stages.Op, error) {
	if from == safetensors.Invalid {
		return nil, nil
	}
	return repack.MarlinScales(from, to, repack.Single)
}

// tileBias adds a bias with the Op of marlinBias.
func (b *Builder) tileBias(s *tileShape, suffix string, part int, to stages.DType, op stages.Op) {
	if op != nil {
		b.TileFloats(s, suffix, part, []int64{s.N}, to, op)
	}
}

// padded is the shape of a Group that is filled up to n output and k input features. The members lie one after the other, or each at the
// beginning of an equal share of the output features; gate and up that are halves of one member have a share each. It is how a format pads that
// has extents of its own.
func (g *Group) padded(n, k int64, shares bool) (tileShape, string) {
	const most = 1 << 56 // elements: their bytes do not overflow
	if n > most/max(k, 1) {
		return tileShape{}, fmt.Sprintf("[%d, %d] is too large", g.N(), g.First().K)
	}
	s := tileShape{K: k, N: n}
	for _, m := range g.Modules[:len(g.Members)] {
		s.members = append(s.members, repack.Member{N: int(m.N)})
	}
	if shares && g.Pair == PairHalves {
		half := int(g.N() / 2)
		s.members = []repack.Member{{N: half}, {N: half, Same: true}}
	}
	at := 0
	for i := range s.members {
		if shares {
			at = int(n) / len(s.members) * i
		}
		m := &s.members[i]
		m.At = at
		at += m.N
		s.joined = s.joined || m.At%marlinTile != 0 || m.N%marlinTile != 0
	}
	if n != g.N() || k != g.First().K {
		s.joined = true
		s.padding = &stages.Padding{Unpadded: [2]int64{g.N(), g.First().K}, Padded: [2]int64{n, k}, Shares: 1}
		if shares {
			s.padding.Shares = len(s.members)
		}
	}
	return s, ""
}

// Tiles adds an Output of a kernel of tiles, in the extents of s. g is what it is without padding, but for Rows, Cols and Dims; p says how its
// sources lie. Members and N of p are those of s.
func (b *Builder) Tiles(s *tileShape, g Grid, p repack.Padding) {
	if s.joined {
		p.Members, p.N = s.members, int(s.N)
		op, err := repack.Padded(g.Op, p)
		if err != nil {
			b.c.checks.ModuleFault(b.group.First(), stages.CodeUnsupported, err.Error(), "", "", "use --no-pad")
			return
		}
		g.Op = op
	}
	b.inTiles(s, g)
}

// inTiles is Tiles with an Op that knows the members.
func (b *Builder) inTiles(s *tileShape, g Grid) {
	if first := b.group.First(); s.joined && first.N > 0 {
		g.Row, g.Padding = s.N*g.Width(first)/first.N, s.padding
	}
	b.Grid(g)
}
