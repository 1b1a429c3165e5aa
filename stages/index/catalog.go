package index

import (
	"hash/maphash"
	"slices"
	"sort"
	"strconv"

	"github.com/coldload/coldload/stages"
)

// Catalog is all tensors of a Checkpoint, numbered in file order: by Shard, then by offset. It is immutable and safe for concurrent use.
// Beyond the headers it takes about 8 bytes a tensor.
type Catalog struct {
	names   []string // of the Shards
	headers []Header
	first   []int     // number of the first tensor of every Shard, and of the end
	order   [][]int32 // per Shard: from file order to header order; nil where they are the same

	seed  maphash.Seed
	slots []int32 // open addressing: tensor number + 1, 0 for free
}

// New joins the headers of Shards, which come in the order of their Number and have no faults.
func New(shards []*Shard) (*Catalog, []stages.Fault) {
	c := &Catalog{seed: maphash.MakeSeed(), first: []int{0}}
	for _, s := range shards {
		c.names = append(c.names, s.Name)
		c.headers = append(c.headers, s.Header)
		c.order = append(c.order, fileOrder(s.Header))
		c.first = append(c.first, c.first[len(c.first)-1]+s.Header.Len())
	}
	return c, c.fill()
}

// fileOrder sorts tensors by their bytes; nil when the header has them so. Tensors without bytes go before the one that starts at the
// same offset, as they lie.
func fileOrder(h Header) []int32 {
	compare := func(a, b int32) int {
		aBegin, aEnd := h.Extent(int(a))
		bBegin, bEnd := h.Extent(int(b))
		switch {
		case aBegin != bBegin:
			return int(min(max(aBegin-bBegin, -1), 1))
		default:
			return int(min(max(aEnd-bEnd, -1), 1))
		}
	}
	sorted := true
	for i := 1; i < h.Len() && sorted; i++ {
		sorted = compare(int32(i-1), int32(i)) <= 0
	}
	if sorted {
		return nil
	}
	order := make([]int32, h.Len())
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, compare)
	return order
}

// fill builds the table of names and reports those that are there twice. Within a Shard the header has refused them already.
func (c *Catalog) fill() (faults []stages.Fault) {
	size := 16
	for size < 2*c.Len() {
		size *= 2
	}
	c.slots = make([]int32, size)
	for i := range c.Len() {
		name := c.Name(i)
		slot, other := c.find(name)
		if other < 0 {
			c.slots[slot] = int32(i + 1)
			continue
		}
		faults = append(faults, stages.Fault{
			Code: stages.CodeDuplicate, File: c.ShardName(c.Extent(i).Shard), Tensor: name,
			Problem:  "tensor is in two shards",
			Expected: "only in " + c.ShardName(c.Extent(other).Shard), Found: "also in " + c.ShardName(c.Extent(i).Shard),
			Advice: "remove the shard that does not belong to the checkpoint",
		})
	}
	return faults
}

// find returns the tensor of that name, or -1, and the slot where it is or would be.
func (c *Catalog) find(name string) (slot, tensor int) {
	mask := uint64(len(c.slots) - 1)
	for at := maphash.String(c.seed, name) & mask; ; at = (at + 1) & mask {
		n := int(c.slots[at]) - 1
		if n < 0 || c.Name(n) == name {
			return int(at), n
		}
	}
}

// at finds a tensor's Shard and its number in the header.
func (c *Catalog) at(i int) (shard, inHeader int) {
	shard = sort.SearchInts(c.first, i+1) - 1
	inHeader = i - c.first[shard]
	if o := c.order[shard]; o != nil {
		inHeader = int(o[inHeader])
	}
	return shard, inHeader
}

// Len is the number of tensors.
func (c *Catalog) Len() int { return c.first[len(c.first)-1] }

// Shards is the number of Shards.
func (c *Catalog) Shards() int { return len(c.names) }

// ShardName is the file name of a Shard.
func (c *Catalog) ShardName(shard int32) string { return c.names[shard] }

// Metadata is the value of one key of a Shard's header, as text.
func (c *Catalog) Metadata(shard int32, key string) (value string, ok bool) {
	return c.headers[shard].MetadataValue(key)
}

// DataOffset is where the data area of a Shard begins, in bytes: what comes before is its header.
func (c *Catalog) DataOffset(shard int32) int64 { return c.headers[shard].DataOffset() }

// Name is the name of tensor i.
func (c *Catalog) Name(i int) string {
	s, n := c.at(i)
	return c.headers[s].Name(n)
}

// DType is the dtype of tensor i.
func (c *Catalog) DType(i int) stages.DType {
	s, n := c.at(i)
	return c.headers[s].DType(n)
}

// AppendShape appends the dims of tensor i to dst.
func (c *Catalog) AppendShape(dst []int64, i int) []int64 {
	s, n := c.at(i)
	return c.headers[s].AppendShape(dst, n)
}

// Layout is how the bytes of tensor i are ordered: LayoutRaw, but for the blocks of a GGUF file, whose last dim counts bytes.
func (c *Catalog) Layout(i int) stages.Layout {
	s, n := c.at(i)
	if h, ok := c.headers[s].(*ggufHeader); ok {
		return h.Layout(n)
	}
	return stages.LayoutRaw
}

// Extent is where the bytes of tensor i lie.
func (c *Catalog) Extent(i int) stages.Extent {
	s, n := c.at(i)
	begin, end := c.headers[s].Extent(n)
	return stages.Extent{Shard: int32(s), Off: c.headers[s].DataOffset() + begin, Len: end - begin}
}

// Lookup finds a tensor by name.
func (c *Catalog) Lookup(name string) (i int, ok bool) {
	_, i = c.find(name)
	return i, i >= 0
}

// Tensor is everything about tensor i.
func (c *Catalog) Tensor(i int) stages.Tensor {
	return stages.Tensor{Name: c.Name(i), DType: c.DType(i), Shape: c.AppendShape(nil, i), Layout: c.Layout(i), Extent: c.Extent(i)}
}

// Notes are what the headers have that no reader needs, Shard by Shard.
func (c *Catalog) Notes() (notes []string) {
	for i, h := range c.headers {
		for _, n := range h.Notes() {
			notes = append(notes, c.names[i]+": "+n)
		}
	}
	return notes
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
