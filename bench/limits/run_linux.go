package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/cpu"
)

// rule is the rule of disturb.go in words.
var rule = fmt.Sprintf("disturbed: others used more than %.0f %% of the processors' time and %.2f s, or moved more than %d MiB and %.0f %% of the bytes to or from disks",
	100*cpuShare, cpuGrain, diskAtMost>>20, 100*diskShare)

// run measures everything and prints it.
func run(ctx context.Context, out, log io.Writer, opt options) (err error) {
	fmt.Fprintln(log, "preparing: the program, a packed folder, the best ways to read and write")
	b, err := prepare(ctx, opt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	list, err := b.measures()
	if err != nil {
		return err
	}
	all, err := b.rounds(ctx, log, list)
	if err != nil {
		return err
	}
	r := b.results(list, all)
	r.describe(out)
	r.print(out)
	if opt.json == "" {
		return nil
	}
	return r.write(opt.json)
}

func (b *bench) results(list []measure, all samples) *results {
	r := &results{
		Date: time.Now().UTC().Format(time.DateOnly), Version: coldload.Version, Machine: thisMachine(), Checkpoint: filepath.Base(b.opt.path),
		Bytes: b.in.size, Rule: rule, ReadWay: b.reads.String(), WriteWay: b.write.String(), Probes: b.probes, Samples: all,
	}
	for _, l := range b.lines() {
		if l, ok := l.fill(all); ok {
			r.Lines = append(r.Lines, l)
		}
	}
	for _, m := range list {
		r.Paces = append(r.Paces, paceOf(m, all))
		if m.how == process && m.early == nil { // ours
			r.Memory = append(r.Memory, memoryOf(m, all))
		}
	}
	return r
}

// describe says what the figures are of.
func (r *results) describe(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "%s, coldload %s, %s: %d x %s (%s), %.1f GB, %s, huge pages %s\n", r.Date, r.Version, m.Go, m.Processors, m.Processor, m.Kernels,
		float64(m.Memory)/1e9, m.System, m.HugePages)
	fmt.Fprintf(w, "checkpoint: %.2f GB; raw read: %s; raw write: %s\n%s\n", float64(r.Bytes)/1e9, r.ReadWay, r.WriteWay, r.Rule)
}

func thisMachine() machine {
	m := machine{
		Processors: runtime.NumCPU(), Kernels: cpu.X86.String(), Memory: 1024 * field("/proc/meminfo", "MemTotal:"),
		Go: runtime.Version(), HugePages: chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, rest, _ := strings.Cut(string(b), "model name")
		name, _, _ := strings.Cut(rest, "\n")
		m.Processor = strings.TrimLeft(name, "\t :")
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.System = "Linux " + unix.ByteSliceToString(u.Release[:])
	}
	return m
}

// chosen is the word in brackets of a file.
func chosen(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "unknown"
	}
	_, rest, _ := strings.Cut(string(b), "[")
	word, _, _ := strings.Cut(rest, "]")
	return word
}
