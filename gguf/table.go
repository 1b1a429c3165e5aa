package gguf

import "hash/maphash"

// table finds keys that are stored elsewhere by number: open addressing over numbers plus one, 0 for a free slot. The hash is seeded: nobody
// can write a header whose names all collide.
type table struct {
	seed  maphash.Seed
	slots []uint32
	n     int
}

// find returns the number of key, or -1.
func (t *table) find(key string, keyAt func(int) string) int {
	_, n := t.probe(key, keyAt)
	return n
}

// probe returns the number of key, or -1, and the slot where it is or would be.
func (t *table) probe(key string, keyAt func(int) string) (slot uint64, number int) {
	mask := uint64(len(t.slots) - 1)
	for at := maphash.String(t.seed, key) & mask; ; at = (at + 1) & mask {
		n := int(t.slots[at]) - 1
		if n < 0 || keyAt(n) == key {
			return at, n
		}
	}
}

// newTable has room for n keys, with from 8 to 16 bytes for each.
func newTable(n int) table {
	size := 16
	for size < 2*n {
		size *= 2
	}
	return table{seed: maphash.MakeSeed(), slots: make([]uint32, size)}
}

// add stores the next number under its key; false when the key is there already.
func (t *table) add(keyAt func(int) string) bool {
	slot, n := t.probe(keyAt(t.n), keyAt)
	if n >= 0 {
		return false
	}
	t.n++
	t.slots[slot] = uint32(t.n)
	return true
}
