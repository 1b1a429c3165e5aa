package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/report"
	"github.com/coldload/coldload/sources/file"
)

// verifyFlags are the options of verify.
type verifyFlags struct {
	outputFlags

	against      string
	againstGiven bool
	workers      int
	budget       size
	io           choice
}

func (f *verifyFlags) AddFlags(fs *pflag.FlagSet) {
	f.outputFlags.AddFlags(fs)
	fs.StringVar(&f.against, "against", "", "compute every output again from the checkpoint `PATH` and compare")
	fs.Var(&f.budget, "budget", "with --against: most bytes in flight")
	fs.IntVar(&f.workers, "workers", 0, "goroutines that read and hash; 0 is one per CPU")
	fs.Var(&f.io, "io", "with --against: how the checkpoint is read")
}

func newVerify(e *env) *cobra.Command {
	plan := newPlanFlags()
	o := verifyFlags{budget: plan.budget, io: plan.io}
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Check a packed folder: every digest, header and file",
		Long: `verify reads a folder that coldload packed (DIR, or org/name in the Hugging Face
cache) and compares everything with its manifest: the digest of every output, the headers, the index, every other file.
It lists what differs, what is missing and what does not belong there, and exits
with 4 when there is anything.

With --against it also computes every output again, from the checkpoint that the
folder was made from and with the options that the manifest names, and compares.

` + exitCodes,
		Example: `  coldload verify ./my-model-marlin
  coldload verify ./my-model-marlin --against ./my-model
  coldload verify ./my-model-marlin --json | jq -r '.differences[].file'`,
		Args: exactly(1, "one DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.againstGiven = cmd.Flags().Changed("against")
			return runVerify(cmd.Context(), e, &o, args[0])
		},
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runVerify(ctx context.Context, e *env, o *verifyFlags, dir string) error {
	if o.againstGiven && o.against == "" {
		return usagef("--against needs the path of a checkpoint")
	}
	if o.workers < 0 {
		return usagef("--workers %d: must not be negative", o.workers)
	}
	mode, err := file.ParseMode(o.io.value)
	if err != nil {
		return usagef("--io: %w", err)
	}
	vopt := coldload.VerifyOptions{
		Against: o.against, Workers: o.workers,
		Load: coldload.Options{
			Budget: int64(o.budget), IO: mode, HubCache: e.hubCache,
			Workers: workersOf(o.workers),
		},
	}
	ctx = e.observe(ctx, &vopt.Load)
	bar := startBar(e, o.quiet, "checking", "comparing")
	if bar != nil {
		vopt.Progress = bar.update
	}
	res, err := coldload.Verify(ctx, dir, vopt)
	bar.stop()
	if err != nil && (len(res.Differences) == 0 || o.json) {
		return err
	}
	if perr := printVerified(e, o, res); err != nil || perr != nil || len(res.Differences) == 0 {
		return errors.Join(err, perr)
	}
	return &toldError{err: fmt.Errorf("%s %w: %s", report.Clean(dir), errDifferent, report.Plural(int64(len(res.Differences)), "difference"))}
}

// verifyJSON is the JSON object of verify.
type verifyJSON struct {
	Dir         string                `json:"dir"`
	Version     string                `json:"version"`
	PackedBy    string                `json:"packed_by"` // version of the program; empty when the manifest cannot be read
	Against     string                `json:"against,omitempty"`
	Seconds     float64               `json:"seconds"`
	Outputs     int                   `json:"outputs"`
	Bytes       int64                 `json:"bytes"`
	Recomputed  int                   `json:"recomputed"` // outputs
	Differences []coldload.Difference `json:"differences"`
	Notes       []string              `json:"notes"`
	BoundBy     string                `json:"bound_by"`
	Verdict     string                `json:"verdict"`
}

func printVerified(e *env, o *verifyFlags, res *coldload.VerifyResult) error {
	if o.json {
		return writeJSON(e.out, verifyJSON{
			Dir: res.Dir, Version: coldload.Version, PackedBy: res.Program, Against: o.against, Seconds: res.Duration.Seconds(),
			Outputs: res.Outputs, Bytes: res.Bytes, Recomputed: res.Recomputed, Differences: notNil(res.Differences), Notes: notNil(res.Notes),
			BoundBy: res.Verdict.BoundBy, Verdict: res.Verdict.Sentence,
		})
	}
	var b strings.Builder
	verdict := "as it was packed"
	if n := len(res.Differences); n > 0 {
		verdict = report.Plural(int64(n), "difference")
	}
	fmt.Fprintf(&b, "%s: %s; checked %s of %s in %s", report.Clean(res.Dir), verdict, report.Plural(int64(res.Outputs), "output"),
		report.Bytes(res.Bytes), report.Duration(res.Duration))
	if res.Recomputed > 0 {
		fmt.Fprintf(&b, ", computed %d again", res.Recomputed)
	}
	b.WriteString("\n")
	for _, d := range res.Differences {
		b.WriteString("  " + report.Clean(d.String()) + "\n")
	}
	for _, n := range res.Notes {
		b.WriteString("note: " + report.Clean(n) + "\n")
	}
	if v := res.Verdict; v.BoundBy != "" && !o.quiet {
		b.WriteString(report.Clean(v.Sentence) + "\n")
	}
	return write(e.out, b.String())
}
