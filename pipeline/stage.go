package pipeline

import "context"

// Stage turns one In into one Out. A stage with several workers is called by several goroutines at a time.
type Stage[In, Out any] interface {
	// Name names the stage in errors, figures and spans; it is called once, when the stage is wired.
	Name() string

	// Process owns in from call to return: on success whatever it does not return is its to release, on error it has
	// released it all. (After a panic or a Goexit the runtime releases in, so Release must bear a second call.) It
	// returns soon after ctx ends. It must have joined every goroutine that it started.
	Process(ctx context.Context, in In) (Out, error)
}

// Expander turns one In into any number of Outs.
type Expander[In, Out any] interface {
	// Name is as in [Stage].
	Name() string

	// Expand owns in as [Stage].Process does. It hands each result to emit, which blocks until there is a place for
	// it, and which owns the result even when it returns an error; Expand should then return that error. emit may
	// only be called in the goroutine of Expand, and not after its return. The results share the budget lease of in.
	Expand(ctx context.Context, in In, emit func(Out) error) error
}

// Sink is the end of a chain of stages.
type Sink[T any] interface {
	// Name is as in [Stage].
	Name() string

	// Write takes one item; the runtime releases the item after Write has returned, error or not. With several
	// workers it is called by several goroutines at a time. It returns soon after ctx ends.
	Write(ctx context.Context, item T) error

	// Commit makes the result final. It is called at most once, and only when every Write of every sink of the Run
	// has succeeded and nothing has cancelled the run; never with [NoCommit].
	Commit(ctx context.Context) error

	// Close frees what the sink holds. It is called always and exactly once, after every stage of the Run has
	// returned: until then stages may use memory that the sink lent them. Close without a Commit that succeeded means
	// to leave nothing that looks finished. It gets no context because it has to be done.
	Close() error
}

// Releaser is implemented by items that hold memory or other resources. The runtime calls Release once for each item
// that it drops: after Write, and wherever a failed run leaves an item behind. A second call must do nothing. Release
// must not block and not panic. An item that is a nil pointer is passed on like any other, without a call of its methods.
type Releaser interface{ Release() }

// Holder is implemented by items that need less memory on their way. After each stage the runtime shrinks the item's
// budget lease to HeldBytes: the bytes that the item still holds or will still need; not counting memory it is yet to
// get would give that away. A lease never grows, and one that several results of an [Expander] share keeps its size.
type Holder interface{ HeldBytes() int64 }

// Named is implemented by items that errors and item spans can name. ItemName is called once per stage, before the
// stage gets the item, so it should return a field rather than build a string.
type Named interface{ ItemName() string }
