// Command coldload loads huge mixture-of-experts checkpoints cold: see coldload --help.
package main

import (
	"context"
	"os"
	"os/signal"
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

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
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
