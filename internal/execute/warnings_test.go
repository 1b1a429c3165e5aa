package execute_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/coldload/coldload/internal/execute"
)

func TestWarningsAreTheSameInAnyOrder(t *testing.T) {
	var reports []string
	for i := range 50 {
		for range 1 + i%3 {
			reports = append(reports, fmt.Sprintf("tensor %02d is odd", i))
		}
	}
	for round := range 20 {
		rand.Shuffle(len(reports), func(i, k int) { reports[i], reports[k] = reports[k], reports[i] })
		w := execute.NewWarnings(10)
		var wg sync.WaitGroup
		for part := range slices.Chunk(slices.Clone(reports), 25) {
			wg.Go(func() {
				for _, r := range part {
					w.Add(r)
				}
			})
		}
		wg.Wait()
		texts, more := w.List()
		// Tensors 0..9 are reported 1+2+3 times, three times over, and once more.
		if len(texts) != 10 || texts[0] != "tensor 00 is odd" || texts[9] != "tensor 09 is odd" || more != len(reports)-19 {
			t.Fatalf("round %d: %q and %d more", round, texts, more)
		}
	}
}

func TestWarningsBelowTheLimitLoseNothing(t *testing.T) {
	w := execute.NewWarnings(0)
	if texts, more := w.List(); len(texts) != 0 || more != 0 {
		t.Errorf("empty collector has %q and %d more", texts, more)
	}
	for _, s := range []string{"b", "a", "b"} {
		w.Add(s)
	}
	if texts, more := w.List(); !slices.Equal(texts, []string{"a", "b"}) || more != 0 {
		t.Errorf("got %q and %d more", texts, more)
	}
}
