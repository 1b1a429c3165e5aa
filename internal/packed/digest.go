package packed

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"

	"github.com/coldload/coldload/stages"
)

// Algorithm names a hash.
type Algorithm string

// The algorithms that a digest may name.
const (
	BLAKE3 Algorithm = "blake3" // what is written unless asked otherwise: twice as fast as SHA256 with its instructions
	SHA256 Algorithm = "sha256"
)

var algorithms = map[Algorithm]struct {
	sum func([]byte) [32]byte
	new func() hash.Hash
}{
	BLAKE3: {blake3.Sum256, func() hash.Hash { return blake3.New() }},
	SHA256: {sha256.Sum256, sha256.New},
}

// Valid reports whether this version computes a.
func (a Algorithm) Valid() bool {
	_, ok := algorithms[a]
	return ok
}

// Sum is the hash of b. Like New and Root it panics when a is not Valid.
func (a Algorithm) Sum(b []byte) Sum { return algorithms[a].sum(b) }

// New is a running hash.
func (a Algorithm) New() hash.Hash { return algorithms[a].new() }

// Root is the digest of an Output whose Slabs have these hashes, in order.
func (a Algorithm) Root(slabs []Sum) Sum {
	if len(slabs) == 1 {
		return a.Sum(slabs[0][:])
	}
	h := a.New()
	for i := range slabs {
		_, _ = h.Write(slabs[i][:]) // a hash never fails
	}
	return sumOf(h)
}

// Sum is a hash of 32 bytes, in text as lower-case hex.
type Sum [32]byte

func sumOf(h hash.Hash) (s Sum) {
	h.Sum(s[:0])
	return s
}

// String is the Sum in hex.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// MarshalText is String.
func (s Sum) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, s[:]), nil }

// UnmarshalText takes 64 lower-case hex digits.
func (s *Sum) UnmarshalText(text []byte) error {
	if len(text) != 2*len(s) {
		return fmt.Errorf("a hash has %d hex digits, not %d", 2*len(s), len(text))
	}
	for _, c := range text {
		if c >= 'A' && c <= 'F' {
			return errors.New("hex digits are written in lower case")
		}
	}
	_, err := hex.Decode(s[:], text)
	return err
}

// Digest is what the bytes of an Output must hash to.
type Digest struct {
	Algorithm Algorithm `json:"algorithm"`
	SlabBytes int64     `json:"slab_bytes"` // of every Slab but the last; 0 only for an Output of no bytes
	Root      Sum       `json:"root"`
}

// Digests collects the hashes of Slabs, which come in any order and from any goroutine. It takes 32 bytes a Slab, so 2^32 of them do not come about, and 8
// an Output.
type Digests struct {
	algorithm Algorithm
	first     []uint32 // number of each Output's first Slab, counted over all Outputs; one more entry with the total
	slabs     []Sum
	seen      []atomic.Uint64 // one bit a Slab
	early     []atomic.Uint64 // one bit a Slab: its hash is there, the Slab is not
	missing   []atomic.Int32  // Slabs of each Output that are not there
}

// NewDigests makes the collection for outputs. It panics when a is not Valid.
func NewDigests(a Algorithm, outputs []stages.Output) *Digests {
	n := len(outputs)
	d := &Digests{algorithm: a, first: make([]uint32, n+1), missing: make([]atomic.Int32, n)}
	for i := range outputs {
		slabs := outputs[i].Slabs()
		d.first[i+1] = d.first[i] + uint32(slabs)
		d.missing[i].Store(int32(slabs))
	}
	d.slabs = make([]Sum, d.first[n])
	d.seen = make([]atomic.Uint64, (d.first[n]+63)/64)
	d.early = make([]atomic.Uint64, len(d.seen))
	return d
}

// Hash is the hash of a Slab's bytes, for Add.
func (d *Digests) Hash(b []byte) Sum { return d.algorithm.Sum(b) }

// Hashed keeps the hash of a Slab that does not exist yet, for TakeHashed. It does nothing for one that was added.
func (d *Digests) Hashed(s stages.Slab, b []byte) {
	if d.Has(s) {
		return
	}
	n := d.Number(s)
	d.slabs[n] = d.Hash(b)
	d.early[n/64].Or(1 << (n % 64))
}

// TakeHashed is the hash of a Slab with the bytes b: what Hashed kept, or computed now. It may be called once after Hashed.
func (d *Digests) TakeHashed(s stages.Slab, b []byte) Sum {
	n := d.Number(s)
	if bit := uint64(1) << (n % 64); d.early[n/64].And(^bit)&bit != 0 {
		return d.slabs[n]
	}
	return d.Hash(b)
}

// Add takes the hash of a Slab that exists. It is true when the Output is complete with it, and fails when the Slab was added before.
func (d *Digests) Add(s stages.Slab, sum Sum) (last bool, err error) {
	n := d.Number(s)
	if bit := uint64(1) << (n % 64); d.seen[n/64].Or(bit)&bit != 0 {
		return false, fmt.Errorf("slab %d is written already", s.Index)
	}
	d.slabs[n] = sum
	return d.missing[s.Output].Add(-1) == 0, nil
}

// Number counts a Slab over all Outputs, from 0 on.
func (d *Digests) Number(s stages.Slab) int64 { return int64(d.first[s.Output]) + int64(s.Index) }

// Len is the number of all Slabs.
func (d *Digests) Len() int64 { return int64(len(d.slabs)) }

// Has says whether the Slab was added.
func (d *Digests) Has(s stages.Slab) bool {
	n := d.Number(s)
	return d.seen[n/64].Load()&(1<<(n%64)) != 0
}

// Sum is the hash of a Slab that was added.
func (d *Digests) Sum(s stages.Slab) Sum { return d.slabs[d.Number(s)] }

// Missing is the number of Slabs that the Output lacks.
func (d *Digests) Missing(output int) int { return int(d.missing[output].Load()) }

// Root is the root of an Output that is complete: Add told so, or it has no bytes. It is computed each time.
func (d *Digests) Root(output int) Sum {
	return d.algorithm.Root(d.slabs[d.first[output]:d.first[output+1]])
}

// hashBuffers are what HashReader reads into: a folder may have many small files and Outputs.
var hashBuffers = sync.Pool{New: func() any { b := make([]byte, 1<<20); return &b }}

// HashReader is the SHA-256 of what r has left, and how many bytes that is. When ctx ends it fails with the cause.
func HashReader(ctx context.Context, r io.Reader) (sum Sum, n int64, err error) {
	buf := hashBuffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer hashBuffers.Put(buf)
	h := sha256.New()
	n, err = io.CopyBuffer(struct{ io.Writer }{h}, alive{ctx, r}, *buf)
	return sumOf(h), n, err
}

// alive reads until ctx ends.
type alive struct {
	ctx context.Context //nolint:containedctx // it lives as long as one call
	r   io.Reader
}

func (a alive) Read(p []byte) (int, error) {
	if err := context.Cause(a.ctx); err != nil {
		return 0, err
	}
	return a.r.Read(p)
}
