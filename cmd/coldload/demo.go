package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/report"
)

// demoModel is what the demo loads: small, and with everything that a large one has.
const demoModel = "tiny-moe"

// demoFlags are the options of demo.
type demoFlags struct{ outputFlags }

func newDemo(e *env, model string) *cobra.Command {
	var o demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Write a small checkpoint to a temporary folder, load it, show the report, clean up",
		Long: `demo shows what coldload does, without a checkpoint of your own: it writes a
small mixture-of-experts model (4-bit GPTQ, 64 experts, random weights, about
300 MB) to a temporary folder, loads it into memory in the final layout, prints
where the time went, and removes the folder. Set TMPDIR to choose where.

` + exitCodes,
		Example: `  coldload demo`,
		Args:    exactly(0, "no arguments"),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), e, &o, model) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runDemo(ctx context.Context, e *env, o *demoFlags, model string) (err error) {
	temp, err := os.MkdirTemp("", "coldload-demo-")
	if err != nil {
		return usagef("make a temporary folder: %w; set TMPDIR to choose another place", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	d := &demo{env: e, demoFlags: *o, dir: filepath.Join(temp, model)}
	return d.run(ctx, model)
}

// demo is one run of it.
type demo struct {
	*env
	demoFlags

	dir string
}

func (d *demo) run(ctx context.Context, model string) error {
	if err := d.say("1. A checkpoint: %s, 4-bit GPTQ, one tensor for each part of each expert, as quantisers write it.\n", model); err != nil {
		return err
	}
	written, took, err := synthesise(ctx, d.env, synth.Options{Model: model}, d.quiet, d.dir)
	if errors.Is(err, synth.ErrNoSpace) {
		return fmt.Errorf("%w, by setting TMPDIR", err)
	}
	if err != nil {
		return err
	}
	if err := d.say("   %s\n\n2. Loading it into memory, in the layout of the Marlin kernels, while it is read.\n   ", synthLine(written, took)); err != nil {
		return err
	}
	o := newLoadFlags()
	o.outputFlags = d.outputFlags
	l, err := load(ctx, d.env, &o, d.dir, time.Now())
	if err != nil {
		return err
	}
	return errors.Join(d.tell(l, &o, written, took), l.close())
}

// tell prints what the load did.
func (d *demo) tell(l *loaded, o *loadFlags, written synth.Result, took time.Duration) error {
	if d.json {
		return writeJSON(d.out, demoJSON{loadJSON: l.object(&o.planFlags, o.to.value), Synth: synthObject(written, took)})
	}
	if err := l.print(d.env, o); err != nil {
		return err
	}
	s := l.Result.Plan.Summary
	return d.say("\n%s became %s: q/k/v and gate/up fused, the experts of each layer stacked, every quantised weight repacked.\n"+
		"The temporary folder is removed. Next: coldload plan PATH, then coldload load PATH, with a checkpoint of yours.\n",
		report.Plural(int64(s.Tensors), "tensor"), report.Plural(int64(len(l.Result.Plan.Outputs)), "output"))
}

// say prints what people read.
func (d *demo) say(format string, args ...any) error {
	if d.json || d.quiet {
		return nil
	}
	return write(d.out, fmt.Sprintf(format, args...))
}

// demoJSON is the JSON object of demo: that of load, and what was written before.
type demoJSON struct {
	loadJSON

	Synth synthJSON `json:"synth"`
}
