package stages

import "context"

// Source is where bytes come from: the Shards of one Checkpoint, addressed by their index.
type Source interface {
	// Fetch makes the ranges readable. They are sorted by shard and offset and do not overlap. The caller owns the Views and releases
	// them. On error nothing is held. It is called from several goroutines at once and returns early with the cause when ctx ends.
	Fetch(ctx context.Context, ranges []Extent) (Views, error)
	// Verify reports whether a Shard changed since it was opened. It is called after the last Fetch, before the Sink commits.
	Verify(ctx context.Context) error
	// Close releases everything. No Views may be in use.
	Close() error
}

// Padder is implemented by a Source whose buffers may take more than the bytes asked for, because it reads whole blocks of a disk. A Source
// that stands in front of such a one hands the two methods on; without them nothing is padded, and files are read in slower ways.
type Padder interface {
	// Padding is the most that FetchPadded makes use of beyond the ranges' own bytes, however it will read them. It is asked before
	// admission, so that the Batch is charged for it, and reads nothing.
	Padding(ranges []Extent) int64
	// FetchPadded is Fetch whose buffers hold at most padding bytes beyond the ranges: 0 is always possible.
	FetchPadded(ctx context.Context, ranges []Extent, padding int64) (Views, error)
}

// Pacer is implemented by a Source that knows how many goroutines should call Fetch, as things are now.
type Pacer interface {
	// Fetchers is at least 1. It may look at the Source, in far less time than a Fetch takes.
	Fetchers(ctx context.Context) int
}

// Sink is where Outputs go. One load uses one Sink once: Begin, then for every Slab Reserve and Write, then Commit, then Close.
// sinks/sinktest checks these rules.
type Sink interface {
	// Begin is told every Output before a byte moves. Their names are unique; the slice does not change until Close, so it may be
	// kept. It may refuse, with a *RefusedError of CodeSink when it is the Outputs that it cannot take.
	Begin(ctx context.Context, outputs []Output) error
	// Reserve returns the s.Len bytes that the Ops write: final memory, or staging that StagingBytes already told. The address is a
	// multiple of 64 whenever s.Off is. It never blocks on memory. It is called once per Slab, from several goroutines at once.
	Reserve(ctx context.Context, s Slab) ([]byte, error)
	// Write takes back what Reserve gave, filled. The Sink owns b again, on error too. Called from several goroutines at once.
	Write(ctx context.Context, s Slab, b []byte) error
	// Commit makes the result visible. It is called once, after every Write succeeded. It refuses when a Slab was not written.
	Commit(ctx context.Context) error
	// Close is called always, once, after every other call returned. Without Commit it aborts: nothing that looks finished stays.
	Close() error
}

// BatchWriter is implemented by a Sink that writes several Slabs at once for less than one by one: adjacent small ones cost one system
// call instead of one each.
type BatchWriter interface {
	// WriteBatch is Write for several Slabs, bufs[i] being the bytes of slabs[i]. The Sink owns all bufs again, on error too, and then
	// it does not matter which Slabs were written: the load has failed. Called from several goroutines at once, and beside Write.
	WriteBatch(ctx context.Context, slabs []Slab, bufs [][]byte) error
}

// Digester is implemented by a Sink that hashes what it writes. The two are apart because one keeps a processor busy and the other waits: the
// workers that write would all hash at the same time, and the target would wait for them.
type Digester interface {
	// Digest hashes filled Slabs, bufs[i] being the bytes of slabs[i], and keeps the hashes for Write, which is next and gets the same
	// bytes. It does not own bufs. A Sink whose Digest is not called hashes in Write. Called from several goroutines at once.
	Digest(ctx context.Context, slabs []Slab, bufs [][]byte) error
}

// Stager is implemented by a Sink that does not hand out final memory.
type Stager interface {
	// StagingBytes is what the Sink holds for s from Reserve to the end of Write, in bytes.
	StagingBytes(s Slab) int64
}

// Resumer is implemented by a Sink that can go on where an earlier run stopped.
type Resumer interface {
	// Done says that the Output is already complete. It is asked after Begin and before any of its Slabs is admitted.
	Done(o Output) bool
}

// SlabResumer is a Resumer that knows single Slabs, so that little of a large Output is made again. A Slab that is done may be reserved
// and written all the same, when its Batch has others that are not: it must get the same bytes.
type SlabResumer interface {
	// DoneSlab says that the Slab is already there. It is asked after Begin and before the Slab is admitted.
	DoneSlab(s Slab) bool
}

// Rule changes an Output before a byte moves.
type Rule interface {
	// Rewrite is asked once for every Output, in any order, with what the Plan would make. It is called from one goroutine.
	Rewrite(o Output) Rewrite
}

// Rewrite is what a Rule wants of an Output. The zero value leaves it as it is.
type Rewrite struct {
	Drop bool   // do not make it; its tensors count as ignored
	Name string // another name; "" keeps it
	// DType is another dtype, F32, F16 or BF16, for an Output of floating-point values in row-major order: those that are copied or cast from
	// the file's are cast to it, dequantised weights are made in it. The zero value keeps it.
	DType DType
}
