package main

import (
	"context"
	"slices"
)

// measure is something that is timed once a round.
type measure struct {
	name  string
	how   string // by what it is timed: a limit, a process of its own, or a call in this one
	bytes int64  // that its rate counts; 0: it has none
	need  int64  // bytes of memory that it will take: they are touched, and released as the clock starts
	// early starts what takes long to start, before memory is touched; nil for nothing.
	early func(context.Context) error
	// before makes files warm or cold, and after cleans up; both outside the clock; nil for nothing.
	before func(context.Context) error
	run    func(context.Context) (reading, error)
	after  func() error
}

// What measures are timed by.
const (
	isLimit = "limit"
	process = "process"
	inside  = "in process"
)

// reading is what one run tells.
type reading struct {
	Seconds float64 `json:"seconds"`
	Peak    int64   `json:"peak_anon_bytes,omitempty"`    // seen from outside
	Allowed int64   `json:"allowed_anon_bytes,omitempty"` // by the design
	Result  int64   `json:"result_bytes,omitempty"`
	Gap     float64 `json:"longest_gap_seconds,omitempty"` // between two looks at its memory
}

// sample is one run of one measure, and what else went on.
type sample struct {
	reading

	Measure   string  `json:"measure"`
	Round     int     `json:"round"` // 0 is dropped
	Bytes     int64   `json:"bytes"`
	Activity  traffic `json:"activity"`
	Disturbed string  `json:"disturbed,omitempty"` // by what; empty when it was not
}

// rate is GB/s.
func (s sample) rate() float64 { return float64(s.Bytes) / s.Seconds / 1e9 }

// samples are those of all measures and rounds.
type samples []sample

// of are a measure's samples that count, by round.
func (s samples) of(name string) map[int]sample {
	list := map[int]sample{}
	for _, x := range s {
		if x.Measure == name && x.Round > 0 {
			list[x.Round] = x
		}
	}
	return list
}

// spread is the least, the median and the most of some figures.
type spread struct {
	Least  float64 `json:"least"`
	Median float64 `json:"median"`
	Most   float64 `json:"most"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	v := slices.Sorted(slices.Values(values))
	middle := v[len(v)/2]
	if len(v)%2 == 0 {
		middle = (v[len(v)/2-1] + middle) / 2
	}
	return spread{v[0], middle, v[len(v)-1]}
}
