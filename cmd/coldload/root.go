package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/report"
	"github.com/coldload/coldload/stages"
)

// Parts of the help that several commands share.
const (
	exitCodes = `Exit codes: 0 done; 1 failed while running; 2 wrong usage, or a target folder
that cannot be used; 3 checkpoint refused (not found, incomplete, or not
processed by this version), with every fault; 4 verify found a difference;
130 or 143 interrupted.`

	telemetryHelp = `Spans and metrics are exported as the standard variables of OpenTelemetry say,
and not without one: OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318, or
OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER (otlp, console, none), with
OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, and so
on. With TRACEPARENT (and TRACESTATE) the spans are part of that trace.`

	pathHelp = `PATH is a folder, a .safetensors or .gguf file, or org/name
(org/name@revision) in the Hugging Face cache. Nothing is downloaded.`

	layoutHelp = `--layout says what becomes of quantised modules: marlin and exllama are the
orders of bytes that those GPU kernels read; raw joins the tensors as they are;
dequant makes floating-point weights in --dtype (keep: that of the config). What
the tiles of the Marlin kernels do not fit is filled up with zeros, unless
--no-pad is given. A module that the layout cannot hold is
kept raw and the plan gives the reason; with --strict the checkpoint is refused
instead. --no-fuse is for engines that load every module by itself.`
)

// What the design has and this version has not: it is refused by name, so that nobody takes a typing error for a missing ability.
var laterFlags = []string{"alias"}

// errLater ends the sentence that refuses them.
var errLater = errors.New("is not in this version yet")

// newRoot makes the whole command.
func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "coldload",
		Short: "Load checkpoints cold: every tensor in its final form, in one pass over the files",
		Long: `coldload reads a checkpoint (safetensors shards) and brings every tensor into
its final form while it reads: q/k/v and gate/up fused, experts stacked,
quantised weights in the layout that the GPU kernel reads, within a bounded
amount of memory. It needs no GPU and no Python.

Start with "coldload demo", then look at a checkpoint of your own with
"coldload plan PATH".

` + telemetryHelp + `

` + exitCodes,
		Example: `  coldload demo
  coldload plan ./my-model
  coldload load ./my-model --to discard
  coldload pack ./my-model ./my-model-marlin`,
		Args: knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cmd.SetOut(e.err)
			_ = cmd.Help() // the error below is the one to tell
			return usagef("a command is needed")
		},
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetOut(e.out)
	root.SetErr(e.err)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newPlan(e), newLoad(e), newPack(e), newVerify(e), newSynth(e), newDemo(e, demoModel), newReport(e))
	for _, c := range append(root.Commands(), root) {
		c.Version = coldload.Version
		c.SetVersionTemplate("coldload {{.Version}}\n")
		c.SetFlagErrorFunc(flagError)
	}
	return root
}

// knownCommand refuses arguments of the root: they are no commands.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var known []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			known = append(known, c.Name())
		}
	}
	return usagef("unknown command %q (known: %s)", args[0], strings.Join(known, ", "))
}

// exactly wants n arguments, which what names.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == n:
			return nil
		case len(args) > n:
			return usagef("%s takes %s and no more, not also %q", cmd.Name(), what, args[n])
		default:
			return usagef("%s needs %s", cmd.Name(), what)
		}
	}
}

// flagError explains a flag that cannot be meant.
func flagError(_ *cobra.Command, err error) error {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && slices.Contains(laterFlags, unknown.GetSpecifiedName()) {
		return usagef("--%s %w", unknown.GetSpecifiedName(), errLater)
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usagef("--%s %s %w", invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	}
	return &usageError{err: err}
}

// execute runs one command line and tells what went wrong. It returns the exit code.
func execute(ctx context.Context, e *env, args []string) int {
	return run(ctx, e, newRoot(e), args) //nolint:contextcheck // cobra hands the context on, as that of the command
}

// disable takes instruction sets away from the kernels, for the life of the process.
func disable(list string) error {
	names, err := cpu.Parse(list)
	if err != nil {
		return usagef("%s: %w", envDisableCPU, err)
	}
	if len(names) > 0 {
		cpu.Disable(names...)
	}
	return nil
}

func run(ctx context.Context, e *env, root *cobra.Command, args []string) int {
	defer e.flush() //nolint:contextcheck // whatever the end is, that of ctx too, and after it was told
	root.SetArgs(args)
	cmd, err := root, disable(e.disableCPU)
	if err == nil {
		cmd, err = root.ExecuteContextC(ctx)
	}
	err = interrupted(ctx, err)
	code := exitCode(err)
	if code == exitDone {
		return code
	}
	told, ok := errors.AsType[*toldError](err)
	if !ok && wantsJSON(args) {
		if werr := writeJSON(e.out, failureJSON{Error: err.Error(), Faults: faultsOf(err)}); werr != nil && !errors.Is(werr, errReaderGone) {
			err = errors.Join(err, werr)
		}
	}
	tell(e, cmd, err, ok && told.onTerminal)
	return code
}

// toldError wraps a refusal that the result already told of.
type toldError struct {
	err        error
	onTerminal bool // and the user sees it
}

func (e *toldError) Error() string { return e.err.Error() }
func (e *toldError) Unwrap() error { return e.err }

// told is an error about something beside the result, which is printed all the same; nil for nil.
func told(err error) error {
	if err == nil {
		return nil
	}
	return &toldError{err: err}
}

// failureJSON is the JSON object of a command that failed.
type failureJSON struct {
	Error  string         `json:"error"`
	Faults []stages.Fault `json:"faults"`
}

// wantsJSON looks for --json itself, since it counts too when the other flags could not be read.
func wantsJSON(args []string) (wants bool) {
	for _, a := range args {
		if a == "--" {
			break
		}
		if a == "--json" {
			wants = true
		}
		if v, ok := strings.CutPrefix(a, "--json="); ok {
			wants, _ = strconv.ParseBool(v) // a value that is none is false
		}
	}
	return wants
}

// tell prints an error on stderr: one message, every fault on a line of its own, and what to do.
func tell(e *env, cmd *cobra.Command, err error, seen bool) {
	var b strings.Builder
	switch {
	case isRefusal(err):
		faults := faultsOf(err)
		fmt.Fprintf(&b, "coldload: checkpoint refused: %s", report.Plural(int64(len(faults)), "fault"))
		if seen {
			b.WriteString(", listed above\n")
			break
		}
		b.WriteString("\n")
		for _, f := range report.Faults(faults) {
			b.WriteString("  " + f + "\n")
		}
	case isUsage(err):
		fmt.Fprintf(&b, "coldload: %s\nSee %s --help.\n", lines(err), cmd.CommandPath())
	default:
		fmt.Fprintf(&b, "coldload: %s\n", lines(err))
		if p, ok := errors.AsType[*pipeline.PanicError](err); ok {
			fmt.Fprintf(&b, "This is a bug in coldload: please report it with what follows.\n%s", p.Stack)
		}
	}
	_, _ = io.WriteString(e.err, b.String()) // nobody is left to tell
}

// lines is the text of an error, safe to print, its further lines indented.
func lines(err error) string {
	parts := strings.Split(err.Error(), "\n")
	for i, p := range parts {
		parts[i] = report.Clean(p)
	}
	return strings.Join(parts, "\n  ")
}
