package main

import (
	"context"
	"errors"
	"iter"

	"github.com/spf13/cobra"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/report"
	"github.com/coldload/coldload/stages"
)

func newPlan(e *env) *cobra.Command {
	o := newPlanFlags()
	cmd := &cobra.Command{
		Use:   "plan PATH",
		Short: "Say what is there, what a load would make of it and what that takes; reads headers only",
		Long: `plan reads the headers and config files of a checkpoint and says what a load
would do: the model family and the modules it found, every output with its
dtype, shape, layout and size, what is fused, stacked, repacked or kept and why,
the memory and disk that are needed, and every fault for which the checkpoint
would be refused. No weight byte is read, so it takes no longer than the
headers do.

` + layoutHelp + `

` + pathHelp + `

With --json, output_list has every output; the text shows those that are alike
in one line.

` + exitCodes,
		Example: `  coldload plan ./my-model
  coldload plan ./my-model --layout exllama --strict
  coldload plan org/name --json | jq .predicted_peak_bytes`,
		Args: exactly(1, "one PATH"),
		RunE: func(cmd *cobra.Command, args []string) error { return runPlan(cmd.Context(), e, &o, args[0]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runPlan(ctx context.Context, e *env, o *planFlags, path string) error {
	opt, err := o.options(e)
	if err != nil {
		return err
	}
	ctx = e.observe(ctx, &opt)
	res, err := coldload.Plan(ctx, path, opt)
	p := res.Plan
	if err != nil && (p == nil || !isRefusal(err)) {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := report.Plan{
		Plan: p, Path: path, DType: o.dtype.value, Budget: opt.Budget, NoFuse: opt.NoFuse, NoPad: opt.NoPad, Strict: opt.Strict, ActOrder: opt.ActOrder,
		PlainExponent: opt.FP8Exponent == stages.ExponentPlain,
	}
	width, onTerminal := e.outTTY()
	_, errOnTerminal := e.errTTY()
	told := toldError{err: err, onTerminal: onTerminal && errOnTerminal && !o.quiet && !o.json}
	var werr error
	switch {
	case o.json:
		werr = writeJSONWithList(e.out, planObject(r, err), "output_list", outputList(p.Outputs))
	case o.quiet:
		werr = write(e.out, r.Headline()+"\n")
	default:
		werr = write(e.out, r.Text(width))
	}
	if err == nil {
		return werr
	}
	return errors.Join(&told, werr)
}

// planJSON is the JSON object of plan.
type planJSON struct {
	Error   string `json:"error,omitempty"` // when the checkpoint is refused
	Path    string `json:"path"`
	Version string `json:"version"`

	Family  string `json:"family"`
	Format  string `json:"format"`
	Layout  string `json:"layout"`
	DType   string `json:"dtype"`
	Shards  int    `json:"shards"`
	Tensors int    `json:"tensors"`
	Ignored int    `json:"ignored_tensors"`
	Modules int    `json:"modules"`
	Groups  int    `json:"groups"`

	Outputs  int   `json:"outputs"`
	Parts    int   `json:"parts"`
	Batches  int   `json:"batches"`
	BytesIn  int64 `json:"bytes_in"`
	Read     int64 `json:"bytes_read"`
	Scanned  int64 `json:"bytes_scanned"` // of those read, ahead of the outputs that need a value of many tensors
	Spare    int64 `json:"bytes_spare"`   // that are read beyond them at most, where those do not tell
	BytesOut int64 `json:"bytes_out"`

	Budget        int64  `json:"budget"`
	LargestBatch  int64  `json:"largest_batch_bytes"`
	LargestName   string `json:"largest_batch_name"`
	PredictedPeak int64  `json:"predicted_peak_bytes"` // with the result in memory, as load --to host has it
	PeakNoResult  int64  `json:"predicted_peak_bytes_without_result"`
	DiskBytes     int64  `json:"disk_bytes"`

	Kinds  map[stages.Kind]report.KindTotal `json:"kinds"`
	Fused  []plan.Fused                     `json:"fused"`
	Padded []plan.Padded                    `json:"padded"`
	Kept   []plan.Kept                      `json:"kept"`
	Notes  []string                         `json:"notes"`
	Faults []stages.Fault                   `json:"faults"`
}

func planObject(r report.Plan, err error) planJSON {
	p, s := r.Plan, r.Plan.Summary
	o := planJSON{
		Path: r.Path, Version: coldload.Version,
		Family: s.Family, Format: s.Format, Layout: string(s.Layout), DType: r.DType,
		Shards: s.Shards, Tensors: s.Tensors, Ignored: s.Ignored, Modules: s.Modules, Groups: s.Groups,
		Outputs: len(p.Outputs), Parts: s.Parts, Batches: p.BatchCount(), BytesIn: s.BytesIn, Read: s.BytesRead, Scanned: s.Scanned, Spare: s.Spare, BytesOut: s.BytesOut,
		Budget: r.Budget, LargestBatch: s.LargestBatch, LargestName: s.LargestName,
		PredictedPeak: p.PredictedPeak(r.Budget, true), PeakNoResult: p.PredictedPeak(r.Budget, false), DiskBytes: p.DiskBytes(),
		Kinds: report.Kinds(p.Outputs), Fused: notNil(s.Fused), Padded: notNil(s.Padded), Kept: notNil(s.Kept), Notes: notNil(p.Notes), Faults: notNil(p.Faults),
	}
	if err != nil {
		o.Error = err.Error()
	}
	return o
}

// outputJSON is one Output in the JSON object of plan.
type outputJSON struct {
	Name   string        `json:"name"`
	DType  string        `json:"dtype"`
	Shape  []int64       `json:"shape"`
	Layout stages.Layout `json:"layout"`
	Kind   stages.Kind   `json:"kind"`
	Bytes  int64         `json:"bytes"`
	// Padding is that of its module, when it has some.
	Padding *stages.Padding `json:"padding,omitempty"`
}

// outputList makes them one by one: there may be hundreds of thousands.
func outputList(outputs []stages.Output) iter.Seq[*outputJSON] {
	return func(yield func(*outputJSON) bool) {
		for i := range outputs {
			o := &outputs[i]
			j := outputJSON{Name: o.Name, DType: o.DType.String(), Shape: notNil(o.Shape), Layout: o.Layout, Kind: o.Kind, Bytes: o.Size, Padding: o.Padding}
			if !yield(&j) {
				return
			}
		}
	}
}

// notNil makes an empty list print as [] and not as null.
func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
