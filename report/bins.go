package report

import (
	"cmp"
	"time"
)

// series is an amount for every bin of time.
type series [binCount]int64

// spread adds amount to the bins between two times, to each its share. The shares add up to amount exactly.
func (s *series) spread(width, from, to time.Duration, amount int64) {
	if amount == 0 {
		return
	}
	first, last := int(from/width), int(to/width)
	var given int64
	for bin := first; bin < last; bin++ {
		end := time.Duration(bin+1) * width
		now := int64(float64(amount) * (float64(end-from) / float64(to-from)))
		s[bin] += now - given
		given = now
	}
	s[last] += amount - given
}

// halve joins the bins two by two, in the first half.
func (s *series) halve() {
	for i := range binCount / 2 {
		s[i] = s[2*i] + s[2*i+1]
	}
	clear(s[binCount/2:])
}

// used is how many bins there are up to the last that has something.
func (s *series) used() int {
	n := binCount
	for n > 0 && s[n-1] == 0 {
		n--
	}
	return n
}

func (s *series) list(n int) []int64 { return append([]int64(nil), s[:n]...) }

// level is a height that is noted from time to time: the largest in every bin, and the last, which holds on.
type level struct {
	most, last series
	at         [binCount]time.Duration // when last was noted, plus one; 0 when never
}

func (l *level) note(t time.Duration, bin int, height int64) {
	l.most[bin] = max(l.most[bin], height)
	if l.at[bin] <= t { // events of several workers come a little out of order
		l.last[bin], l.at[bin] = height, t+1
	}
}

func (l *level) halve() {
	for i := range binCount / 2 {
		later := 2*i + 1
		if l.at[later] == 0 {
			later = 2 * i
		}
		l.most[i] = max(l.most[2*i], l.most[2*i+1])
		l.last[i], l.at[i] = l.last[later], l.at[later]
	}
	clear(l.most[binCount/2:])
	clear(l.last[binCount/2:])
	clear(l.at[binCount/2:])
}

// list is the height in the first n bins.
func (l *level) list(n int) []int64 {
	heights := make([]int64, n)
	var now int64
	for i := range heights {
		heights[i] = max(now, l.most[i])
		if l.at[i] != 0 {
			now = l.last[i]
		}
	}
	return heights
}

// compareDown sorts by a from the largest down, then by b from the smallest up.
func compareDown[A, B cmp.Ordered](a1, a2 A, b1, b2 B) int {
	return cmp.Or(cmp.Compare(a2, a1), cmp.Compare(b1, b2))
}
