package file

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

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

	// header is kept only until the file is there.
	header []byte

	mu       sync.Mutex
	file     *os.File          // nil until the first write, and when complete
	direct   *os.File          // the same file past the page cache; nil also where that does not work
	buffered bool              // it does not
	windows  map[int64]*window // guarded by writeback.mu

	left int64 // bytes of Slabs that the journal does not name; guarded by Sink.flushing
	kept bool  // it was there from an earlier run
}

// assign cuts the Outputs into shards, in order. Every Output of no bytes goes where the one before is.
func assign(outputs []stages.Output, size int64) []*shard {
	var shards []*shard
	start, bytes := 0, int64(0)
	for i := range outputs {
		if n := outputs[i].Size; bytes > 0 && n > 0 && bytes+n > size {
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

// place is where an Output lies.
type place struct {
	shard *shard
	off   int64 // bytes from the start of the file
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

// layOut makes the header of each shard and fixes where every Output lies.
func layOut(shards []*shard, outputs []stages.Output, layout stages.Layout) ([]place, error) {
	places := make([]place, len(outputs))
	metadata := map[string]string{"format": "pt", "coldload.layout": string(layout)}
	for _, s := range shards {
		order := make([]int, 0, s.end-s.first)
		for r := range 3 {
			for i := s.first; i < s.end; i++ {
				if rank(outputs[i].Size) == r {
					order = append(order, i)
				}
			}
		}
		specs := make([]safetensors.Spec, 0, len(order))
		for _, i := range order {
			specs = append(specs, safetensors.Spec{Name: outputs[i].Name, DType: outputs[i].DType, Shape: outputs[i].Shape})
		}
		l, err := safetensors.NewLayout(specs, safetensors.WriterOptions{Metadata: metadata, Align: dataAlign})
		if err != nil {
			advice := ""
			if errors.Is(err, safetensors.ErrHeaderTooLarge) || errors.Is(err, safetensors.ErrTooManyTensors) {
				advice = "choose smaller shards"
			}
			return nil, stages.Refuse(stages.Fault{Code: stages.CodeSink, File: s.name, Problem: err.Error(), Advice: advice})
		}
		for k, i := range order {
			places[i] = place{s, l.Offset(k)}
		}
		s.header, s.size, s.data, s.sum = l.Header(), l.FileSize(), int64(len(l.Header())), sha256.Sum256(l.Header())
	}
	return places, nil
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
	head := make([]byte, len(s.header))
	_, err = io.ReadFull(f, head)
	return err == nil && bytes.Equal(head, s.header)
}

// create makes the file, with room for all of it and the header in it.
func (s *shard) create(d *disk) error {
	f, err := d.create(s.path)
	if err != nil {
		return err
	}
	err = d.allocate(f, s.size)
	if err == nil {
		err = d.writeAt(f, [][]byte{s.header}, 0)
	}
	return errors.Join(err, f.Close())
}

// open is the file, opened when it is needed for the first time.
func (s *shard) open() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		f, err := os.OpenFile(s.path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		s.file = f
	}
	return s.file, nil
}

// close closes the file, if it is open.
func (s *shard) close() error {
	s.mu.Lock()
	f, direct := s.file, s.direct
	s.file, s.direct = nil, nil
	s.mu.Unlock()
	var errs []error
	if direct != nil {
		errs = append(errs, direct.Close())
	}
	if f != nil {
		drop(f)
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
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

// twice is the names that are not unique. It sorts numbers: a set of half a million names would take more than all else in Begin.
func twice(outputs []stages.Output) (names []string) {
	order := make([]int32, len(outputs))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return strings.Compare(outputs[a].Name, outputs[b].Name) })
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
