package execute

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/coldload/coldload/internal/fault"
	"github.com/coldload/coldload/stages"
)

// Options configures an Executor. The zero value is good.
type Options struct {
	// DropSource gives the fetched bytes back when the phase is done, so that the Batch is charged less from then on. Set it on the
	// last stage that reads sources: a user's stage after repack still wants them.
	DropSource bool
	// FileName names a Shard in errors. Nil leaves the file out.
	FileName func(shard int32) string
	// NoSelfCheck leaves out the comparison of a sample of what was written with its source; see [stages.Checker].
	NoSelfCheck bool
	// Warn takes what an Op found odd, one line each, from several goroutines at once: [Warnings.Add]. Nil drops it.
	Warn func(text string)
	// Scans is where what scans find goes, and whence those get it that need it. Nil for a load without scans.
	Scans *Scans
}

// Executor is a pipeline stage on Batches. It is safe for concurrent use by any number of workers.
type Executor struct {
	phase   stages.Phase
	opt     Options
	checked atomic.Int32 // Parts of the first ones
}

// Stage makes the stage that runs the Ops of one phase.
func Stage(phase stages.Phase, opt Options) *Executor {
	return &Executor{phase: phase, opt: opt}
}

// Name is the phase's name.
func (e *Executor) Name() string { return e.phase.String() }

