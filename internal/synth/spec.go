package synth

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/safetensors"
)

// Spec is one tensor to write.
type Spec struct {
	Name  string
	DType safetensors.DType
	Shape []int64
	Fill  Fill // nil means zeros

	// block is ggml's type of a tensor of a GGUF file whose bytes are blocks.
	block gguf.Type

	// quantised marks the tensors of quantised modules. The real tool keeps them as buffers, which it writes after all parameters.
	quantised bool
}

// Bytes is the size of the tensor's data. It fails when the size overflows or is no whole number of bytes.
func (s *Spec) Bytes() (int64, error) {
	n, err := safetensors.Elements(s.Shape)
	if err == nil {
		n, err = s.DType.Size(n)
	}
	if err != nil {
		return 0, fmt.Errorf("synth: tensor %q: %s %v: %w", s.Name, s.DType, s.Shape, err)
	}
	return n, nil
}

// Shard is one weight file to write.
type Shard struct {
	Name  string // file name
	Specs []Spec // in the order of their data
	Bytes int64  // size of the data area; the header comes on top

	ends []int64 // where each Spec's data ends, with its padding, from the start of the data area

	gguf  []gguf.KeyValue // the metadata of a GGUF file; nil for any other
	align int64           // what every Spec begins at a multiple of; 0 for nothing
}

// Order says how tensors lie in a Shard.
type Order string

// The orders that real checkpoints have.
const (
	// OrderTool is the order that the format's own tool leaves: GPTQModel writes all unquantised tensors first, then module by module
	// g_idx, scales, bias, qweight, qzeros, and cuts Shards anywhere; those of every other format are OrderSorted.
	OrderTool Order = ""
	// OrderSorted is what the safetensors library does when it saves a Shard: by dtype, widest alignment first, then by name. All I32
	// tensors of a Shard come first, so that scales lie far from their codes.
	OrderSorted Order = "sorted"
)

// cutShards fills Shards in the order of specs, each with as many tensors as fit in limit bytes and at least one.
func cutShards(specs []Spec, limit int64) ([]Shard, error) {
	var shards []Shard
	from, size := 0, int64(0)
	for i := range specs {
		n, err := specs[i].Bytes()
		if err != nil {
			return nil, err
		}
		if i > from && size+n > limit {
			shards = append(shards, Shard{Specs: specs[from:i:i]})
			from, size = i, 0
		}
		size += n
	}
	return append(shards, Shard{Specs: specs[from:]}), nil
}

// finish names the Shards and fixes where each tensor lies.
func finish(shards []Shard) error {
	for i := range shards {
		s := &shards[i]
		s.Name = shardName(i, len(shards), s.gguf != nil)
		s.ends = make([]int64, len(s.Specs))
		for j := range s.Specs {
			n, err := s.Specs[j].Bytes()
			if err != nil {
				return err
			}
			if s.align > 0 {
				n = (n + s.align - 1) / s.align * s.align
			}
			if s.Bytes += n; s.Bytes < 0 {
				return fmt.Errorf("synth: shard %s: %w", s.Name, safetensors.ErrOverflow)
			}
			s.ends[j] = s.Bytes
		}
	}
	return nil
}

func shardName(i, n int, isGGUF bool) string {
	suffix := ".safetensors"
	if isGGUF {
		suffix = ".gguf"
	}
	if n == 1 {
		return "model" + suffix
	}
	return fmt.Sprintf("model-%05d-of-%05d%s", i+1, n, suffix)
}

// sortSpecs is the reference writer's order; the constants of DType are in its order of alignment.
func sortSpecs(specs []Spec) {
	slices.SortFunc(specs, func(a, b Spec) int {
		return cmp.Or(cmp.Compare(b.DType, a.DType), cmp.Compare(a.Name, b.Name))
	})
}

// render writes the bytes of the data area that start at off to dst, tensor by tensor.
func (s *Shard) render(dst []byte, off int64) {
	i, found := slices.BinarySearch(s.ends, off)
	if found {
		i++ // tensor i ends just before off
	}
	for ; len(dst) > 0; i++ {
		n := int(min(int64(len(dst)), s.ends[i]-off))
		start := int64(0)
		if i > 0 {
			start = s.ends[i-1]
		}
		fillOrZero(s.Specs[i].Fill, dst[:n], off-start)
		dst, off = dst[n:], off+int64(n)
	}
}

func fillOrZero(f Fill, dst []byte, off int64) {
	if f == nil {
		clear(dst)
		return
	}
	f.Fill(dst, off)
}
