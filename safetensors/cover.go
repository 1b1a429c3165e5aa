package safetensors

import (
	"cmp"
	"fmt"
	"slices"
)

// span is a tensor's byte range with its number, for sorting.
type span struct {
	begin, end int64
	tensor     int
}

// cover checks that the tensors tile the data area: the first begins at 0, each begins where the one before it ends, and the last ends
// with the file. Zero-size tensors may stand at any boundary. Only a header that is not in the order of its offsets is sorted.
func (p *headerParser) cover(trailing bool) error {
	end, ordered := p.ordered()
	if !ordered {
		var err error
		if end, err = p.sorted(); err != nil {
			return err
		}
	}
	area := p.h.size - p.h.dataOffset
	switch {
	case end > area:
		return p.truncated(area)
	case end == area:
		return nil
	case trailing:
		p.noted++
		p.h.notes = append(p.h.notes, fmt.Sprintf("%d bytes after the last tensor ignored", area-end))
		return nil
	}
	return &FormatError{
		Offset: p.h.dataOffset + end, Err: ErrTrailingBytes,
		Expected: fmt.Sprintf("a file of %d bytes", p.h.dataOffset+end), Found: decimal(p.h.size),
	}
}

// ordered walks the tensors in header order. It reports false as soon as one does not begin where the one before it ended.
func (p *headerParser) ordered() (end int64, ok bool) {
	for i := range p.h.Len() {
		r := p.h.records.at(i)
		if r.begin != end {
			return 0, false
		}
		end = r.end
	}
	return end, true
}

// sorted is ordered for the tensors sorted by begin, then end: zero-size tensors come before the one that shares their begin.
func (p *headerParser) sorted() (int64, error) {
	spans := make([]span, p.h.Len())
	for i := range spans {
		r := p.h.records.at(i)
		spans[i] = span{r.begin, r.end, i}
	}
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.tensor, b.tensor))
	})
	end := int64(0)
	for i, s := range spans {
		if s.begin != end {
			return 0, p.gap(spans, i, end)
		}
		end = s.end
	}
	return end, nil
}

// gap is the error for a tensor that does not begin where the one before it ended.
func (p *headerParser) gap(spans []span, i int, end int64) error {
	s := spans[i]
	rule := ErrHole
	if s.begin < end {
		rule = ErrOverlap
	}
	expected := "begin 0, the start of the data area"
	if i > 0 {
		expected = fmt.Sprintf("begin %d, the end of %s", end, quote(p.h.Name(spans[i-1].tensor)))
	}
	err := p.fail(rule, int(*p.starts.at(s.tensor)), expected, fmt.Sprintf("[%d,%d]", s.begin, s.end))
	return aboutTensor(err, p.h.Name(s.tensor))
}

// truncated names the first tensor, by offset, that does not fit in the file.
func (p *headerParser) truncated(area int64) error {
	first := -1
	for i := range p.h.Len() {
		if r := p.h.records.at(i); r.end > area && (first < 0 || r.begin < p.h.records.at(first).begin) {
			first = i
		}
	}
	end := p.h.records.at(first).end
	err := p.fail(ErrTruncated, int(*p.starts.at(first)), fmt.Sprintf("at least %d bytes of data", end), decimal(area))
	return aboutTensor(err, p.h.Name(first))
}
