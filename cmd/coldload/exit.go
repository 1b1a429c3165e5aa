package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/sinks/file"
	"github.com/coldload/coldload/stages"
)

// The exit codes. An interrupted run exits with 128 and the number of the signal, as a shell would say it.
const (
	exitDone      = 0
	exitFailed    = 1
	exitUsage     = 2
	exitRefused   = 3
	exitDifferent = 4
	exitSignal    = 128
)

// errReaderGone says that nobody reads stdout any more: the reader has seen enough, and that is no failure.
var errReaderGone = errors.New("stdout was closed by its reader")

// errDifferent says that a packed folder is not as it was packed.
var errDifferent = errors.New("is not as it was packed")

// usageError is a command line that cannot be meant.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{err: fmt.Errorf(format, args...)} }

// interruptError is the cause of the end of a context that a signal ended.
type interruptError struct{ signal os.Signal }

func (e *interruptError) Error() string {
	return fmt.Sprintf("stopped by a signal (%v)", e.signal)
}

// interrupted names the signal in an error that only says that the context ended.
func interrupted(ctx context.Context, err error) error {
	cause, ok := errors.AsType[*interruptError](context.Cause(ctx))
	if ok && errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// exitCode is what the process exits with after err.
func exitCode(err error) int {
	if e, ok := errors.AsType[*interruptError](err); ok {
		if s, ok := e.signal.(syscall.Signal); ok {
			return exitSignal + int(s)
		}
		return exitFailed
	}
	switch {
	case err == nil:
		return exitDone
	case isUsage(err):
		return exitUsage
	case isRefusal(err):
		return exitRefused
	case errors.Is(err, errDifferent):
		return exitDifferent
	case errors.Is(err, errReaderGone):
		return exitDone
	default:
		return exitFailed
	}
}

// isUsage tells what the user can set right by another command line.
func isUsage(err error) bool {
	for _, target := range []error{coldload.ErrOptions, synth.ErrOptions, synth.ErrNotEmpty, synth.ErrNoSpace, file.ErrTarget} {
		if errors.Is(err, target) {
			return true
		}
	}
	_, ok := errors.AsType[*usageError](err)
	return ok
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*stages.RefusedError](err)
	return ok
}

// faultsOf are the faults that a refusal lists; never nil.
func faultsOf(err error) []stages.Fault {
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok {
		return refused.Faults
	}
	return []stages.Fault{}
}
