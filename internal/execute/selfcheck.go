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
	checkEvery = 3 << 20
)

// selfCheck compares a sample of what the Part's Op wrote with its source, if the Op is a Checker. Each run looks at other places.
func (r *run) selfCheck() error {
	c, ok := r.part.Op.(stages.Checker)
	if !ok || r.opt.NoSelfCheck {
		return nil
	}
	j := &r.job
	for range r.stage.wordsToCheck(j.Rows * (j.RowBytes &^ 3)) {
		row, word := somewhere(j.Rows), somewhere(j.RowBytes/4)
		if err := c.CheckWord(j, row, word); err != nil {
			return fmt.Errorf("self-check: %s%w; %s", r.place(row, word), err, selfCheckAdvice)
		}
	}
	return nil
}

// somewhere is one of n places. The first and the last few are as likely as all others: what a kernel does at its ends is code of its own.
func somewhere(n int) int {
	const ends = 16
	switch few := min(n, ends); rand.IntN(4) {
	case 0:
		return rand.IntN(few)
	case 1:
		return n - 1 - rand.IntN(few)
	default:
		return rand.IntN(n)
	}
}

const selfCheckAdvice = "the processor, its memory or a kernel of this program is wrong, or the file was written meanwhile: run again, also without " +
	"vector instructions (COLDLOAD_CPU_DISABLE=avx2); if it comes back, report it as a bug of coldload, with this text; " +
	"--no-self-check takes the result as it is"

// place names the Output that the Part's word belongs to, and where in it that is.
func (r *run) place(row, word int) string {
	slab := r.batch.Slabs[r.part.Slab]
	if slab.Output >= len(r.batch.Outputs) {
		return ""
	}
	at := slab.Off + r.part.Dst.Off + int64(row)*r.part.Dst.Stride + 4*int64(word)
	return fmt.Sprintf("output %s, byte %d: ", r.batch.Outputs[slab.Output].Name, at)
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
