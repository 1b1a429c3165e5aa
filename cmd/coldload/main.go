// Command coldload loads huge mixture-of-experts checkpoints cold: see coldload --help.
package main

import (
	"context"
	"math"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
)

// started is when the program began: what a load took is counted from here.
var started = time.Now()

// gcPercent keeps the Go heap close to what is live, for the memory that the design promises. The heap holds descriptions only (headers, the
// plan, Batches in flight; the bytes of tensors lie outside), so collecting often is cheap: packing 500,000 tensors peaks at 236 MB with
// 15, at 262 MB with 25, and takes the same time (Go's own is 100). The variable GOGC overrides it.
const gcPercent = 15

// firstCollection is what the Go runtime may take before it collects for the first time, in bytes. The plan of a common checkpoint fits into
// it, and a collection for every 0.6 MB that a small heap grows by, as gcPercent has it, took a tenth of a warm load's time.
const firstCollection = 48 << 20

// collectLate sets how the garbage collector runs: not before firstCollection, from then on by gcPercent.
func collectLate() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(firstCollection)
	first := new([16]byte) // too large for the allocator of tiny objects, where others would keep it alive
	runtime.SetFinalizer(first, func(*[16]byte) {
		debug.SetGCPercent(gcPercent)
		debug.SetMemoryLimit(math.MaxInt64)
	})
}

func main() {
	if os.Getenv("GOGC") == "" {
		collectLate()
	}
	// A write to a closed pipe becomes an error, so that a command still cleans up.
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancelOnSignal(cancel)
	os.Exit(execute(ctx, processEnv(), os.Args[1:]))
}

// cancelOnSignal turns the first signal into the end of the context. A second one kills, as it would without us.
func cancelOnSignal(cancel context.CancelCauseFunc) {
	wanted := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // under nohup it is
		wanted = append(wanted, syscall.SIGHUP)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, wanted...) // before anything is done that would have to be cleaned up
	go func() {
		s := <-signals
		signal.Reset(wanted...)
		cancel(&interruptError{signal: s})
	}()
}
