package file

import (
	"context"
	"runtime"

	"github.com/coldload/coldload/stages"
)

// How residency is sampled: some windows of every Shard.
const (
	sampleWindows = 16
	sampleBytes   = 1 << 20
	// coldEnough is the share of the windows that must be cold for the disk to be what a load waits for.
	coldEnough = 0.05
	// warmFetchers is the least for warm files.
	warmFetchers = 2
)

// Fetchers is how many goroutines should call Fetch now. It depends on how much of the Shards the page cache holds, and costs a
// system call for each of some samples.
//
//   - Cold: as many as the requests that a device is given at one time, 8; they wait most of the time and take no processor.
//   - Warm: one for two processors, but two at least: a single one waits for a processor while all stages wait for it. Faulting pages
//     in is work for a processor that competes with the stages that use them, and more goroutines than that fight over the locks of the
//     address space.
func (s *Source) Fetchers(ctx context.Context) int {
	if err := s.enter(); err != nil {
		return 1 // Fetch will say it
	}
	defer s.leave()
	if s.coldShare(ctx) > coldEnough {
		return mostDepth
	}
	return max(warmFetchers, runtime.GOMAXPROCS(0)/2)
}

// coldShare is how much of the Shards is not in the page cache, by samples, 0 to 1. What is not known counts as cold.
func (s *Source) coldShare(ctx context.Context) float64 {
	var cold, all float64
	for _, sh := range s.shards {
		if context.Cause(ctx) != nil {
			break
		}
		all += float64(sh.Size)
		cold += float64(sh.Size) * (1 - s.sample(sh))
	}
	if all == 0 {
		return 0
	}
	return cold / all
}

// sample is about how much of sh the page cache holds, 0 to 1.
func (s *Source) sample(sh *shard) float64 {
	if sh.Size == 0 || sh.remote() {
		return 0
	}
	var sum float64
	step := max(sh.Size/sampleWindows, 1)
	n := 0
	for off := int64(0); off < sh.Size && n < sampleWindows; off += step {
		share, known := s.kernel.resident(sh, stages.Extent{Off: off, Len: min(sampleBytes, sh.Size-off)})
		if !known {
			return 0
		}
		sum += share
		n++
	}
	return sum / float64(n)
}
