package plan

import (
	"regexp"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/decode"
	"github.com/coldload/coldload/stages/discover"
)

// mxfp4 is the quantisation method of gpt-oss: the experts of a layer are two stacks of MXFP4 codes, everything else is dense. Source: LAYOUTS A5.
//
//	<module>_blocks U8 [E, N, K/32, 16]   <module>_scales U8 or F8_E8M0 [E, N, K/32]   <module>_bias [E, N], optional
//
// <module> is gate_up_proj, with the rows of gate and up interleaved, and down_proj. OpenAI's own release calls them mlp1_weight.blocks,
// mlp1_weight.scales and mlp1_bias, and mlp2.
type mxfp4 struct{}

func (mxfp4) Name() string { return "mxfp4" }

// MarksTensor says that a tensor gives the method away: blocks beside their scales.
func (mxfp4) MarksTensor(c Catalog, i int) bool {
	for _, n := range ossNames {
		if base, ok := strings.CutSuffix(c.Name(i), n.raw[mxfp4Codes]); ok {
			_, ok = c.Lookup(base + n.raw[mxfp4Scales])
			return ok
		}
	}
	return false
}

// Announce is what a config says for a checkpoint of this method: OpenAI's own release has none.
func (mxfp4) Announce() string {
	return `"quantization_config": {"quant_method": "mxfp4"} in config.json`
}

// ossNaming is one way in which the tensors of a stack are called.
type ossNaming struct {
	mxfp4Names

	gateUp, down string // the last part of the Group's name
}

// ossNames are all of them. The weights of OpenAI's own code are output-major.
var ossNames = []ossNaming{
	{mxfp4Names{raw: [3]string{"_blocks", "_scales", "_bias"}, bias: "_bias", inputMajor: true}, fusedGateUp, fusedDown},
	{mxfp4Names{raw: [3]string{"_weight.blocks", "_weight.scales", "_bias"}, weight: "_weight", bias: "_bias"}, "mlp1", "mlp2"},
}

// other reports that a layer has tensor i of one of its two stacks, called name, and nothing of the other: half a layer must not load. What that
// one lacks when some of it is there, or that it is dense, is seen where it is looked at.
func (n *ossNaming) other(c *Checks, i int32, name, other string) {
	scope, _ := cutLast(name)
	other = scope + "." + other
	for _, suffix := range append([]string{n.weight, ".weight"}, n.raw[:]...) {
		if _, there := c.Catalog.Lookup(other + suffix); there {
			return
		}
	}
	c.Fault(i, stages.CodeMember, "holds experts, but nothing of "+other+" is there", other+n.raw[mxfp4Codes], "", "the checkpoint is incomplete: get it again")
}

func (mxfp4) Open(q *discover.QuantConfig) (Reader, []stages.Fault) {
	c := NewConfigReader(q.Object, q.Where)
	c.only([]string{"quant_method", "method", "modules_to_not_convert", "dequantize"}) // the last is for whoever loads the weights
	r := &mxfp4Reader{where: q.Where}
	list, _, f := q.Object.Strings("modules_to_not_convert")
	if f != nil {
		c.faults = append(c.faults, *f)
	}
	for _, entry := range list {
		if pattern, ok := c.pattern("modules_to_not_convert", entry, entry); ok {
			r.dense = append(r.dense, mxfp4Dense{entry, pattern})
		}
	}
	return r, c.Faults()
}

// mxfp4Reader is the method set up for one checkpoint. Its Modules are all parts of stacks.
type mxfp4Reader struct {
	where string // the config, for messages
	dense []mxfp4Dense
}

// mxfp4Dense is an entry of modules_to_not_convert: a pattern that a name begins with, or what it ends with.
type mxfp4Dense struct {
	entry   string
	pattern *regexp.Regexp
}

func (d mxfp4Dense) matches(module string) bool {
	return d.pattern.MatchString(module) || strings.HasSuffix(module, d.entry)
}

func (*mxfp4Reader) Parts() []string { return []string{"blocks", "scales", "bias"} }

