package main

import (
	"flag"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strings"
)

// overheadCommand is the first argument with which this program measures what telemetry costs, and receiveCommand that with which it is the
// collector of that, in a process of its own.
const (
	overheadCommand = "overhead"
	receiveCommand  = "receive"
)

// overheadOptions of a run.
type overheadOptions struct {
	path    string   // the checkpoint
	program string   // the coldload to measure; empty builds it
	pairs   int      // that count
	with    []string // more flags of the load that has everything on
}

func parseOverhead(log io.Writer, args []string) (overheadOptions, error) {
	var o overheadOptions
	fs := flag.NewFlagSet("limits "+overheadCommand, flag.ContinueOnError)
	fs.SetOutput(log)
	fs.Usage = func() {
		fmt.Fprintln(log, "usage: go run ./bench/limits overhead [flags] CHECKPOINT")
		fs.PrintDefaults()
	}
	fs.IntVar(&o.pairs, "pairs", 15, "pairs of loads that count; one before them is dropped")
	fs.StringVar(&o.program, "coldload", "", "`program` to measure; default: built from this source")
	fs.Func("with", "`flag` of the load that exports, such as --with=--report=FILE or --with=--trace-batches; may be repeated", func(s string) error {
		o.with = append(o.with, s)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() != 1 {
		return o, fmt.Errorf("exactly one CHECKPOINT is needed, not %q", fs.Args())
	}
	if o.pairs < 2 {
		return o, fmt.Errorf("--pairs %d: an interval needs 2 at least", o.pairs)
	}
	path, err := filepath.Abs(fs.Arg(0))
	o.path = path
	return o, err
}

// overhead is what telemetry costs: processor seconds, user and system, of loads with everything on and of loads with everything off.
type overhead struct {
	on, off  []float64 // of the pairs that count
	spans    float64   // of one load
	spanCost float64   // processor seconds to make, encode and send one
	with     []string
}

func (o *overhead) tell(w io.Writer) {
	var ratios, more []float64
	for i := range o.on {
		ratios, more = append(ratios, o.on[i]/o.off[i]), append(more, o.on[i]-o.off[i])
	}
	off := spreadOf(o.off).Median
	fmt.Fprintf(w, "processor time, user and system, of warm loads --to discard; on: spans and metrics sent to a collector%s\n",
		strings.Join(append([]string{""}, o.with...), ", "))
	fmt.Fprintf(w, "medians: on %.3f s, off %.3f s\n", spreadOf(o.on).Median, off)
	fmt.Fprintf(w, "on / off, %d interleaved pairs: %s\n", len(ratios), intervalOf(ratios))
	fmt.Fprintf(w, "on - off: %s s\n", intervalOf(more))
	fmt.Fprintf(w, "%.0f spans a load x %.2f us each = %.2f ms, %.2f %% of the time off\n",
		o.spans, o.spanCost*1e6, o.spans*o.spanCost*1e3, 100*o.spans*o.spanCost/off)
}

// interval is a mean with the bounds that it lies in with a confidence of 95 %, if the values are about normal.
type interval struct{ mean, low, high float64 }

func (i interval) String() string {
	return fmt.Sprintf("%.4f (95 %%: %.4f to %.4f)", i.mean, i.low, i.high)
}

// intervalOf is the interval of at least two values.
func intervalOf(values []float64) interval {
	n := float64(len(values))
	var sum, squares float64
	for _, v := range values {
		sum += v
	}
	mean := sum / n
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	half := student(len(values)-1) * math.Sqrt(squares/(n-1)/n)
	return interval{mean, mean - half, mean + half}
}

// student is the 97.5 % quantile of Student's distribution, by its expansion around the normal one; below 3 degrees of freedom, where that is
// not good enough, the exact values.
func student(freedom int) float64 {
	switch freedom {
	case 1:
		return 12.7062
	case 2:
		return 4.3027
	}
	const z = 1.959964
	const z3, z5, z7 = z * z * z, z * z * z * z * z, z * z * z * z * z * z * z
	f := float64(freedom)
	return z + (z3+z)/(4*f) + (5*z5+16*z3+3*z)/(96*f*f) + (3*z7+19*z5+17*z3-15*z)/(384*f*f*f)
}
