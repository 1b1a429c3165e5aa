package plan

import (
	"cmp"
	"iter"
	"math"
	"slices"

	"github.com/coldload/coldload/stages"
)

// A Batch aims at batchBytes, counting the larger of what it reads and writes, and has at most mostParts Slabs, which bounds what
// describing it costs.
const (
	batchBytes = 8 << 20
	mostParts  = 4096
)

// unit is one Slab, or one tensor of a scan, and where its bulk bytes start.
type unit struct {
	off    int64
	shard  int32
	output int32
	slab   int32
	scan   stages.ScanID // of a unit that is no Slab: tensor slab of that scan
}

// layOut sorts all Slabs into file order and cuts them into Batches of at most target bytes; a Slab that needs more has one of its own.
func (p *Plan) layOut(target int64) {
	p.units = make([]unit, 0, p.slabs())
	for i := range p.Outputs {
		for s := range p.Outputs[i].Slabs() {
			at := p.recipes[i].first(p.catalog, s)
			p.units = append(p.units, unit{off: at.Off, shard: at.Shard, output: int32(i), slab: int32(s)})
		}
	}
	sortUnits(p.units)
	p.orderOutputs()
	p.cut(target)
	p.weave(target)
}

// sortUnits puts units into file order.
func sortUnits(units []unit) {
	byPlace := func(a, b unit) int {
		return cmp.Or(cmp.Compare(a.shard, b.shard), cmp.Compare(a.off, b.off), cmp.Compare(a.output, b.output), cmp.Compare(a.slab, b.slab))
	}
	if !slices.IsSortedFunc(units, byPlace) {
		slices.SortFunc(units, byPlace)
	}
}

// slabs is the number of Slabs of all Outputs.
func (p *Plan) slabs() (n int) {
	for i := range p.Outputs {
		n += p.Outputs[i].Slabs()
	}
	return n
}

// orderOutputs puts the Outputs into the order in which their last Slabs come: the order of completion when every Batch takes as long as
// the next. A Sink that fills files one after another relies on it, and it depends on nothing but the checkpoint and the options.
func (p *Plan) orderOutputs() {
	last := make([]int32, len(p.Outputs)) // 0 for an Output without Slabs
	for i, u := range p.units {
		last[u.output] = int32(i + 1)
	}
	if slices.IsSorted(last) {
		return
	}
	order := make([]int32, len(last)) // from new place to old
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(last[a], last[b]) })
	outputs, recipes := make([]stages.Output, len(order)), make([]recipe, len(order))
	for to, from := range order {
		outputs[to], recipes[to] = p.Outputs[from], p.recipes[from]
		last[from] = int32(to) // from here on: from old place to new
	}
	p.Outputs, p.recipes = outputs, recipes
	for i := range p.units {
		p.units[i].output = last[p.units[i].output]
	}
}

// cut fills p.ends with the end of every Batch among the units. A full Batch ends where nothing that comes later in the files was needed for
// it, if there is such a place in its second half: else the next Batch starts in front of bytes that this one has had to fetch by a request of
// their own, as the scales of one expert's up beside the weights of its gate.
func (p *Plan) cut(target int64) {
	b := openBatch{}
	for i := 0; i < len(p.units); {
		u := p.units[i]
		in := p.recipes[u.output].input(p.catalog, int(u.slab))
		out := p.Outputs[u.output].Slab(int(u.output), int(u.slab)).Len
		split := b.reaches(u) || p.tied(i)
		full := i > b.start && (max(b.in+in.bytes, b.out+out) > target && !p.joins(&b, i, in.bytes, out) || i-b.start == mostParts)
		if full && !p.tied(i) {
			if split && b.clean > b.start && 2*b.cleanSize >= b.size() {
				i = b.clean
			}
			p.ends = append(p.ends, i)
			b = openBatch{start: i}
			continue
		}
		if !split {
			b.clean, b.cleanSize = i, b.size()
		}
		b.add(in, out)
		i++
	}
	if len(p.units) > 0 {
		p.ends = append(p.ends, len(p.units))
	}
}

// joinLimit is how large a Batch may become that takes more than the target so as to read what it needs in one piece.
type joinLimit struct {
	most   int64 // cost in bytes
	staged bool  // what is written counts as well
}

// joinUnder is the joinLimit for a budget of so many bytes, 0 for none.
func joinUnder(budget int64, staged bool) joinLimit {
	if budget <= 0 {
		return joinLimit{math.MaxInt64, staged}
	}
	return joinLimit{budget / 4 * 3, staged}
}

