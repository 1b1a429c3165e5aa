package gguf

import (
	"fmt"
	"io"
	"iter"
	"slices"
)

// Header is the table of one file: what ReadHeader and the openers make after they have checked every rule of the format. Tensors are numbered
// from 0 in the order of the header. A Header does not change and may be used from several goroutines.
type Header struct {
	version    uint32
	alignment  int64
	metaEnd    int64 // where the metadata ends and the table of tensors begins
	dataOffset int64
	size       int64

	keys    []keyed
	keyTab  table
	records []record
	dims    []int64 // of all records, slowest first
	text    string  // names of all records
	names   table
}

type keyed struct {
	key   string
	value Value
}

// record is one tensor.
type record struct {
	begin, end int64 // in the data area
	dims, text uint32
	nameLen    uint16
	typ        uint8
	rank       uint8
}

// Info is one tensor as its header declares it.
type Info struct {
	Name       string
	Type       Type
	Shape      []int64 // elements, slowest dim first; owned by the caller. The file has them the other way round
	Begin, End int64   // bytes in the data area: add Header.DataOffset for the offset in the file
}

// Size is the number of bytes of the tensor.
func (t Info) Size() int64 { return t.End - t.Begin }

// ReadHeader reads the header of a file of size bytes and checks every rule. A fault is a *FormatError.
func ReadHeader(r io.ReaderAt, size int64, opts ...Option) (*Header, error) {
	c := newConfig(opts)
	h, err := parse(r, size, c.limits)
	if err != nil {
		return nil, inFile(err, c.name)
	}
	return h, nil
}

// Version is 2 or 3; the two do not differ for files of little-endian machines.
func (h *Header) Version() int { return int(h.version) }

// Alignment is what every tensor begins at a multiple of, in bytes.
func (h *Header) Alignment() int64 { return h.alignment }

// Len is the number of tensors.
func (h *Header) Len() int { return len(h.records) }

// MetadataEnd is where the metadata ends and the table of tensors begins, in bytes.
func (h *Header) MetadataEnd() int64 { return h.metaEnd }

// DataOffset is where the data area begins in the file, in bytes.
func (h *Header) DataOffset() int64 { return h.dataOffset }

// FileSize is the size of the file that the header was checked against, in bytes.
func (h *Header) FileSize() int64 { return h.size }

// Name is the name of tensor i. Like every method that takes an index it panics when i is not in [0, Len).
func (h *Header) Name(i int) string {
	r := &h.records[i]
	return h.text[r.text:][:r.nameLen]
}

// Type is the type of tensor i.
func (h *Header) Type(i int) Type { return Type(h.records[i].typ) }

// Extent is the byte range of tensor i in the data area: add DataOffset for the place in the file.
func (h *Header) Extent(i int) (begin, end int64) { return h.records[i].begin, h.records[i].end }

// AppendShape appends the dims of tensor i to dst, in elements, slowest first.
func (h *Header) AppendShape(dst []int64, i int) []int64 {
	r := &h.records[i]
	return append(dst, h.dims[r.dims:][:r.rank]...)
}

// Info is everything about tensor i.
func (h *Header) Info(i int) Info {
	begin, end := h.Extent(i)
	return Info{Name: h.Name(i), Type: h.Type(i), Shape: h.AppendShape(nil, i), Begin: begin, End: end}
}

// Lookup is the index of the tensor called name. It takes constant time.
func (h *Header) Lookup(name string) (i int, ok bool) {
	i = h.names.find(name, h.Name)
	return i, i >= 0
}

// All is every tensor in the order of the header.
func (h *Header) All() iter.Seq2[string, Info] {
	return func(yield func(string, Info) bool) {
		for i := range h.Len() {
			t := h.Info(i)
			if !yield(t.Name, t) {
				return
			}
		}
	}
}

// Names is the tensors' names in the order of the header.
func (h *Header) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h.Len() {
			if !yield(h.Name(i)) {
				return
			}
		}
	}
}

// Metadata is every key with its value, in the order of the file.
func (h *Header) Metadata() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		for i := range h.keys {
			if !yield(h.keys[i].key, h.keys[i].value) {
				return
			}
		}
	}
}

// Value is the value of one key of the metadata.
func (h *Header) Value(key string) (v Value, ok bool) {
	i := h.keyTab.find(key, h.keyAt)
	if i < 0 {
		return Value{}, false
	}
	return h.keys[i].value, true
}

