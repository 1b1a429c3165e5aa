package plan

import (
	"github.com/coldload/coldload/stages"
)

// scan is a look at whole tensors ahead of the Outputs that need one value of all of them: one Part for each tensor.
type scan struct {
	op      stages.Op
	tensors []int32
	first   int32 // of them in the files
	// ahead of the tensors, the first, are looked at before the others, which are not when these have found enough; 0 when all of them must be.
	ahead  int
	enough uint64 // 0 for none
}

// scanAhead is how many scans are admitted ahead of the one that is needed next, so that its last Batches are through before anybody waits
// for them. The experts of a layer have two, and are needed at about the same place. What is looked at first, to see whether the rest has to be,
// comes as much earlier again.
const scanAhead = 2

// needs is the scan whose value a recipe needs; nil for none.
func needs(r recipe) *scan {
	if g, ok := r.(*grid); ok {
		return g.needs
	}
	return nil
}

// weave puts the Batches of the scans that are needed among those that were cut: in front of the first that needs one, and scanAhead of
// them earlier. They stay apart from the others, whose cut does not depend on them, and those of one scan that may be passed over from those of
// the next.
func (p *Plan) weave(target int64) {
	first := p.numberScans()
	if len(first) == 0 {
		return
	}
	units, ends := p.units, p.ends
	p.units, p.ends = make([]unit, 0, len(units)+p.scanUnits()), make([]int, 0, len(ends)+len(first))
	begun, next, start := 0, 0, 0
	for b, end := range ends {
		from := begun
		begun = due(first, begun, b, 2*scanAhead)
		p.addScans(from, begun, target, func(s *scan) (from, to int) { return 0, s.ahead })
		from = next
		next = due(first, next, b, scanAhead)
		for i := from; i < next; i++ {
			p.addScans(i, i+1, target, func(s *scan) (from, to int) { return s.ahead, len(s.tensors) })
		}
		p.units = append(p.units, units[start:end]...)
		p.ends = append(p.ends, len(p.units))
		start = end
	}
}

// due is the first scan, from next on, that does not have its place before Batch b yet. first are the Batches that need them.
func due(first []int, next, b, ahead int) int {
	for next < len(first) && first[max(0, next-ahead)] <= b {
		next++
	}
	return next
}

// numberScans numbers the scans in the order in which they are needed, and returns the Batch that needs each first.
func (p *Plan) numberScans() (first []int) {
	p.scans, p.scanIDs = nil, nil
	start := 0
	for b, end := range p.ends {
		for _, u := range p.units[start:end] {
			s := needs(p.recipes[u.output])
			if s == nil || p.scanIDs[s] != stages.NoScan {
				continue
			}
			if p.scanIDs == nil {
				p.scanIDs = map[*scan]stages.ScanID{}
			}
			p.scans = append(p.scans, s)
			p.scanIDs[s] = stages.ScanID(len(p.scans))
			first = append(first, b)
		}
		start = end
	}
	return first
}

// scanUnits is how many tensors are scanned.
func (p *Plan) scanUnits() (n int) {
	for _, s := range p.scans {
		n += len(s.tensors)
	}
	return n
}

// addScans appends Batches of at most target bytes for the tensors that some chooses of the scans from one to another, in file order.
func (p *Plan) addScans(from, to int, target int64, some func(s *scan) (from, to int)) {
	var list []unit
	for i := from; i < to; i++ {
		s := p.scans[i]
		for k, end := some(s); k < end; k++ {
			at := p.catalog.Extent(int(s.tensors[k]))
			list = append(list, unit{off: at.Off, shard: at.Shard, slab: int32(k), scan: stages.ScanID(i + 1)})
		}
	}
	sortUnits(list)
	var size int64
	for i, u := range list {
		n := p.catalog.Extent(int(p.scans[u.scan-1].tensors[u.slab])).Len
		if i > 0 && (size+n > target || len(p.units)-p.lastEnd() == mostParts) {
			p.ends = append(p.ends, len(p.units))
			size = 0
		}
		p.units = append(p.units, u)
		size += n
	}
	if len(list) > 0 {
		p.ends = append(p.ends, len(p.units))
	}
}

// lastEnd is where the Batch begins that is added to.
func (p *Plan) lastEnd() int {
	if len(p.ends) == 0 {
		return 0
	}
	return p.ends[len(p.ends)-1]
}

// Scans are the scans that the Batches have, by ScanID from 1 on.
func (p *Plan) Scans() []stages.Scan {
	list := make([]stages.Scan, len(p.scans))
	for i, s := range p.scans {
		list[i] = stages.Scan{Parts: len(s.tensors), First: len(s.tensors), Enough: s.enough}
		if s.enough > 0 {
			list[i].First = s.ahead
		}
	}
	return list
}
