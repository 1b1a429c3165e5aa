package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/coldload/coldload/report"
)

// reportFlags are the options of report.
type reportFlags struct{ outputFlags }

func newReport(e *env) *cobra.Command {
	var o reportFlags
	cmd := &cobra.Command{
		Use:   "report A B",
		Short: "Set two runs side by side: before and after a change",
		Long: `report reads what two loads or packs wrote with --json (or an HTML report that
has it inside) and sets them side by side: time and speed, what was different,
busy and waiting time of each phase with the change, memory, and the verdicts.
When the runs did not do the same work, it says so and shows them all the same.

A or B may be "-" for standard input.

` + exitCodes,
		Example: `  coldload load ./my-model --json > before.json
  coldload load ./my-model --budget 1GiB --json > after.json
  coldload report before.json after.json`,
		Args: exactly(2, "two files, A and B"),
		RunE: func(_ *cobra.Command, args []string) error { return runReport(e, &o, args[0], args[1]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runReport(e *env, o *reportFlags, a, b string) error {
	if a == stdinName && b == stdinName {
		return usagef("report: only one of A and B can be standard input")
	}
	before, err := readRun(e, a)
	if err != nil {
		return err
	}
	after, err := readRun(e, b)
	if err != nil {
		return err
	}
	c := report.Compare(before, after)
	width, _ := e.outTTY()
	switch {
	case o.json:
		return writeJSON(e.out, c)
	case o.quiet:
		return write(e.out, c.Headline()+"\n")
	default:
		return write(e.out, c.Text(width))
	}
}

// stdinName stands for standard input.
const stdinName = "-"

// mostReport is the largest file that is read, in bytes: a report is some kilobytes, its warnings and pictures at worst some megabytes.
const mostReport = 64 << 20

// readRun reads the description of one run. Whatever is wrong with it, another file helps.
func readRun(e *env, path string) (report.Run, error) {
	name := report.Clean(path)
	data, err := readAtMost(e, path)
	if err != nil {
		return report.Run{}, usagef("%s: %w", name, err)
	}
	if len(data) > mostReport {
		return report.Run{}, usagef("%s is larger than %s: it %w", name, report.BinaryBytes(mostReport), report.ErrNotARun)
	}
	r, err := report.ParseRun(path, data)
	if err != nil {
		return report.Run{}, usagef("%s %w", name, err)
	}
	return r, nil
}

// readAtMost reads a file, up to one byte more than is allowed.
func readAtMost(e *env, path string) (data []byte, err error) {
	from := e.in
	if path != stdinName {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() { // a pipe would wait for ever
			return nil, fmt.Errorf("is no regular file (%s is for standard input)", stdinName)
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }() // opened for reading
		from = f
	}
	return io.ReadAll(io.LimitReader(from, mostReport+1))
}
