package execute

import (
	"maps"
	"slices"
	"sync"
)

// DefaultWarnings is how many distinct texts a Warnings keeps when it is not told.
const DefaultWarnings = 100

// Warnings collects the warnings of a load: each text once, and no more than a limit. What it holds depends on what was reported and not
// on when, so it is the same whatever order the workers ran in. It is safe for concurrent use.
type Warnings struct {
	limit int

	mu    sync.Mutex
	kept  map[string]int // how often each was added
	last  string         // the greatest of kept
	total int
}

// NewWarnings makes a collector that keeps limit distinct texts, the first ones in sorted order; DefaultWarnings when limit is 0.
func NewWarnings(limit int) *Warnings {
	if limit <= 0 {
		limit = DefaultWarnings
	}
	return &Warnings{limit: limit, kept: make(map[string]int)}
}

// Add reports one warning.
func (w *Warnings) Add(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total++
	switch _, known := w.kept[text]; {
	case known:
		w.kept[text]++
	case len(w.kept) < w.limit:
		w.kept[text] = 1
		w.last = max(w.last, text)
	case text < w.last:
		// Keep the least texts, not the earliest: which come first is chance, which are least is not.
		delete(w.kept, w.last)
		w.kept[text] = 1
		w.last = slices.Max(slices.Collect(maps.Keys(w.kept)))
	}
}

// List returns the texts that were kept, sorted, and how many reports are not among them.
func (w *Warnings) List() (texts []string, more int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	more = w.total
	for _, n := range w.kept {
		more -= n
	}
	return slices.Sorted(maps.Keys(w.kept)), more
}
