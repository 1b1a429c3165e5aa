package stages

// Rect is where a Part writes inside its Slab: Rows rows of RowBytes bytes, the first at Off, each Stride bytes after the one before.
type Rect struct {
	Off      int64
	RowBytes int64
	Stride   int64
	Rows     int64
}

// Bytes is the number of bytes that the Rect covers.
func (r Rect) Bytes() int64 { return r.Rows * r.RowBytes }

// Flat is a Rect of one row: n bytes from off on.
func Flat(off, n int64) Rect { return Rect{Off: off, RowBytes: n, Stride: n, Rows: 1} }

// Input is a byte range that a Part reads, inside one of its Batch's fetched Ranges.
type Input struct {
	Tensor string // the source tensor, for errors
	Extent Extent // where it lies in the Shard; of no bytes where a Part makes nothing but padding
	Range  int    // index into Batch.Ranges
	Off    int64  // bytes from the start of that Range
}

// NoSlab is the Part.Slab of a Part that only checks what it reads.
const NoSlab = -1

// Part is one independent piece of work: an Op that reads Inputs and writes a Rect of one Slab.
type Part struct {
	Op     Op
	Slab   int // index into Batch.Slabs, or NoSlab
	Dst    Rect
	Inputs []Input
	// Finds is the scan that the Part belongs to: its Op writes nothing and says in Job.Found what it found. Needs is the scan whose value
	// its Op gets as Job.Scanned. NoScan for none, as most Parts have it.
	Finds, Needs ScanID
}

// ScanID numbers the scans of a load, from 1 on. A scan looks at bytes ahead of the Parts that need one value of all of them before they
// can write; its Parts are in Batches of their own, which write nothing and are admitted first. Its value is the largest of what its Parts
// found, so that neither their order nor the number of workers decides it.
type ScanID int32

// Scan is what a load has to know of one scan.
type Scan struct {
	Parts int // how many it has
	First int // of them, those in Batches that are always made: the others are in Spare ones
	// Enough is where larger values are all the same: what is found counts as that at most, and what is Spare is passed over when it was
	// found. 0 for a scan that has no such value.
	Enough uint64
}

// NoScan is the ScanID of a Part that has to do with none.
const NoScan ScanID = 0

// Job is what an Op is given to do one Part.
type Job struct {
	Dst      []byte // the Slab's bytes from the Rect's first byte to its last; nil for a Part without a Slab
	Rows     int
	RowBytes int
	Stride   int      // bytes from one row of Dst to the next
	Src      [][]byte // one per Input; read-only; valid until Run returns; not necessarily aligned

	// Soon says that Dst is staging, which will be read again soon: it had better stay in the processor's caches. Final memory of some
	// size had better go past them.
	Soon bool

	Scanned uint64 // the value of the scan that the Part needs
	Found   uint64 // set by the Op of a scan: what it found in Src

	Inputs []Input                          // what Src are, for errors
	Warn   func(format string, args ...any) // reports what is odd but not wrong; never nil
}

// Row is the i-th row of the destination.
func (j *Job) Row(i int) []byte {
	o := i * j.Stride
	return j.Dst[o : o+j.RowBytes : o+j.RowBytes]
}

// Op is what a Part does. An Op is immutable and safe for concurrent use: the same Op serves many Parts.
type Op interface {
	// Phase is the stage that runs the Op: decode, fuse or repack.
	Phase() Phase
	// String says what the Op does, for the plan and for errors: "cast BF16->F16".
	String() string
	// Run reads Src and writes every byte of the destination rectangle. It keeps no reference to the Job. A *DataError in the chain of
	// its error names the input that is at fault.
	Run(j *Job) error
}

// Checker is implemented by an Op whose result can be compared with its source at single places. A few places of what every such Op wrote are
// looked at while a load runs: it is cheap, and a kernel, a processor or memory that is wrong does not go unnoticed for long.
type Checker interface {
	// CheckWord compares one word of the result with the source: the bytes from 4*word on of row row of the destination, which has that
	// row and those bytes. It is called after Run has succeeded, with the same Job and, like Run, under a guard against pages that are
	// lost. It reads the layout by its definition and shares no code with Run that could be wrong in the same way. A difference is a
	// *MismatchError.
	CheckWord(j *Job, row, word int) error
}

