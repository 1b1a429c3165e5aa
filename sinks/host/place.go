package host

import (
	"fmt"
	"math"

	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/stages"
)

// align is where an Output may start: a cache line, so that kernels can store whole lines past the cache and no two Outputs share one.
// Large Outputs are not aligned to huge pages: the mapping is, neighbours share the page at their border, and padding would be paid in
// memory for every Output.
const align = 64

// mostArena is the largest mapping that an int can count, with room for offheap's alignment.
const mostArena = math.MaxInt - 2*offheap.HugePage

// places says where each Output lies. It takes about 60 bytes per Output.
type places struct {
	starts []int64          // bytes from the start of the arena
	index  map[string]int32 // name to Output
	bytes  int64            // of all Outputs
	total  int64            // of the arena: bytes and padding
}

// place lays the Outputs out in the given order, without a gap but the alignment. It collects every fault.
func place(outputs []stages.Output, limit int64) (places, error) {
	p := places{starts: make([]int64, len(outputs)), index: make(map[string]int32, len(outputs))}
	var faults []stages.Fault
	for i := range outputs {
		if f, bad := p.add(i, &outputs[i]); bad {
			faults = append(faults, f)
		}
	}
	if limit > 0 && p.total > limit {
		faults = append(faults, stages.Fault{
			Code: stages.CodeSink, Problem: "the result is larger than the limit of the host sink",
			Expected: fmt.Sprintf("at most %d bytes", limit), Found: fmt.Sprintf("%d bytes", p.total),
			Advice: "raise the limit, or load fewer tensors",
		})
	}
	return p, stages.Refuse(faults...)
}

// add places Output i at the end of the arena.
func (p *places) add(i int, o *stages.Output) (stages.Fault, bool) {
	if f, bad := contradiction(o); bad {
		return f, true
	}
	if _, twice := p.index[o.Name]; twice {
		return stages.Fault{Code: stages.CodeSink, Tensor: o.Name, Problem: "two outputs have this name"}, true
	}
	p.index[o.Name] = int32(i)
	if o.Size > mostArena-align-p.total {
		return stages.Fault{
			Code: stages.CodeSink, Tensor: o.Name, Problem: "the result does not fit in the address space",
			Expected: fmt.Sprintf("at most %d bytes", int64(mostArena)), Found: fmt.Sprintf("%d bytes after %d", o.Size, p.total),
		}, true
	}
	p.starts[i] = (p.total + align - 1) &^ (align - 1)
	p.total = p.starts[i] + o.Size
	p.bytes += o.Size
	return stages.Fault{}, false
}

// contradiction reports an Output whose sizes cannot be: the arithmetic on its Slabs relies on them.
func contradiction(o *stages.Output) (stages.Fault, bool) {
	var problem string
	switch {
	case o.Size < 0:
		problem = "the size is negative"
	case o.Size > 0 && o.SlabBytes <= 0:
		problem = "an output with bytes has no slab size"
	case o.Size > 0 && o.SlabBytes > math.MaxInt64-o.Size:
		problem = "the slab size is out of all bounds"
	default:
		return stages.Fault{}, false
	}
	problem = fmt.Sprintf("%s: %d bytes, slabs of %d", problem, o.Size, o.SlabBytes)
	return stages.Fault{Code: stages.CodeSink, Tensor: o.Name, Problem: problem}, true
}