func (h *Header) keyAt(i int) string { return h.keys[i].key }

// Split says which file of a set a file is.
type Split struct {
	No      int // from 0
	Count   int // files of the set
	Tensors int // of all files together
}

// The keys that tell of a split.
const (
	keySplitNo      = "split.no"
	keySplitCount   = "split.count"
	keySplitTensors = "split.tensors.count"
)

// Split reads the keys of a split file; zero for a file that says nothing of one. A file of a set of one is a Split too.
func (h *Header) Split() Split {
	number := func(key string) int {
		v, _ := h.Value(key)
		n, _ := v.Int()
		return int(n)
	}
	return Split{No: number(keySplitNo), Count: number(keySplitCount), Tensors: number(keySplitTensors)}
}

// checkSplit checks the keys of a split file against each other.
func (h *Header) checkSplit() error {
	values := map[string]int64{}
	for _, key := range []string{keySplitNo, keySplitCount, keySplitTensors} {
		v, there := h.Value(key)
		n, whole := v.Int()
		switch {
		case !there:
			continue
		case !whole || n < 0 || n >= 1<<31:
			return &FormatError{Offset: v.Offset, Key: key, Err: ErrSplit, Expected: "a whole number from 0 on", Found: "a value of type " + v.Type.String()}
		}
		values[key] = n
	}
	if len(values) == 0 {
		return nil
	}
	no, count, tensors := values[keySplitNo], values[keySplitCount], values[keySplitTensors]
	if len(values) != 3 || no >= max(count, 1) || count <= 1 && no > 0 || tensors < int64(h.Len()) && count > 0 {
		return &FormatError{
			Offset: NoOffset, Key: keySplitNo, Err: ErrSplit, Expected: "number, count and tensors, the number below the count",
			Found: fmt.Sprintf("number %d of %d files with %d tensors, of which this has %d", no, count, tensors, h.Len()),
		}
	}
	return nil
}

// check proves that the tensors and their padding tile the data area.
func (h *Header) check() error {
	order := make([]int32, len(h.records))
	for i := range order {
		order[i] = int32(i)
	}
	byOffset := func(a, b int32) int {
		x, y := h.records[a].begin, h.records[b].begin
		return int(min(max(x-y, -1), 1))
	}
	if !slices.IsSortedFunc(order, byOffset) {
		slices.SortFunc(order, byOffset)
	}
	at := int64(0) // where the next tensor must begin
	for _, i := range order {
		r := &h.records[i]
		if r.begin != at {
			return h.misplaced(int(i), at)
		}
		if r.end > h.size-h.dataOffset {
			return &FormatError{
				Offset: h.dataOffset + r.begin, Tensor: h.Name(int(i)), Err: ErrTruncated, Expected: fmt.Sprintf("%d bytes of data", r.end-r.begin),
				Found: fmt.Sprintf("%d up to the end of the file", max(h.size-h.dataOffset-r.begin, 0)),
			}
		}
		at = alignUp(r.end, h.alignment)
	}
	return h.checkEnd(order)
}

// misplaced is the fault of a tensor that does not begin at want.
func (h *Header) misplaced(i int, want int64) error {
	r := &h.records[i]
	e := &FormatError{
		Offset: h.dataOffset + r.begin, Tensor: h.Name(i), Err: ErrHole,
		Expected: fmt.Sprintf("offset %d, after the padding of the tensor before", want), Found: decimal(r.begin),
	}
	if r.begin < want {
		e.Err = ErrOverlap
	}
	return e
}

// checkEnd refuses what follows the last tensor, other than its padding.
func (h *Header) checkEnd(order []int32) error {
	end := min(h.dataOffset, h.size) // without tensors the file may end before the padding of the header
	if n := len(order); n > 0 {
		end = h.dataOffset + h.records[order[n-1]].end
	}
	if most := alignUp(end, h.alignment); h.size > most {
		return &FormatError{
			Offset: most, Err: ErrTrailingBytes, Expected: fmt.Sprintf("a file of %d to %d bytes", end, most), Found: fmt.Sprintf("%d", h.size),
		}
	}
	return nil
}

// alignUp is the next multiple of align, a power of two, from n on. n and align are small enough that it cannot overflow.
func alignUp(n, align int64) int64 { return (n + align - 1) &^ (align - 1) }
