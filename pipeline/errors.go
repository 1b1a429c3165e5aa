package pipeline

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
)

// Errors that callers may branch on with [errors.Is].
var (
	// ErrOverBudget reports an item whose cost exceeds the whole [Budget], so that it could never be admitted.
	// It arrives inside a [StageError] that names the item; the message holds both sizes in bytes.
	ErrOverBudget = errors.New("item larger than its whole budget")

	// ErrNegativeCost reports a cost function, given to [Charge], that returned less than zero.
	ErrNegativeCost = errors.New("item with a negative cost")

	// ErrGoexit reports that a stage, sink or source ended its goroutine by [runtime.Goexit]; in a test, usually by
	// calling t.FailNow or t.Fatal.
	ErrGoexit = errors.New("goroutine ended by runtime.Goexit")

	// ErrWiring reports a pipeline that was put together wrongly: a [Stream] that nothing consumes or that two
	// stages consume, an option with an impossible value, on the wrong kind of stage, or for another item type.
	// All such faults are joined in one error, and nothing was started.
	ErrWiring = errors.New("pipeline wired wrongly")
)

// Item names that a [StageError] or [PanicError] carries for the calls that concern no item.
const (
	itemCommit = "commit"
	itemClose  = "close"
)

// StageError says which stage failed, and on which item.
type StageError struct {
	Stage string // name of the stage, source or sink
	Item  string // [Named.ItemName], or "#" and the sequence number; "commit" or "close" for those calls of a [Sink]
	Err   error  // what went wrong; never nil
}

// Error returns "stage: item: cause", with the item once where the cause begins with it.
func (e *StageError) Error() string {
	cause := fmt.Sprint(e.Err)
	if !strings.HasPrefix(cause, e.Item+": ") {
		cause = e.Item + ": " + cause
	}
	return e.Stage + ": " + cause
}

// Unwrap returns the cause.
func (e *StageError) Unwrap() error { return e.Err }

// PanicError reports a panic recovered in a stage, source or sink. It ended the run like an error does.
type PanicError struct {
	Stage string // as in [StageError]
	Item  string // as in [StageError]
	Value any    // what was given to panic
	Stack []byte // stack of the goroutine that panicked, as [debug.Stack] prints it
}

// Error returns one line; the stack is left to the caller to print.
func (e *PanicError) Error() string {
	return fmt.Sprintf("%s: %s: panic: %v", e.Stage, e.Item, e.Value)
}

// Unwrap returns the panic's value where it is an error, and nil otherwise.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Recover calls f and returns its error, or a *[PanicError] with these names when f panics. It is for calls of other people's code that come
// before a Run or after it: those of a Run are covered. A Goexit goes on.
func Recover(stage, item string, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = crash(stage, item, v)
		}
	}()
	return f()
}

// crash names the reason why a call into user code did not return. It must be called while the goroutine unwinds, so
// that the stack still shows the culprit; recovered is what recover returned, nil for a Goexit (a panic(nil) recovers
// as [runtime.PanicNilError]).
func crash(stage, item string, recovered any) error {
	if recovered == nil {
		return &StageError{Stage: stage, Item: item, Err: ErrGoexit}
	}
	return &PanicError{Stage: stage, Item: item, Value: recovered, Stack: debug.Stack()}
}
