package main

import (
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// piece is a range of one of several files, or pieces of memory.
type piece struct {
	file      int
	off, size int64
	at        int64 // in all of them together, each beginning at a multiple of step
}

// pieces cuts what has these sizes.
func pieces(sizes []int64, step int64) (list []piece) {
	var at int64
	for i, n := range sizes {
		for off := int64(0); off < n; off += step {
			list = append(list, piece{file: i, off: off, size: min(step, n-off), at: at})
			at += step
		}
	}
	return list
}

// onCores works off a list with one goroutine per processor.
func onCores(list []piece, work func(worker int, p piece) error) error {
	return onWorkers(runtime.NumCPU(), list, work)
}

// onWorkers works off a list in order with n goroutines.
func onWorkers(n int, list []piece, work func(worker int, p piece) error) error {
	var next atomic.Int64
	return workers(n, func(worker int) error {
		for {
			i := next.Add(1) - 1
			if i >= int64(len(list)) {
				return nil
			}
			if err := work(worker, list[i]); err != nil {
				return err
			}
		}
	})
}

// workers runs work in so many goroutines, each with its number, until all have ended.
func workers(n int, work func(worker int) error) error {
	var g errgroup.Group
	for w := range n {
		g.Go(func() error { return work(w) })
	}
	return g.Wait()
}
