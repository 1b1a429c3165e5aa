package plan

import "github.com/coldload/coldload/stages"

// Catalog is the tensors of a Checkpoint in file order: by Shard, then by offset. stages/index makes it. It is immutable.
type Catalog interface {
	Len() int
	Name(i int) string
	DType(i int) stages.DType
	// AppendShape appends the dims of tensor i to dst.
	AppendShape(dst []int64, i int) []int64
	Extent(i int) stages.Extent
	// Lookup finds a tensor by name in constant time.
	Lookup(name string) (i int, ok bool)
	// ShardName is the file name of a Shard.
	ShardName(shard int32) string
	// Shards is the number of Shards.
	Shards() int
}

// laidOut is implemented by a Catalog whose tensors can be in another Layout than LayoutRaw: the blocks of a GGUF file.
type laidOut interface{ Layout(i int) stages.Layout }

// layoutOf is how the bytes of tensor i are ordered in the checkpoint.
func layoutOf(c Catalog, i int) stages.Layout {
	if l, ok := c.(laidOut); ok {
		return l.Layout(i)
	}
	return stages.LayoutRaw
}

// none stands for a tensor that is not there.
const none = int32(-1)

// shape2 returns the two dims of tensor i.
func shape2(c Catalog, i int) (rows, cols int64, ok bool) {
	var buf [4]int64
	s := c.AppendShape(buf[:0], i)
	if len(s) != 2 {
		return 0, 0, false
	}
	return s[0], s[1], true
}

func shapeOf(c Catalog, i int) []int64 { return c.AppendShape(nil, i) }
