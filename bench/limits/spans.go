package main

import (
	"fmt"
	"io"
)

// onceCommand is the first argument with which this program loads a checkpoint once, for the processor time of a process of its own.
const onceCommand = "once"

// spanCost is what spans cost: processor seconds, user and system, of loads with them over loads without.
type spanCost struct {
	Pairs int       `json:"pairs"`
	Ratio spread    `json:"ratio"`
	On    []float64 `json:"on_cpu_seconds"`
	Off   []float64 `json:"off_cpu_seconds"`
}

func (s *spanCost) tell(w io.Writer) {
	fmt.Fprintf(w, "\nprocessor time with spans / without, warm load --to discard, %d pairs: **%.3f** (%.3f to %.3f); medians %.3f and %.3f s: %.3f; target 1.01\n",
		s.Pairs, s.Ratio.Median, s.Ratio.Least, s.Ratio.Most, spreadOf(s.On).Median, spreadOf(s.Off).Median, spreadOf(s.On).Median/spreadOf(s.Off).Median)
}