// Picks says that there are no Modules outside of stacks.
func (*mxfp4Reader) Picks(*Checks, int32) bool { return false }

// Left looks at a tensor that no stack took: scales without their blocks. A bias may be that of dense experts.
func (r *mxfp4Reader) Left(c *Checks, i int32) Leftover {
	for _, n := range ossNames {
		base, ok := strings.CutSuffix(c.Catalog.Name(int(i)), n.raw[mxfp4Scales])
		if !ok || c.Catalog.DType(int(i)) != safetensors.U8 && c.Catalog.DType(int(i)) != safetensors.F8E8M0 {
			continue
		}
		if _, there := c.Catalog.Lookup(base + n.raw[mxfp4Codes]); !there {
			c.Fault(i, stages.CodeMember, "belongs to quantised experts whose blocks are missing", base+n.raw[mxfp4Codes], "",
				"the checkpoint is incomplete: get it again")
			return LeftoverFaulty
		}
	}
	return LeftoverOther
}

// Stack describes the experts that a tensor of blocks marks.
func (r *mxfp4Reader) Stack(c *Checks, i int32) (s Stack, ok bool) {
	for _, n := range ossNames {
		name, ok := strings.CutSuffix(c.Catalog.Name(int(i)), n.raw[mxfp4Codes])
		if !ok {
			continue
		}
		_, last := cutLast(name)
		member := StackMember{Name: last, Tensors: []Slice{{Tensor: i}, NoSlice, NoSlice}}
		for _, part := range []int{mxfp4Scales, mxfp4Bias} {
			if t, ok := c.Catalog.Lookup(name + n.raw[part]); ok {
				member.Tensors[part] = Slice{Tensor: int32(t)}
			}
		}
		s = Stack{Name: name, Members: []StackMember{member}}
		switch last {
		case n.gateUp:
			s.Pair = PairInterleaved
			n.other(c, i, name, n.down)
			if shape := shapeOf(c.Catalog, int(i)); len(shape) > 1 && shape[1]%2 != 0 {
				c.Fault(i, stages.CodeShape, "has an odd number of rows", "the rows of gate and of up", formatShape(shape), "the checkpoint is damaged: get it again")
			}
		case n.down:
			n.other(c, i, name, n.gateUp)
		default:
			c.Fault(i, stages.CodeUnsupported, "is quantised, but no layer of gpt-oss", "modules named "+n.gateUp+" and "+n.down, last,
				"other layers are quantised by other methods: the config does not belong to these weights")
		}
		for _, d := range r.dense {
			if d.matches(name) {
				c.Fault(i, stages.CodeConfig, r.where+": `modules_to_not_convert` says that it is not quantised ("+d.entry+")", "dense weights",
					"blocks and scales", "the config does not belong to these weights")
			}
		}
		return s, true
	}
	return s, false
}

// Module checks the tensors of one expert.
func (r *mxfp4Reader) Module(m *Module, c *Checks) bool {
	const advice = "the checkpoint is damaged or incomplete: get it again"
	blocks := m.Tensors[mxfp4Codes]
	names := ossNames[0].mxfp4Names
	for _, n := range ossNames {
		if strings.HasSuffix(c.Catalog.Name(int(blocks)), n.raw[mxfp4Codes]) {
			names = n.mxfp4Names
		}
	}
	s := shapeOf(c.Catalog, int(blocks))
	if len(s) != 3 || s[0] <= 0 || s[1] <= 0 || s[0] > 1<<40 || s[1] > 1<<40 || s[2] != decode.MXFP4Group/2 {
		c.Fault(blocks, stages.CodeShape, "is no tensor of MXFP4 blocks", "[experts, out_features, in_features/32, 16], of one expert [out_features, in_features/32, 16]",
			formatShape(s), advice)
		return false
	}
	m.N, m.K = s[0], s[1]*decode.MXFP4Group
	return mxfp4Module(m, c, names, true, advice)
}

// Compile adds the Outputs for the layout asked for.
func (*mxfp4Reader) Compile(g *Group, b *Builder) string { return compileMXFP4(g, b) }
