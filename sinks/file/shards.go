package file

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const (
	// dataAlign is where the data area of a shard begins: a block of any disk and a page of most systems, whatever the disk at hand has,
	// so that equal work gives equal files.
	dataAlign = 4096
	// lineBytes is what a buffer is aligned to at least. An Output that begins elsewhere in its shard cannot lie alike in both.
	lineBytes = 64
)

// shard is one weight file.
type shard struct {
	name  string
	path  string
	first int   // its Outputs are [first, end)
	end   int   // of the Outputs given to Begin
	data  int64 // offset of the data area
	size  int64 // of the file
	sum   packed.Sum

	opened

	windows map[int64]*window // guarded by writeback.mu

	left int64 // bytes of Slabs that the journal does not name; guarded by Sink.flushing
	kept bool  // it was there from an earlier run
}

// maxPerShard is the most Outputs that a shard has. It bounds the header, which is made in memory, and what readers take for it.
const maxPerShard = 100_000

// assign cuts the Outputs into shards, in order. An Output of no bytes goes where the one before is, if that is not full by number.
func assign(outputs []stages.Output, size int64) []*shard {
	var shards []*shard
	start, bytes := 0, int64(0)
	for i := range outputs {
		if n := outputs[i].Size; bytes > 0 && n > 0 && bytes+n > size || i-start == maxPerShard {
			shards = append(shards, &shard{first: start, end: i, left: bytes})
			start, bytes = i, 0
		}
		bytes += outputs[i].Size
	}
	shards = append(shards, &shard{first: start, end: len(outputs), left: bytes})
	for i, s := range shards {
		s.name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
	}
	return shards
}

// shardOf is the shard that holds an Output.
func (s *Sink) shardOf(output int) *shard {
	i, _ := slices.BinarySearchFunc(s.shards, output, func(sh *shard, output int) int { return cmp.Compare(sh.end-1, output) })
	return s.shards[i]
}

// rank is the order in which the Outputs of a shard lie, where it is not that of Begin: first those that keep the ones behind them at a
// multiple of a block, then those that keep them at one of a cache line. A few bytes of a norm would move everything behind them.
func rank(size int64) int {
	switch {
	case size >= directBytes && size%dataAlign == 0:
		return 0
	case size >= directBytes && size%lineBytes == 0:
		return 1
	default:
		return 2
	}
}

// layOut fixes where every Output lies, in bytes from the start of its file. The headers are made again when they are needed: together
// they may be large.
func layOut(shards []*shard, outputs []stages.Output, layout stages.Layout) (offsets []int64, err error) {
	offsets = make([]int64, len(outputs))
	for _, s := range shards {
		l, order, err := s.layOut(outputs, layout)
		if err != nil {
			advice := ""
			if errors.Is(err, safetensors.ErrHeaderTooLarge) || errors.Is(err, safetensors.ErrTooManyTensors) {
				advice = "choose smaller shards"
			}
			return nil, stages.Refuse(stages.Fault{Code: stages.CodeSink, File: s.name, Problem: err.Error(), Advice: advice})
		}
		for k, i := range order {
			offsets[i] = l.Offset(k)
		}
		s.size, s.data, s.sum = l.FileSize(), int64(len(l.Header())), sha256.Sum256(l.Header())
	}
	return offsets, nil
}

// layOut is the layout of one shard, and its Outputs in their order.
func (s *shard) layOut(outputs []stages.Output, layout stages.Layout) (l *safetensors.Layout, order []int32, err error) {
	order = make([]int32, 0, s.end-s.first)
	for r := range 3 {
		for i := s.first; i < s.end; i++ {
			if rank(outputs[i].Size) == r {
				order = append(order, int32(i))
			}
		}
	}
	specs := make([]safetensors.Spec, len(order))
	for k, i := range order {
		specs[k] = safetensors.Spec{Name: outputs[i].Name, DType: outputs[i].DType, Shape: outputs[i].Shape}
	}
	metadata := map[string]string{"format": "pt", packed.LayoutKey: string(layout)}
	l, err = safetensors.NewLayout(specs, safetensors.WriterOptions{Metadata: metadata, Align: dataAlign})
	return l, order, err
}

// intact reports whether the file of an earlier run has the size and the header that it must have.
func (s *shard) intact() bool {
	if !hasSize(s.path, s.size) {
		return false
	}
	f, err := os.Open(s.path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // it was only read
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(f, s.data)); err != nil || n != s.data {
		return false
	}
	var sum packed.Sum
	h.Sum(sum[:0])
	return sum == s.sum
}

// create makes the file, with room for all of it and the header in it.
func (s *Sink) create(sh *shard) error {
	l, _, err := sh.layOut(s.outputs, s.opt.Layout)
	if err != nil {
		return err
	}
	f, err := s.disk.create(sh.path)
	if err != nil {
		return err
	}
	err = s.disk.allocate(f, sh.size)
	if err == nil {
		err = s.disk.writeAt(f, [][]byte{l.Header()}, 0)
	}
	return errors.Join(err, f.Close())
}

// check refuses Outputs that no shard can hold, with every reason.
func check(outputs []stages.Output) error {
	var faults []stages.Fault
	for _, name := range twice(outputs) {
		faults = append(faults, stages.Fault{Code: stages.CodeSink, Tensor: name, Problem: "two outputs have this name"})
	}
	for i := range outputs {
		o := &outputs[i]
		problem := ""
		n, err := safetensors.Elements(o.Shape)
		if err == nil {
			n, err = o.DType.Size(n)
		}
		switch {
		case err != nil:
			problem = err.Error()
		case n != o.Size || o.Size > 0 && o.SlabBytes <= 0:
			problem = fmt.Sprintf("sizes that cannot be: %s %v in %d bytes, slabs of %d", o.DType, o.Shape, o.Size, o.SlabBytes)
		case packed.LayoutVersion(o.Layout) == 0:
			problem = fmt.Sprintf("layout %q cannot be packed", o.Layout)
		}
		if problem != "" {
			faults = append(faults, stages.Fault{Code: stages.CodeSink, Tensor: o.Name, Problem: problem})
		}
	}
	return stages.Refuse(faults...)
}

// sorted is the Outputs' indices by their names. A map of half a million names would take more than all else in the sink.
func sorted(outputs []stages.Output) []int32 {
	order := make([]int32, len(outputs))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return strings.Compare(outputs[a].Name, outputs[b].Name) })
	return order
}

// twice is the names that are not unique.
func twice(outputs []stages.Output) (names []string) {
	order := sorted(outputs)
	for i := 1; i < len(order); i++ {
		if name := outputs[order[i]].Name; name == outputs[order[i-1]].Name {
			names = append(names, name)
		}
	}
	return names
}

// prepare decides which shards of an earlier run are gone on with.
func (s *Sink) prepare(resumed bool) error {
	t := s.target
	for _, sh := range s.shards {
		sh.path = filepath.Join(t.partial, sh.name)
		sh.kept = resumed && sh.intact()
	}
	if !resumed {
		return nil
	}
	return s.sweep()
}

// sweep removes what an earlier run left and this one does not go on with.
func (s *Sink) sweep() error {
	keep := make(map[string]bool)
	for _, sh := range s.shards {
		keep[sh.name] = sh.kept
	}
	entries, err := os.ReadDir(s.target.partial)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := s.disk.removeAll(filepath.Join(s.target.partial, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
