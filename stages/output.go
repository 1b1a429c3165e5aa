package stages

import "fmt"

// Layout says how an Output's bytes are ordered.
type Layout string

// The layouts. LayoutDequant is asked for, never carried by an Output: what it makes is raw. LayoutExllamaV2 cannot be asked for: it is what
// the qzeros of LayoutExllama are when the checkpoint stores zero points as they are.
const (
	LayoutRaw       Layout = "raw"        // row-major, as a checkpoint holds it
	LayoutMarlin    Layout = "marlin"     // tiles of the Marlin kernels
	LayoutExllama   Layout = "exllama"    // shuffled for the exllama kernels; its qzeros are one less than the zero points, as the kernels want by default
	LayoutExllamaV2 Layout = "exllama_v2" // qzeros that are the zero points: the kernels must be told so
	LayoutDequant   Layout = "dequant"    // floating-point weights
	// LayoutMarlinPlain is what the scales of FP8 weights in LayoutMarlin are with ExponentPlain: the kernels must multiply themselves. It
	// cannot be asked for.
	LayoutMarlinPlain Layout = "marlin_plain"
)

// Kind says what was done to make an Output.
type Kind string

// The kinds of Output.
const (
	KindKept    Kind = "kept"    // the source tensor, unchanged
	KindCast    Kind = "cast"    // the source tensor in another dtype
	KindFused   Kind = "fused"   // members concatenated
	KindStacked Kind = "stacked" // experts side by side on a leading axis
	// KindDequantised is a module of its own as floating-point weights; fused or stacked ones are of those kinds.
	KindDequantised Kind = "dequantised"
	KindRepacked    Kind = "repacked" // in a kernel's layout (fused and stacked where the rules say so)
)

// Padding says by how much the tiles of a kernel's layout made the module of an Output larger. What is in the padding decodes to zero.
type Padding struct {
	// Unpadded are the output and input features of the module, [N, K], of one expert when it is stacked; Padded are those that its Outputs
	// are made for. The features of the module come first in each.
	Unpadded [2]int64 `json:"unpadded"`
	Padded   [2]int64 `json:"padded"`
	// Shares is how many equal shares of the output features are filled up by themselves: of experts those of gate and those of up.
	Shares int `json:"shares"`
}

// String is the two extents.
func (p Padding) String() string {
	return fmt.Sprintf("%v padded to %v in %d", p.Unpadded, p.Padded, p.Shares)
}

// Output is a tensor as the Sink will hold it. Outputs are fixed before a byte moves.
type Output struct {
	Name      string
	DType     DType
	Shape     []int64
	Layout    Layout
	Kind      Kind
	Size      int64    // bytes
	SlabBytes int64    // size of every Slab but the last; 0 only when Size is 0
	Padding   *Padding // of its module; nil for none. Not to be changed
}

// Slabs is the number of Slabs. An Output of no bytes has none: the Sink knows it from Begin.
func (o *Output) Slabs() int {
	if o.Size == 0 {
		return 0
	}
	return int((o.Size + o.SlabBytes - 1) / o.SlabBytes)
}

// Slab returns the i-th Slab of the Output that has the given index.
func (o *Output) Slab(output, i int) Slab {
	off := int64(i) * o.SlabBytes
	return Slab{Output: output, Index: i, Off: off, Len: min(o.SlabBytes, o.Size-off)}
}

// Slab is a contiguous byte range of one Output that is reserved, filled and handed to the Sink as one.
type Slab struct {
	Output int   // index into the Outputs given to Sink.Begin
	Index  int   // which Slab of the Output
	Off    int64 // bytes from the start of the Output
	Len    int64 // bytes
}

// In says whether the Slab is one of the Outputs': nil, or an error that says what it is not.
func (s Slab) In(outputs []Output) error {
	if s.Output < 0 || s.Output >= len(outputs) {
		return fmt.Errorf("no output %d", s.Output)
	}
	o := &outputs[s.Output]
	if s.Index < 0 || s.Index >= o.Slabs() || o.Slab(s.Output, s.Index) != s {
		return fmt.Errorf("%s has no slab %d of %d bytes at %d", o.Name, s.Index, s.Len, s.Off)
	}
	return nil
}