// Process runs every Part of b that belongs to the phase. It owns b from call to return; on error, and when an Op panics, it has
// released it. It ends between two Parts, with the cause, when ctx does.
//
// An error names the Op and the tensor. A *stages.DataError in its chain is completed with the file and the tensor, so an Op returns a
// new one each time. A fault on a source is such an error too; a fault on the destination is an error, one elsewhere a panic.
func (e *Executor) Process(ctx context.Context, b *stages.Batch) (*stages.Batch, error) {
	done := false
	defer func() {
		if !done {
			b.Release()
		}
	}()
	r := newRun(e, b)
	for i := range b.Parts {
		p := &b.Parts[i]
		if p.Op.Phase() != e.phase {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := r.do(p); err != nil {
			return nil, err
		}
	}
	if e.opt.DropSource {
		b.DropSource()
	}
	done = true
	return b, nil
}

// run is one call of Process. Everything in it serves one Part after the other, so that a Part allocates nothing.
type run struct {
	stage   *Executor
	opt     *Options
	batch   *stages.Batch
	part    *stages.Part
	job     stages.Job
	regions [][]byte     // the sources and the destination: where a fault may happen
	call    func() error // runs the Op on the job
}

func newRun(e *Executor, b *stages.Batch) *run {
	r := &run{stage: e, opt: &e.opt, batch: b}
	r.job.Warn, r.job.Soon = r.warn, b.Staging > 0
	r.call = func() error {
		if err := r.part.Op.Run(&r.job); err != nil {
			return err
		}
		return r.selfCheck()
	}
	return r
}

func (r *run) do(p *stages.Part) error {
	r.part = p
	if err := r.prepare(); err != nil {
		return fmt.Errorf("%s: %s: %w", p.Op, r.subject(), err)
	}
	if err := fault.Guard(r.call, r.regions...); err != nil {
		return r.explain(err)
	}
	if p.Finds != stages.NoScan {
		return r.opt.Scans.found(p.Finds, r.job.Found)
	}
	return nil
}

// prepare checks the Part and fills the job.
func (r *run) prepare() error {
	if err := checkRect(r.batch, r.part); err != nil {
		return err
	}
	j, p := &r.job, r.part
	j.Found, j.Scanned = 0, 0
	if p.Needs != stages.NoScan {
		v, err := r.opt.Scans.value(p.Needs)
		if err != nil {
			return err
		}
		j.Scanned = v
	}
	j.Dst, j.Rows, j.RowBytes, j.Stride = nil, 0, 0, 0
	if p.Slab != stages.NoSlab {
		j.Dst = r.batch.Written(p)
		j.Rows, j.RowBytes, j.Stride = int(p.Dst.Rows), int(p.Dst.RowBytes), int(p.Dst.Stride)
	}
	j.Inputs, j.Src = p.Inputs, j.Src[:0]
	for i := range p.Inputs {
		if err := checkInput(r.batch, &p.Inputs[i]); err != nil {
			return err
		}
		j.Src = append(j.Src, r.batch.Source(p, i))
	}
	r.regions = append(append(r.regions[:0], j.Src...), j.Dst)
	return nil
}

func (r *run) warn(format string, args ...any) {
	if r.opt.Warn != nil {
		r.opt.Warn(fmt.Sprintf("%s: %s: %s", r.part.Op, r.subject(), fmt.Sprintf(format, args...)))
	}
}

// subject names what the Part is about: its first source tensor, or else the Slab that it fills.
func (r *run) subject() string {
	if len(r.part.Inputs) > 0 {
		return r.part.Inputs[0].Tensor
	}
	if i := r.part.Slab; i >= 0 && i < len(r.batch.Slabs) {
		return fmt.Sprintf("slab %d of output %d", r.batch.Slabs[i].Index, r.batch.Slabs[i].Output)
	}
	return r.batch.ItemName()
}

// explain names the Op, the tensor and the file in an Op's error.
func (r *run) explain(err error) error {
	if fe, ok := errors.AsType[*fault.Error](err); ok {
		err = r.faulted(fe)
	}
	if de, ok := errors.AsType[*stages.DataError](err); ok {
		added := r.complete(de)
		if _, bare := err.(*stages.DataError); bare { //nolint:errorlint // only the outermost error's text is made when asked for
			added = ""
		}
		return fmt.Errorf("%s: %s%w", r.part.Op, added, err)
	}
	if _, ok := errors.AsType[*stages.MismatchError](err); ok && len(r.part.Inputs) > 0 {
		if file := r.opt.fileOf(r.part.Inputs[0].Extent); file != "" {
			return fmt.Errorf("%s: %s: %s: %w", r.part.Op, file, r.subject(), err)
		}
	}
	return fmt.Errorf("%s: %s: %w", r.part.Op, r.subject(), err)
}

// faulted tells a lost source page from a destination that could not be written.
func (r *run) faulted(fe *fault.Error) error {
	for i, src := range r.job.Src {
		if fe.In(src) {
			in := &r.part.Inputs[i]
			return sourceLost(fe, r.opt.fileOf(in.Extent), in.Tensor)
		}
	}
	return sinkLost(fe)
}

// sourceLost is the error for a fault on a fetched page.
func sourceLost(fe *fault.Error, file, tensor string) error {
	return &stages.DataError{
		File: file, Tensor: tensor, Problem: "file changed or truncated during the load",
		Advice: "leave the checkpoint alone while it is read; if nothing touches it, check the disk", Err: fe,
	}
}

// sinkLost is the error for a fault on a destination.
func sinkLost(fe *fault.Error) error {
	return fmt.Errorf("the sink's memory cannot be written, its file system may be full: %w", fe)
}

// complete fills in the tensor and the file that an Op did not name. It returns what it added, for the text of an error around de, which
// was made before.
func (r *run) complete(de *stages.DataError) (added string) {
	in := r.inputNamed(de.Tensor)
	if in == nil {
		return ""
	}
	if file := r.opt.fileOf(in.Extent); de.File == "" && file != "" {
		de.File = file
		added += file + ": "
	}
	if de.Tensor == "" {
		de.Tensor = in.Tensor
		added += in.Tensor + ": "
	}
	return added
}

// inputNamed is the Input of that tensor; the first one when no name is given, nil when the Part has no such Input.
func (r *run) inputNamed(tensor string) *stages.Input {
	for i := range r.part.Inputs {
		if in := &r.part.Inputs[i]; tensor == "" || in.Tensor == tensor {
			return in
		}
	}
	return nil
}

// fileOf names the file that e lies in, if anybody can.
func (o *Options) fileOf(e stages.Extent) string {
	if o.FileName == nil {
		return ""
	}
	return o.FileName(e.Shard)
}
