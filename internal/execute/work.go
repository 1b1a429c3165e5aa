package execute

import "github.com/coldload/coldload/stages"

// Work returns the function that tells what a Batch means for one phase: the number of Parts, the bytes they read and the bytes they
// write. It looks at the plan only, so it may be called before or after the stage ran.
func Work(phase stages.Phase) func(*stages.Batch) (items, in, out int64) {
	return func(b *stages.Batch) (items, in, out int64) {
		for i := range b.Parts {
			p := &b.Parts[i]
			if p.Op.Phase() != phase {
				continue
			}
			items++
			for k := range p.Inputs {
				in += p.Inputs[k].Extent.Len
			}
			if p.Slab != stages.NoSlab {
				out += p.Dst.Bytes()
			}
		}
		return items, in, out
	}
}
