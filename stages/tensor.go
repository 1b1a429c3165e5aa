package stages

import "github.com/coldload/coldload/safetensors"

// DType is the element type of a Tensor or an Output; the 22 types of the safetensors format.
type DType = safetensors.DType

// Extent is a byte range of one Shard.
type Extent struct {
	Shard int32 // index into the Checkpoint's Shards
	Off   int64 // bytes from the start of the file
	Len   int64 // bytes
}

// End is the offset just past the Extent, in bytes from the start of the file.
func (e Extent) End() int64 { return e.Off + e.Len }

// Tensor is what a Shard's header declares.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64
	// Layout is how the bytes are ordered: LayoutRaw, but for blocks of a GGUF file (see BlockLayout).
	Layout Layout
	Extent Extent
}
