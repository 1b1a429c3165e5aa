package stages

import (
	"strings"

	"github.com/coldload/coldload/gguf"
)

// blockPrefix begins the Layouts of ggml's blocks.
const blockPrefix = "gguf_"

// BlockLayout is how the bytes of a tensor of a GGUF file are ordered: LayoutRaw for plain numbers, and for blocks a Layout that names the type,
// such as "gguf_q4_k". It cannot be asked for. Such a tensor, or Output, has the dtype U8 and the shape of its elements, but that the last dim
// counts the bytes of a row: blocks of BlockType elements each, one after the other.
func BlockLayout(t gguf.Type) Layout {
	if elements, _ := t.Block(); elements == 1 {
		return LayoutRaw
	}
	return Layout(blockPrefix + strings.ToLower(t.String()))
}

// BlockType is the type of blocks that a Layout of BlockLayout names; false for any other Layout.
func (l Layout) BlockType() (gguf.Type, bool) {
	name, ok := strings.CutPrefix(string(l), blockPrefix)
	if !ok {
		return 0, false
	}
	t, ok := gguf.ParseType(strings.ToUpper(name))
	return t, ok && BlockLayout(t) == l
}
