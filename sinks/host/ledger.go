package host

import (
	"math/bits"
	"sort"
	"sync/atomic"

	"github.com/coldload/coldload/stages"
)

// ledger knows of every Slab whether it was reserved and whether it was written: two bits each, and eight bytes per Output. Its methods
// but missing are safe for concurrent use.
type ledger struct {
	first             []int64 // number of each Output's first Slab, counted over all Outputs; one more entry with the total
	reserved, written []atomic.Uint64
}

func newLedger(outputs []stages.Output) ledger {
	first := make([]int64, len(outputs)+1)
	for i := range outputs {
		first[i+1] = first[i] + int64(outputs[i].Slabs())
	}
	words := (first[len(outputs)] + 63) / 64
	return ledger{first: first, reserved: make([]atomic.Uint64, words), written: make([]atomic.Uint64, words)}
}

// number is the Slab's place in the ledger. The Slab exists.
func (l *ledger) number(s stages.Slab) int64 { return l.first[s.Output] + int64(s.Index) }

// reserve is false when the Slab was reserved before.
func (l *ledger) reserve(n int64) bool { return set(l.reserved, n) }

// write is false when the Slab was not reserved, or was written before.
func (l *ledger) write(n int64) bool {
	return l.reserved[n/64].Load()&(1<<(n%64)) != 0 && set(l.written, n)
}

// set is false when the bit was set before.
func set(words []atomic.Uint64, n int64) bool {
	bit := uint64(1) << (n % 64)
	return words[n/64].Or(bit)&bit == 0
}

// missing finds the first Slab that was not written; of the Slab only Output and Index are set.
func (l *ledger) missing() (stages.Slab, bool) {
	for w := range l.written {
		n := int64(w)*64 + int64(bits.TrailingZeros64(^l.written[w].Load()))
		if n < min(int64(w+1)*64, l.first[len(l.first)-1]) {
			output := sort.Search(len(l.first), func(i int) bool { return l.first[i] > n }) - 1
			return stages.Slab{Output: output, Index: int(n - l.first[output])}, true
		}
	}
	return stages.Slab{}, false
}
