package nibbles

import (
	"math/rand/v2"
	"testing"
)

func nibble(w uint32, i int) uint32 { return w >> (4 * i) & 15 }

func TestTranspose(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		var w [8]uint64
		for i := range w {
			w[i] = rng.Uint64()
		}
		got := w
		Transpose(&got)
		for i := range w {
			for j := range w {
				for _, half := range []int{0, 32} {
					if nibble(uint32(got[i]>>half), j) != nibble(uint32(w[j]>>half), i) {
						t.Fatalf("word %d, nibble %d, half %d of %016X: %016X", i, j, half, w, got)
					}
				}
			}
		}
	}
}

func TestOrders(t *testing.T) {
	for p, i := range EvensFirst {
		if int(FieldOf[i]) != p {
			t.Errorf("neighbour %d: field %d, want %d", i, FieldOf[i], p)
		}
	}
	w := uint32(0x75316420) // the neighbours' own numbers
	if got := Natural(w); got != 0x76543210 {
		t.Errorf("Natural(%08X) = %08X", w, got)
	}
	for i := range 8 {
		if w := rand.Uint32(); nibble(Natural(w), i) != nibble(w, int(FieldOf[i])) {
			t.Errorf("neighbour %d of %08X: %08X", i, w, Natural(w))
		}
	}
}
