package packed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/coldload/coldload/internal/staging"
	"github.com/coldload/coldload/stages"
)

// Comparer is a stages.Sink that keeps nothing: it compares what a load makes with what the manifest of a packed folder says. It is a
// Stager too. A difference is no error: Differences lists them after Commit.
//
// Bytes are compared through their digests. Where the Slabs have another size than when the Output was packed, the folder itself is read.
type Comparer struct {
	dir     Folder
	m       *Manifest
	outputs []stages.Output
	packed  []int // index into m.Outputs; -1 for an Output that is not compared
	digests map[Algorithm]*Digests

	mu          sync.Mutex // guards all below
	pool        *staging.Pool
	held        map[stages.Slab]staging.Block
	files       map[string]*os.File
	different   map[int]int64 // by Output: offset of the first byte that differs, among those compared with the folder
	differences []Difference
}

// NewComparer makes a Comparer for one load. m must be sorted.
func NewComparer(dir Folder, m *Manifest) *Comparer {
	return &Comparer{
		dir: dir, m: m, digests: map[Algorithm]*Digests{}, pool: staging.New(), held: map[stages.Slab]staging.Block{},
		files: map[string]*os.File{}, different: map[int]int64{},
	}
}

// Name is "compare", for spans.
func (*Comparer) Name() string { return "compare" }

// Begin compares the lists of Outputs.
func (c *Comparer) Begin(_ context.Context, outputs []stages.Output) error {
	c.outputs = outputs
	c.packed = make([]int, len(outputs))
	made := make(map[string]bool, len(outputs))
	for i := range outputs {
		o := &outputs[i]
		made[o.Name] = true
		at, ok := slices.BinarySearchFunc(c.m.Outputs, o.Name, func(p Output, name string) int { return bytes.Compare([]byte(p.Name), []byte(name)) })
		c.packed[i] = -1
		if !ok {
			c.differences = append(c.differences, Difference{ManifestName, o.Name, Missing, "made from the checkpoint, and not in the folder"})
			continue
		}
		p := &c.m.Outputs[at]
		if p.DType != o.DType || p.Layout != o.Layout || !slices.Equal(p.Shape, o.Shape) {
			c.differences = append(c.differences, Difference{p.File, o.Name, Differs, fmt.Sprintf("%s %v %s, made from the checkpoint is %s %v %s",
				p.DType, p.Shape, p.Layout, o.DType, o.Shape, o.Layout)})
			continue
		}
		c.packed[i] = at
		if a := p.Digest.Algorithm; c.digests[a] == nil {
			c.digests[a] = NewDigests(a, outputs)
		}
	}
	for i := range c.m.Outputs {
		if p := &c.m.Outputs[i]; !made[p.Name] {
			c.differences = append(c.differences, Difference{p.File, p.Name, Extra, "not made from the checkpoint"})
		}
	}
	return nil
}

// StagingBytes is the size of the buffer that Reserve hands out, in bytes.
func (c *Comparer) StagingBytes(s stages.Slab) int64 { return staging.BlockBytes(s.Len) }

// Reserve hands out a buffer of s.Len bytes.
func (c *Comparer) Reserve(_ context.Context, s stages.Slab) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, err := c.pool.Get(s.Len)
	if err != nil {
		return nil, err
	}
	c.held[s] = b
	return b.Bytes(s.Len), nil
}

// Write compares the Slab.
func (c *Comparer) Write(_ context.Context, s stages.Slab, b []byte) error {
	err := c.compare(s, b)
	c.mu.Lock()
	defer c.mu.Unlock()
	block, ok := c.held[s]
	if !ok {
		return errors.Join(err, fmt.Errorf("slab %d of output %d was not reserved", s.Index, s.Output))
	}
	delete(c.held, s)
	return errors.Join(err, c.pool.Put(block))
}

func (c *Comparer) compare(s stages.Slab, b []byte) error {
	at := c.packed[s.Output]
	if at < 0 {
		return nil
	}
	p := &c.m.Outputs[at]
	if p.Digest.SlabBytes != c.outputs[s.Output].SlabBytes {
		return c.compareBytes(s, p, b)
	}
	d := c.digests[p.Digest.Algorithm]
	_, err := d.Add(s, d.Hash(b))
	return err
}

// compareBytes compares a Slab with the folder's own bytes.
func (c *Comparer) compareBytes(s stages.Slab, p *Output, b []byte) error {
	f, err := c.open(p.File)
	if err != nil {
		return err
	}
	there := make([]byte, len(b))
	n, err := f.ReadAt(there, p.Offset+s.Off)
	if err == nil && bytes.Equal(there, b) {
		return nil
	}
	first := int64(0)
	for first < int64(n) && there[first] == b[first] {
		first++
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if was, ok := c.different[s.Output]; !ok || s.Off+first < was {
		c.different[s.Output] = s.Off + first
	}
	return nil // bytes that cannot be read differ: Verify says why
}

func (c *Comparer) open(name string) (*os.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.files[name]; f != nil {
		return f, nil
	}
	f, err := c.dir.Open(name)
	if err == nil {
		c.files[name] = f
	}
	return f, err
}

// Commit compares the digests.
func (c *Comparer) Commit(context.Context) error {
	for i := range c.outputs {
		at := c.packed[i]
		if at < 0 {
			continue
		}
		o, p := &c.outputs[i], &c.m.Outputs[at]
		if p.Digest.SlabBytes != o.SlabBytes {
			if first, ok := c.different[i]; ok {
				c.differences = append(c.differences, Difference{
					p.File, o.Name, Differs,
					fmt.Sprintf("computed again, it is another from byte %d on", first),
				})
			}
			continue
		}
		d := c.digests[p.Digest.Algorithm]
		if d.Missing(i) > 0 {
			return fmt.Errorf("output %s was not made completely", o.Name)
		}
		if got := d.Root(i); got != p.Digest.Root {
			c.differences = append(c.differences, Difference{
				p.File, o.Name, Differs,
				fmt.Sprintf("computed again, it has %s %s, packed was %s", p.Digest.Algorithm, got, p.Digest.Root),
			})
		}
	}
	return nil
}

// Differences are those found, after Commit.
func (c *Comparer) Differences() []Difference { return c.differences }

// Close lets go of everything.
func (c *Comparer) Close() error {
	var errs []error
	for _, f := range c.files {
		errs = append(errs, f.Close())
	}
	c.files = nil
	return errors.Join(append(errs, c.pool.Close())...)
}