// Sufficer is an Op of a scan that can find enough: values from Enough on, which is above 0, are all the same to who needs the scan.
type Sufficer interface{ Enough() uint64 }

// Views are the fetched bytes of one Batch.
type Views interface {
	// Bytes is the i-th Range asked for. It is read-only and valid until Release. A touch may fault when the file behind it is
	// truncated: only code that runs under a fault guard may read it.
	Bytes(i int) []byte
	// Method says how the bytes were read: "mmap", "pread", ... ("mixed" when several ways were used).
	Method() string
	// Release gives the bytes back. It is idempotent.
	Release()
}

// Batch is the unit of flow and of memory accounting: some whole Slabs, the Parts that make them, and the byte ranges to fetch. One of a scan
// has Parts and ranges only.
type Batch struct {
	Seq   int
	Name  string // its number and its first tensor, for errors, spans and traces; what is at fault in it says so itself
	Slabs []Slab
	Parts []Part
	// Outputs are all Outputs of the load, which Slab.Output indexes. Shared: not to be changed.
	Outputs []Output
	Ranges  []Extent // coalesced, sorted by shard and offset, not overlapping
	// InBytes and OutBytes are the sums over Ranges and Slabs; UsedBytes the part of InBytes that a Part reads.
	InBytes, OutBytes, UsedBytes int64
	// Staging is what the Sink said it holds for these Slabs between Reserve and Write.
	Staging int64
	// Padding is what the Source may hold beyond InBytes, see Padder.
	Padding int64

	// Views and Dst are set by the fetch stage: one view per Range, one destination per Slab.
	Views Views
	Dst   [][]byte
	// Spare is set on a Batch of one scan that is passed over when the scan has found enough before.
	Spare bool

	// Method is how the bytes were read, as the Views say; set by the fetch stage, and known after the Views are given back.
	Method string

	dropped bool // the Views were there and are released
}

// IsScan reports whether the Batch belongs to scans: it has no Slabs, and nothing is written for it.
func (b *Batch) IsScan() bool { return len(b.Parts) > 0 && b.Parts[0].Finds != NoScan }

// Cost is what the Batch is charged at admission, in bytes: its fetch buffers with their padding, and the Sink's staging.
func (b *Batch) Cost() int64 { return b.InBytes + b.Padding + b.Staging }

// HeldBytes is what the Batch still holds: once its Views are dropped, only the Sink's staging.
func (b *Batch) HeldBytes() int64 {
	if b.dropped {
		return b.Staging
	}
	return b.Cost()
}

// Source is the bytes of the i-th Input of p. It is nil before the fetch stage and after the Views were released, and for an Input of no
// bytes.
func (b *Batch) Source(p *Part, i int) []byte {
	in := &p.Inputs[i]
	if b.Views == nil || in.Extent.Len == 0 {
		return nil
	}
	v := b.Views.Bytes(in.Range)
	return v[in.Off : in.Off+in.Extent.Len : in.Off+in.Extent.Len]
}

// Written is the part of the Slab that p writes, from its first byte to its last (rows p.Dst.Stride apart); nil for a Part without Slab.
func (b *Batch) Written(p *Part) []byte {
	if p.Slab == NoSlab || p.Dst.Rows == 0 {
		return nil
	}
	end := p.Dst.Off + (p.Dst.Rows-1)*p.Dst.Stride + p.Dst.RowBytes
	return b.Dst[p.Slab][p.Dst.Off:end:end]
}

// DropSource releases the fetched bytes early, when every Op has run. It is idempotent.
func (b *Batch) DropSource() {
	if b.Views != nil {
		b.Views.Release()
		b.Views = nil
		b.dropped = true
	}
}

// Release gives back what the Batch holds of the Source. What it holds of the Sink is settled by Write, or by Close.
func (b *Batch) Release() { b.DropSource() }

// FirstTensor is what people find a Batch by: the first tensor that it reads; empty when it reads none.
func (b *Batch) FirstTensor() string {
	for i := range b.Parts {
		if in := b.Parts[i].Inputs; len(in) > 0 {
			return in[0].Tensor
		}
	}
	return ""
}

// ItemName names the Batch in errors and spans.
func (b *Batch) ItemName() string { return b.Name }
