package coldload

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// Output is one finished tensor, in memory that the receiver owns.
type Output struct {
	Name string
	host.Tensor
	region *offheap.Region
}

// Release gives the memory back. It is idempotent; Bytes is invalid afterwards.
func (o *Output) Release() error {
	o.Bytes = nil
	if o.region == nil {
		return nil
	}
	return o.region.Free()
}

// errStopped ends a load whose caller left the loop.
var errStopped = errors.New("the caller has seen enough")

// Outputs loads the checkpoint and yields every Output as soon as it is complete. The receiver releases it. While the receiver holds the
// loop up, the load waits, so that no more than the unfinished Outputs and the budget are in memory; the budget is never the Checkpoint's own
// but another of its size, so that the body of the loop may load from the same Checkpoint (with a SharedBudget the body must charge another). An error ends the loop. Leaving the loop ends the
// load.
func (ck *Checkpoint) Outputs(ctx context.Context, opt Options) iter.Seq2[*Output, error] {
	return func(yield func(*Output, error) bool) {
		opt := ck.options(opt)
		res := newJudgedResult()
		res.sink = "outputs"
		var left bool
		err := opt.operation(ctx, "load", ck.found.Path, res, func(ctx context.Context) (err error) {
			left, err = ck.stream(ctx, opt, res, yield)
			return err
		})
		if err != nil && !left {
			yield(nil, err)
		}
	}
}

// stream is the loop of Outputs; left says that the receiver left it.
func (ck *Checkpoint) stream(ctx context.Context, opt Options, res *Result, yield func(*Output, error) bool) (left bool, err error) {
	v, err := ck.verification(opt, false)
	if err != nil {
		return false, err
	}
	p, err := ck.makePlan(ctx, nil, opt, res)
	if err != nil {
		return false, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := newOutlet(p.Outputs)
	if err := out.Begin(ctx, p.Outputs); err != nil {
		return false, errors.Join(err, out.Close())
	}
	budget := outside(ctx, opt.SharedBudget)
	if budget == ck.budget {
		budget = pipeline.NewBudget(budget.Size())
	}
	f, err := ck.wire(ctx, p, out, opt, v, budget)
	if err != nil {
		return false, err
	}
	res.flowBegins(ck)
	f.run.Start()
	over := func() error { // what the receiver does not take any more is freed
		for o := range out.done {
			if err := o.Release(); err != nil {
				stop(err)
			}
		}
		return f.end(res)
	}
	returned := false
	defer func() {
		if !returned { // a panic of the receiver, or the end of its goroutine, goes on when nothing of the load is left
			stop(errStopped)
			_ = over()
		}
	}()
	for o := range out.done {
		if !yield(o, nil) {
			left = true
			stop(errStopped)
			break
		}
	}
	returned = true
	err = over()
	if left && errors.Is(err, errStopped) {
		return left, nil
	}
	return left, unwrapRefusal(err)
}

// outlet is a Sink that hands every Output on when its last Slab is written. Its memory is made when the first Slab is reserved, as much
// as the Output needs: final memory, which the receiver owns.
type outlet struct {
	outputs []stages.Output
	missing []atomic.Int32 // Slabs of every Output that are not written yet
	done    chan *Output

	mu     sync.Mutex
	memory map[int]*Output
}

func newOutlet(outputs []stages.Output) *outlet {
	o := &outlet{outputs: outputs, missing: make([]atomic.Int32, len(outputs)), done: make(chan *Output), memory: map[int]*Output{}}
	for i := range outputs {
		o.missing[i].Store(int32(outputs[i].Slabs()))
	}
	return o
}

// Begin has nothing to prepare.
func (o *outlet) Begin(ctx context.Context, _ []stages.Output) error { return context.Cause(ctx) }

// Reserve is a part of the Output's own memory.
func (o *outlet) Reserve(_ context.Context, s stages.Slab) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := o.memory[s.Output]
	if out == nil {
		var err error
		if out, err = o.make(s.Output); err != nil {
			return nil, err
		}
		o.memory[s.Output] = out
	}
	return out.Bytes[s.Off : s.Off+s.Len : s.Off+s.Len], nil
}

func (o *outlet) make(i int) (*Output, error) {
	d := &o.outputs[i]
	out := &Output{Name: d.Name, Tensor: host.Tensor{DType: d.DType, Shape: d.Shape, Layout: d.Layout, Padding: d.Padding}}
	if d.Size < smallOutput {
		out.Bytes = aligned(d.Size)
		return out, nil
	}
	region, err := offheap.Alloc(d.Size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.Name, err)
	}
	out.region, out.Bytes = region, region.Bytes()
	return out, nil
}

// smallOutput is the size below which an Output lives on the Go heap, in bytes: a mapping for every norm would cost more than the norm.
const smallOutput = 64 << 10

// aligned makes n bytes that start at a multiple of 64.
func aligned(n int64) []byte {
	b := make([]byte, n+63)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 63
	return b[skip:][:n:n]
}

// Write hands the Output on with its last Slab.
func (o *outlet) Write(ctx context.Context, s stages.Slab, _ []byte) error {
	if o.missing[s.Output].Add(-1) > 0 {
		return nil
	}
	o.mu.Lock()
	out := o.memory[s.Output]
	delete(o.memory, s.Output)
	o.mu.Unlock()
	return o.hand(ctx, out)
}

// hand gives an Output to the receiver, or frees it when the load ends first.
func (o *outlet) hand(ctx context.Context, out *Output) error {
	select {
	case o.done <- out:
		return nil
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), out.Release())
	}
}

// Commit hands on the Outputs that have no bytes: nothing was written for them.
func (o *outlet) Commit(ctx context.Context) error {
	for i := range o.outputs {
		if o.outputs[i].Slabs() > 0 {
			continue
		}
		out, err := o.make(i)
		if err != nil {
			return err
		}
		if err := o.hand(ctx, out); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the receiver's loop and frees what is not complete.
func (o *outlet) Close() error {
	close(o.done)
	var errs []error
	for _, out := range o.memory {
		errs = append(errs, out.Release())
	}
	return errors.Join(errs...)
}
