package execute

import (
	"fmt"

	"github.com/coldload/coldload/stages"
)

// checkRect reports whether the Part's rectangle lies in its Slab. A wrong one would write over a neighbour's bytes, so it is checked
// here once more although the plan made it.
func checkRect(b *stages.Batch, p *stages.Part) error {
	if p.Slab == stages.NoSlab {
		return nil
	}
	if p.Slab < 0 || p.Slab >= len(b.Dst) {
		return fmt.Errorf("slab %d of a batch with %d reserved slabs", p.Slab, len(b.Dst))
	}
	size := int64(len(b.Dst[p.Slab]))
	if !fits(p.Dst, size) {
		return fmt.Errorf("rectangle at %d of %d rows of %d bytes, stride %d, does not fit in a slab of %d bytes",
			p.Dst.Off, p.Dst.Rows, p.Dst.RowBytes, p.Dst.Stride, size)
	}
	return nil
}

// fits reports whether every row of r lies in size bytes and no two rows overlap. It does not overflow.
func fits(r stages.Rect, size int64) bool {
	if r.Off < 0 || r.RowBytes < 0 || r.Rows < 0 || r.Stride < r.RowBytes || r.Off > size {
		return false
	}
	if r.Rows == 0 {
		return true
	}
	room := size - r.Off
	if r.RowBytes > room {
		return false
	}
	return r.Stride == 0 || r.Rows-1 <= (room-r.RowBytes)/r.Stride
}

// checkInput reports whether the Input lies in the bytes that were fetched for its Range.
func checkInput(b *stages.Batch, in *stages.Input) error {
	if b.Views == nil {
		return fmt.Errorf("%s: its bytes are not there: not fetched yet, or dropped before this stage", in.Tensor)
	}
	if in.Extent.Len == 0 && in.Range == 0 && in.Off == 0 {
		return nil // of no bytes, and so in no range: a Part makes nothing but padding
	}
	if in.Range < 0 || in.Range >= len(b.Ranges) {
		return fmt.Errorf("%s: range %d of a batch with %d ranges", in.Tensor, in.Range, len(b.Ranges))
	}
	if r := b.Ranges[in.Range]; in.Extent.Shard != r.Shard || in.Extent.Off != r.Off+in.Off {
		return fmt.Errorf("%s: bytes from %d on of shard %d, taken from %d on of shard %d", in.Tensor, in.Extent.Off, in.Extent.Shard, r.Off+in.Off, r.Shard)
	}
	size := int64(len(b.Views.Bytes(in.Range)))
	if in.Off < 0 || in.Extent.Len < 0 || in.Off > size || in.Extent.Len > size-in.Off {
		return fmt.Errorf("%s: %d bytes at %d lie outside of the %d bytes fetched", in.Tensor, in.Extent.Len, in.Off, size)
	}
	return nil
}