// joins reports whether unit i is of the same module as what is in the Batch, and lies in the files so that both had better be read at once.
func (p *Plan) joins(b *openBatch, i int, in, out int64) bool {
	u, before := p.units[i], p.units[i-1]
	r, ok := p.recipes[u.output].(*turned)
	if !ok || u.output != before.output || int(u.slab)/r.slabsEach() != int(before.slab)/r.slabsEach() {
		return false
	}
	cost := b.in + in
	if p.join.staged {
		cost += b.out + out
	}
	return cost <= p.join.most
}

// tied reports whether unit i reads what the one before it turns into bytes: apart, both would fetch it.
func (p *Plan) tied(i int) bool {
	u := p.units[i]
	g, ok := p.recipes[u.output].(*grid)
	return ok && g.beside && i > 0 && p.units[i-1].shard == u.shard && p.units[i-1].off == u.off
}

// openBatch is the Batch that cut fills.
type openBatch struct {
	start   int   // its first unit
	in, out int64 // bytes
	last    need  // where the last byte lies that it needs
	// clean is the latest unit that nothing before it reaches beyond, and cleanSize the size of what came before it.
	clean     int
	cleanSize int64
}

func (b *openBatch) size() int64 { return max(b.in, b.out) }

func (b *openBatch) add(in need, out int64) {
	b.in, b.out = b.in+in.bytes, b.out+out
	b.last.add(stages.Extent{Shard: in.shard, Off: in.end})
}

// reaches reports whether the Batch needs bytes that lie behind the first of u.
func (b *openBatch) reaches(u unit) bool {
	return b.last.shard > u.shard || b.last.shard == u.shard && b.last.end > u.off
}

// Skip is the Plan without the work for Slabs that are done already. The Outputs stay, with their numbers; Summary.Skipped says how many
// bytes of them need not be made again. budget is what it was when the Plan was made.
func (p *Plan) Skip(done func(stages.Slab) bool, budget int64) *Plan {
	if !slices.ContainsFunc(p.units, func(u unit) bool {
		return u.scan == stages.NoScan && done(p.Outputs[u.output].Slab(int(u.output), int(u.slab)))
	}) {
		return p
	}
	rest := *p
	rest.units, rest.ends = make([]unit, 0, len(p.units)), nil
	for _, u := range p.units {
		if u.scan != stages.NoScan {
			continue // weave adds those that the rest needs
		}
		if slab := p.Outputs[u.output].Slab(int(u.output), int(u.slab)); done(slab) {
			rest.Summary.Skipped += slab.Len
		} else {
			rest.units = append(rest.units, u)
		}
	}
	rest.cut(TargetBatch(budget))
	rest.weave(TargetBatch(budget))
	return &rest
}

// Shards are those in which Slabs begin, and the tensors of scans, in the order in which Batches come to them.
func (p *Plan) Shards() []int32 {
	var list []int32
	seen := map[int32]bool{}
	for _, u := range p.units {
		if !seen[u.shard] {
			seen[u.shard] = true
			list = append(list, u.shard)
		}
	}
	return list
}

// BatchCount is the number of Batches.
func (p *Plan) BatchCount() int { return len(p.ends) }

// Batch builds Batch i. Its Staging is left to whoever knows the Sink.
func (p *Plan) Batch(i int) *stages.Batch {
	start := 0
	if i > 0 {
		start = p.ends[i-1]
	}
	n := p.ends[i] - start
	e := emitter{catalog: p.catalog, scans: p.scanIDs, inputs: make([]stages.Input, 0, n), extents: make([]stages.Extent, 0, n), ends: make([]int, 0, n)}
	e.batch = &stages.Batch{
		Seq: i, Outputs: p.Outputs, Slabs: make([]stages.Slab, 0, n), Parts: make([]stages.Part, 0, n),
	}
	for _, u := range p.units[start:p.ends[i]] {
		if u.scan != stages.NoScan {
			s := p.scans[u.scan-1]
			e.batch.Spare = s.enough > 0 && int(u.slab) >= s.ahead
			e.scan(u.scan, s.op, wholeTensor(p.catalog, s.tensors[u.slab]))
			continue
		}
		slab := p.Outputs[u.output].Slab(int(u.output), int(u.slab))
		e.batch.Slabs = append(e.batch.Slabs, slab)
		e.batch.OutBytes += slab.Len
		p.recipes[u.output].emit(p.catalog, int(u.slab), &e)
	}
	return e.finish()
}

// Batches builds every Batch in order, one at a time: what is not in flight takes no memory.
func (p *Plan) Batches() iter.Seq[*stages.Batch] {
	return func(yield func(*stages.Batch) bool) {
		for i := range p.ends {
			if !yield(p.Batch(i)) {
				return
			}
		}
	}
}
