package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// line is a row of the table: what is measured, over its limit.
type line struct {
	Name   string   `json:"name"`
	Ours   string   `json:"ours"`
	Limits []string `json:"limits"` // the slowest of them counts
	// ByByte compares rates; else times, of the same work.
	ByByte bool `json:"by_byte"`
	// Fixed is a limit that was measured elsewhere, in seconds; then there are no others.
	Fixed   float64 `json:"fixed_seconds,omitempty"`
	AtLeast float64 `json:"at_least,omitempty"`
	Aim     float64 `json:"aim,omitempty"`

	Ratio   spread `json:"ratio"`
	Rounds  int    `json:"rounds"`         // that count
	Quiet   int    `json:"quiet"`          // of them undisturbed
	AllTold bool   `json:"with_disturbed"` // too few were undisturbed: all count
}

// fewest undisturbed rounds make a median; with fewer, the disturbed ones count too, and the table marks it.
const fewest = 3

// fill computes the ratios of the rounds: limit's time over ours, so 1 is as fast as the limit.
func (l line) fill(all samples) (line, bool) {
	var every, quiet []float64
	for round, ours := range all.of(l.Ours) {
		limit, calm, ok := l.limit(all, round, ours)
		if !ok {
			return l, false
		}
		every = append(every, limit/ours.Seconds)
		if calm && ours.Disturbed == "" {
			quiet = append(quiet, limit/ours.Seconds)
		}
	}
	l.Rounds, l.Quiet = len(every), len(quiet)
	l.Ratio = spreadOf(quiet)
	if len(quiet) < min(fewest, len(every)) {
		l.Ratio, l.AllTold = spreadOf(every), true
	}
	return l, len(every) > 0
}

// limit is the time that the limit allows in one round, and whether that was undisturbed.
func (l line) limit(all samples, round int, ours sample) (seconds float64, calm, ok bool) {
	seconds, calm = l.Fixed, true
	for _, name := range l.Limits {
		s, ok := all.of(name)[round]
		if !ok {
			return 0, false, false
		}
		took := s.Seconds
		if l.ByByte {
			took *= float64(ours.Bytes) / float64(s.Bytes)
		}
		seconds, calm = max(seconds, took), calm && s.Disturbed == ""
	}
	return seconds, calm, true
}

// print writes the line as a row of a table.
func (l line) print(w io.Writer) {
	mark := ""
	if l.AllTold {
		mark = " *"
	}
	fmt.Fprintf(w, "| %s | **%.2f**%s (%.2f to %.2f) | %s | %s | %d of %d |\n",
		l.Name, l.Ratio.Median, mark, l.Ratio.Least, l.Ratio.Most, target(l.AtLeast), target(l.Aim), l.Quiet, l.Rounds)
}

func target(x float64) string {
	if x == 0 {
		return ""
	}
	return fmt.Sprintf("%.4g", x)
}

// pace is the rate of one measure.
type pace struct {
	Measure string `json:"measure"`
	How     string `json:"how"`
	Bytes   int64  `json:"bytes"`
	Rate    spread `json:"gb_per_second"`
	Seconds spread `json:"seconds"`
	Quiet   int    `json:"quiet"`
	Rounds  int    `json:"rounds"`
}

func paceOf(m measure, all samples) pace {
	p := pace{Measure: m.name, How: m.how, Bytes: m.bytes}
	var every, calm samples
	for _, s := range all.of(m.name) {
		if every = append(every, s); s.Disturbed == "" {
			calm = append(calm, s)
		}
	}
	p.Rounds, p.Quiet = len(every), len(calm)
	if len(calm) >= min(fewest, len(every)) {
		every = calm
	}
	var rates, times []float64
	for _, s := range every {
		rates, times = append(rates, s.rate()), append(times, s.Seconds)
	}
	p.Rate, p.Seconds = spreadOf(rates), spreadOf(times)
	return p
}

func (p pace) print(w io.Writer) {
	rate := ""
	if p.Bytes > 0 {
		rate = fmt.Sprintf("%.2f (%.2f to %.2f)", p.Rate.Median, p.Rate.Least, p.Rate.Most)
	}
	fmt.Fprintf(w, "| %s | %s | %s | %.3f (%.3f to %.3f) | %d of %d |\n", p.Measure, p.How, rate,
		p.Seconds.Median, p.Seconds.Least, p.Seconds.Most, p.Quiet, p.Rounds)
}

// memoryUse is how near a measure came to the memory that the design allows it, at the most of all rounds.
type memoryUse struct {
	Measure string  `json:"measure"`
	Peak    int64   `json:"peak_anon_bytes"`
	Allowed int64   `json:"allowed_anon_bytes"`
	Result  int64   `json:"result_bytes"`
	Gap     float64 `json:"longest_gap_seconds"` // between two looks
}

func memoryOf(m measure, all samples) memoryUse {
	u := memoryUse{Measure: m.name}
	for _, s := range all {
		if s.Measure == m.name {
			u.Peak, u.Gap = max(u.Peak, s.Peak), max(u.Gap, s.Gap)
			u.Allowed, u.Result = s.Allowed, s.Result
		}
	}
	return u
}

func (u memoryUse) print(w io.Writer) {
	fmt.Fprintf(w, "| %s | %.1f | %.1f | %.1f | %.2f | %.0f ms |\n", u.Measure, float64(u.Peak)/1e6, float64(u.Peak-u.Result)/1e6,
		float64(u.Allowed)/1e6, float64(u.Peak)/float64(u.Allowed), 1e3*u.Gap)
}

// print writes all tables as Markdown.
func (r *results) print(w io.Writer) {
	heading(w, "measure / limit", "ratio", "at least", "aim", "undisturbed rounds")
	for _, l := range r.Lines {
		l.print(w)
	}
	heading(w, "measure", "timed by", "GB/s", "seconds", "undisturbed rounds")
	for _, p := range r.Paces {
		p.print(w)
	}
	heading(w, "peak anonymous memory", "MB", "beyond the result", "allowed", "ratio", "longest gap")
	for _, u := range r.Memory {
		u.print(w)
	}
	if slices.ContainsFunc(r.Lines, func(l line) bool { return l.AllTold }) {
		fmt.Fprintf(w, "\n\\* fewer than %d rounds were undisturbed: all count\n", fewest)
	}
}

func heading(w io.Writer, columns ...string) {
	fmt.Fprintf(w, "\n| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}
