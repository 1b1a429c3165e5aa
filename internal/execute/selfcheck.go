package execute

import (
	"fmt"
	"math/rand/v2"

	"github.com/coldload/coldload/stages"
)

// How much is looked at: a word of each of the first Parts, so that small loads are checked too, and then one in so many bytes. A word costs
// about a microsecond, since neither it nor its source lies in a cache; repacking 1 MiB takes some hundred.
const (
	checkFirst = 64
	checkEvery = 2 << 20
)

// selfCheck compares a sample of what the Part's Op wrote with its source, if the Op is a Checker. Each run looks at other places.
func (r *run) selfCheck() error {
	c, ok := r.part.Op.(stages.Checker)
	if !ok || r.opt.NoSelfCheck {
		return nil
	}
	j := &r.job
	for range r.stage.wordsToCheck(j.Rows * (j.RowBytes &^ 3)) {
		if err := c.CheckWord(j, rand.IntN(j.Rows), rand.IntN(j.RowBytes/4)); err != nil {
			return fmt.Errorf("self-check: %w; the processor, its memory or a kernel of this program is wrong, or the file was written meanwhile: "+
				"run again, also without vector instructions (COLDLOAD_CPU_DISABLE=avx2), and report it", err)
		}
	}
	return nil
}

// wordsToCheck is how many words of a Part of so many bytes are looked at.
func (e *Executor) wordsToCheck(size int) int {
	if size == 0 {
		return 0
	}
	n := size / checkEvery
	if rand.IntN(checkEvery) < size%checkEvery {
		n++
	}
	if e.checked.Load() < checkFirst && e.checked.Add(1) <= checkFirst {
		n = max(n, 1)
	}
	return n
}
