package plan

import (
	"fmt"
	"strings"
)

// packQuantized is the format of compressed-tensors that this file and its neighbours process.
var packQuantized = compressedFormat{names: []string{"pack-quantized"}, open: packOpen, marks: packMarks}

// packMarks reports whether a tensor is of codes that are packed: those of other formats have the name too.
func packMarks(c Catalog, i int) bool { return strings.HasSuffix(c.Name(i), "."+packParts[packCodes]) }

func packOpen(g *compressedGroup) Reader {
	g.weightsOnly()
	return &packReader{where: g.where, params: packReadWeights(g.weights)}
}

// packReadWeights reads what the weights of a group are quantised to.
func packReadWeights(c *ConfigReader) packParams {
	c.Need("num_bits")
	p := packParams{bits: c.Int(0, "num_bits"), sym: c.Bool(true, "symmetric"), group: -1}
	if c.Has("num_bits") && p.bits != 4 && p.bits != 8 {
		c.Unsupported("num_bits", p.bits, "4 and 8")
	}
	if kind := c.Text("int", "type"); kind != "int" {
		c.Unsupported("type", kind, "int")
	}
	if c.Has("dynamic") && c.Bool(true, "dynamic") {
		c.Unsupported("dynamic", true, "weights that were quantised once")
	}
	if c.Has("block_structure") {
		c.Unsupported("block_structure", "of weights", "groups and channels")
	}
	size := c.Int(-1, "group_size")
	otherwise := "tensor"
	if size > 0 {
		otherwise = "group"
	}
	switch strategy := c.Text(otherwise, "strategy"); strategy {
	case "group":
		c.Need("group_size")
		if p.group = size; size != -1 && (size <= 0 || size > mostGroup) {
			c.Unknown("group_size", size, fmt.Sprintf("-1 or a positive number up to %d", mostGroup))
		}
	case "channel":
		if size != -1 {
			c.Unknown("group_size", size, "none with strategy channel")
		}
	case "tensor":
		if p.whole = true; size != -1 {
			c.Unknown("group_size", size, "none with strategy tensor")
		}
		if !p.sym {
			c.Unsupported("strategy", "tensor of asymmetric weights", "group and channel for those")
		}
	case "tensor_group", "block", "attn_head", "token":
		c.Unsupported("strategy", strategy, "group, channel and tensor")
	default:
		c.Unknown("strategy", strategy, "group, channel or tensor")
	}
	p.actOrder = packActOrder(c)
	return p
}

// packActOrder tells whether the groups are of scattered input features. With weight or static, activation ordering decided only
// about rounding: the weights lie in their own order.
func packActOrder(c *ConfigReader) bool {
	if v, ok := c.o.Value("actorder"); ok && (v.Kind() == 't' || v.Kind() == 'f') { // as older writers have it
		return c.Bool(false, "actorder")
	}
	switch order := c.Text("static", "actorder"); order {
	case "group", "dynamic":
		return true
	case "weight", "static":
	default:
		c.Unknown("actorder", order, "group or dynamic, weight or static")
	}
	return false
}
