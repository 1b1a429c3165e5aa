package bench

import (
	"slices"
	"testing"
	"time"
)

// contender is one of several things that are timed against each other.
type contender struct {
	name string
	// before prepares the machine for run, outside the clock; nil for nothing.
	before func() error
	// run does the work once. What it returns is called after the clock has stopped; nil for nothing to clean up.
	run func() (cleanUp func() error, err error)
}

// times are the durations of one contender, round by round.
type times []time.Duration

func (t times) median() time.Duration {
	s := slices.Sorted(slices.Values(t))
	return s[len(s)/2]
}

// race runs all contenders in turn, once a round, so that what disturbs the machine disturbs all of them. The first round fills caches and
// is dropped when there are others. The benchmark's own ns/op, the sum over all contenders, means nothing and is left out.
func race(b *testing.B, list ...contender) map[string]times {
	b.Helper()
	all := map[string]times{}
	for b.Loop() {
		for _, c := range list {
			if c.before != nil {
				if err := c.before(); err != nil {
					b.Fatalf("%s: %v", c.name, err)
				}
			}
			start := time.Now()
			cleanUp, err := c.run()
			took := time.Since(start)
			if err != nil {
				b.Fatalf("%s: %v", c.name, err)
			}
			all[c.name] = append(all[c.name], took)
			if cleanUp == nil {
				continue
			}
			if err := cleanUp(); err != nil {
				b.Fatalf("%s: %v", c.name, err)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for name, t := range all {
		if len(t) > 1 {
			all[name] = t[1:]
		}
	}
	return all
}

// ratio is the median of what a took against b, round by round.
func ratio(a, b times) float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i].Seconds() / b[i].Seconds()
	}
	slices.Sort(r)
	return r[len(r)/2]
}

// rate is GB/s.
func rate(bytes int64, d time.Duration) float64 { return float64(bytes) / d.Seconds() / 1e9 }
