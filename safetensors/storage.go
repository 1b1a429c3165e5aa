package safetensors

import (
	"hash/maphash"
	"math/bits"
	"strings"
)

// The stores below hold what a header or an index declares. Each is a list of chunks, or is made once at its final size: nothing grows by
// copying, so what a text costs is bounded by the text itself.

const (
	arenaShift = 18 // a chunk of an arena is 256 KiB
	arenaChunk = 1 << arenaShift

	// maxNameBytes fits the 16 bits that a record has for the length of a name. A name with its shape fits in an arena chunk.
	maxNameBytes = 1<<16 - 1
)

// arena stores short byte strings one after another. Handed out strings share its memory.
type arena struct {
	full []string        // finished chunks
	cur  strings.Builder // the chunk that is being filled
}

// put stores a and b next to each other and returns where. remaining bounds what is still to come, a and b included, so that the last
// chunk of a small text is small.
func (s *arena) put(a, b []byte, remaining int) uint32 {
	if n := len(a) + len(b); s.cur.Len()+n > s.cur.Cap() {
		s.seal()
		s.cur.Grow(max(n, min(remaining, arenaChunk)))
	}
	at := uint32(len(s.full))<<arenaShift | uint32(s.cur.Len())
	s.cur.Write(a)
	s.cur.Write(b)
	return at
}

// seal finishes the current chunk. Strings can be read only from sealed chunks.
func (s *arena) seal() {
	if s.cur.Len() > 0 {
		s.full = append(s.full, s.cur.String())
	}
	s.cur.Reset()
}

// close seals and gives back the room that the last chunk was not filled with: of a checkpoint with hundreds of shards, each header is
// small, and what it does not need would be most of what it keeps.
func (s *arena) close() {
	s.seal()
	if last := len(s.full) - 1; last >= 0 {
		s.full[last] = strings.Clone(s.full[last])
	}
}

// from is everything from at to the end of its chunk.
func (s *arena) from(at uint32) string { return s.full[at>>arenaShift][at&(arenaChunk-1):] }

const (
	listShift = 13 // 8,192 elements a chunk
	listChunk = 1 << listShift
)

// list is a growing list that never copies its elements.
type list[T any] struct {
	chunks [][]T
	n      int
}

// add appends v. remaining bounds how many elements are still to come, v included.
func (l *list[T]) add(v T, remaining int) {
	if l.n&(listChunk-1) == 0 {
		l.chunks = append(l.chunks, make([]T, 0, max(1, min(remaining, listChunk))))
	}
	last := len(l.chunks) - 1
	l.chunks[last] = append(l.chunks[last], v)
	l.n++
}

// close gives back the room that the last chunk was not filled with.
func (l *list[T]) close() {
	if last := len(l.chunks) - 1; last >= 0 && len(l.chunks[last]) < cap(l.chunks[last]) {
		l.chunks[last] = append(make([]T, 0, len(l.chunks[last])), l.chunks[last]...)
	}
}

func (l *list[T]) at(i int) *T { return &l.chunks[i>>listShift][i&(listChunk-1)] }

// table finds keys that are stored elsewhere by number. It is made once for a known count, with room for a third more, and probed
// linearly. A slot holds the number plus one in its low bits and a part of the hash above them, so that few keys are compared in vain.
// The hash is seeded: nobody can write a header whose names all collide.
type table struct {
	seed    maphash.Seed
	slots   []uint32
	numBits int
}

func newTable(n int) table {
	return table{seed: maphash.MakeSeed(), slots: make([]uint32, n+n/3+1), numBits: bits.Len(uint(n))}
}

// probe looks for key. It returns the number it is stored under, or -1 and the slot where it belongs with the tag to store.
func (t *table) probe(key string, keyAt func(int) string) (found int, slot uint64, tag uint32) {
	size := uint64(len(t.slots))
	if size == 0 {
		return -1, 0, 0
	}
	h := maphash.String(t.seed, key)
	slot, _ = bits.Mul64(h, size) // the high bits of the hash, scaled to the size
	tag = uint32(h) << t.numBits
	mask := uint32(1)<<t.numBits - 1
	for {
		s := t.slots[slot]
		if s == 0 {
			return -1, slot, tag
		}
		if s&^mask == tag {
			if i := int(s&mask) - 1; keyAt(i) == key {
				return i, slot, tag
			}
		}
		if slot++; slot == size {
			slot = 0
		}
	}
}

// insert stores number i under its key; when the key is there already it returns the number that has it.
func (t *table) insert(i int, keyAt func(int) string) (earlier int, ok bool) {
	found, slot, tag := t.probe(keyAt(i), keyAt)
	if found >= 0 {
		return found, false
	}
	t.slots[slot] = tag | uint32(i+1)
	return 0, true
}

// find returns the number of key, or -1.
func (t *table) find(key string, keyAt func(int) string) int {
	found, _, _ := t.probe(key, keyAt)
	return found
}
