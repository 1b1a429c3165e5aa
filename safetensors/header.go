package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
)

// prefixBytes is the size of the length that a file begins with.
const prefixBytes = 8

// metadataKey is the one key of a header that is no tensor.
const metadataKey = "__metadata__"

// Header is the table of one file: what ParseHeader, ReadHeader and the openers make after they have checked every rule of the format.
// Tensors are numbered from 0 in the order of the header text. A Header does not change and may be used from several goroutines.
//
// It keeps a copy of the names and nothing of the text: about 32 bytes a tensor besides the name. Strings that it returns share that
// memory (a name keeps a chunk of at most 256 KiB alive); clone what must live much longer than the Header.
type Header struct {
	records    list[record]
	strings    arena // each record's name, followed by its shape
	names      table
	meta       metadata
	notes      []string
	dataOffset int64
	size       int64
}

// record is one tensor. The shape's dims stand behind the name as varints, which are never longer than their text was.
type record struct {
	begin, end int64 // in the data area
	at         uint32
	nameLen    uint16
	dtype      DType
	rank       uint8
}

// Info is one tensor as its header declares it.
type Info struct {
	Name       string
	DType      DType
	Shape      []int64 // elements per dimension; empty for a scalar; owned by the caller
	Begin, End int64   // bytes in the data area: add Header.DataOffset for the offset in the file
}

// Size is the number of bytes of the tensor.
func (t Info) Size() int64 { return t.End - t.Begin }

// Elements is the product of Shape: 1 for a scalar. It cannot overflow for an Info that a Header gave.
func (t Info) Elements() int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// ParseHeader checks the header in data, the beginning of a file of size bytes: at least the 8 bytes of length and the JSON text. It
// does not keep data. A fault is a *FormatError; ErrHeaderTruncated with the number of bytes expected tells that data is too short.
func ParseHeader(data []byte, size int64, opts ...Option) (*Header, error) {
	c := newConfig(opts)
	h, err := parseHeader(data, size, c)
	return h, inFile(err, c.name)
}

func parseHeader(data []byte, size int64, c config) (*Header, error) {
	n, err := headerLength(data, size, c.limits)
	if err != nil {
		return nil, err
	}
	if have := len(data) - prefixBytes; have < n {
		return nil, &FormatError{
			Offset: 0, Err: ErrHeaderTruncated,
			Expected: fmt.Sprintf("%d bytes of the file", n+prefixBytes), Found: decimal(len(data)),
		}
	}
	return parseText(data[prefixBytes:prefixBytes+n], size, c)
}

// ReadHeader reads the header of a file of size bytes and checks it like ParseHeader. It reads 8 bytes and then the text, whose size it
// compares with size and the limits before it allocates. The text is garbage when ReadHeader returns.
func ReadHeader(r io.ReaderAt, size int64, opts ...Option) (*Header, error) {
	c := newConfig(opts)
	h, err := readHeader(r, size, c)
	return h, inFile(err, c.name)
}

func readHeader(r io.ReaderAt, size int64, c config) (*Header, error) {
	var prefix [prefixBytes]byte
	if size >= prefixBytes {
		if err := readAt(r, prefix[:], 0); err != nil {
			return nil, fmt.Errorf("read header length: %w", err)
		}
	}
	n, err := headerLength(prefix[:], size, c.limits)
	if err != nil {
		return nil, err
	}
	text := make([]byte, n)
	if err := readAt(r, text, prefixBytes); err != nil {
		return nil, fmt.Errorf("read header: %w", err)
	}
	return parseText(text, size, c)
}

// readAt fills p. An io.ReaderAt may say io.EOF together with the last byte.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil, errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	default:
		return err
	}
}

// headerLength is the size of the JSON text, checked as an unsigned number before it becomes an int.
func headerLength(prefix []byte, size int64, l Limits) (int, error) {
	if size < prefixBytes || len(prefix) < prefixBytes {
		have := max(0, min(size, int64(len(prefix))))
		return 0, &FormatError{
			Offset: 0, Err: ErrFileTooSmall, Expected: fmt.Sprintf("at least %d bytes", prefixBytes), Found: decimal(have),
		}
	}
	n := binary.LittleEndian.Uint64(prefix)
	e := &FormatError{Offset: 0, Found: strconv.FormatUint(n, 10)}
	switch {
	case n == 0:
		e.Err, e.Expected = ErrHeaderEmpty, "at least 2 bytes"
	case n > uint64(l.MaxHeaderBytes):
		e.Err, e.Expected = ErrHeaderTooLarge, fmt.Sprintf("at most %d bytes", l.MaxHeaderBytes)
	case n > uint64(size-prefixBytes):
		e.Err, e.Expected = ErrHeaderTruncated, fmt.Sprintf("at most %d bytes in a file of %d", size-prefixBytes, size)
	default:
		return int(n), nil
	}
	return 0, e
}

// inFile puts the file's name into err.
func inFile(err error, name string) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*FormatError](err); ok {
		if e.File == "" {
			e.File = name
		}
		return err
	}
	if name == "" {
		return fmt.Errorf("safetensors: %w", err)
	}
	return fmt.Errorf("safetensors: %s: %w", name, err)
}

// Len is the number of tensors.
func (h *Header) Len() int { return h.records.n }

// DataOffset is where the data area begins in the file, in bytes.
func (h *Header) DataOffset() int64 { return h.dataOffset }

// FileSize is the size of the file that the header was checked against, in bytes.
func (h *Header) FileSize() int64 { return h.size }

// Name is the name of tensor i. Like every method that takes an index it panics when i is not in [0, Len).
func (h *Header) Name(i int) string {
	r := h.records.at(i)
	return h.strings.from(r.at)[:r.nameLen]
}

// DType is the element type of tensor i.
func (h *Header) DType(i int) DType { return h.records.at(i).dtype }

// Extent is the byte range of tensor i in the data area: add DataOffset for the place in the file.
func (h *Header) Extent(i int) (begin, end int64) {
	r := h.records.at(i)
	return r.begin, r.end
}

// Rank is the number of dimensions of tensor i; 0 for a scalar.
func (h *Header) Rank(i int) int { return int(h.records.at(i).rank) }

// AppendShape appends the dimensions of tensor i to dst.
func (h *Header) AppendShape(dst []int64, i int) []int64 {
	r := h.records.at(i)
	if r.rank == 0 {
		return dst
	}
	s := h.strings.from(r.at)[r.nameLen:]
	for range r.rank {
		var v int64
		for shift := 0; ; shift += 7 {
			b := s[0]
			s = s[1:]
			v |= int64(b&0x7f) << shift
			if b < 0x80 {
				break
			}
		}
		dst = append(dst, v)
	}
	return dst
}

// Info is everything about tensor i. It allocates the shape; Name, DType, Extent, Rank and AppendShape do not.
func (h *Header) Info(i int) Info {
	r := h.records.at(i)
	return Info{
		Name: h.Name(i), DType: r.dtype, Shape: h.AppendShape(make([]int64, 0, r.rank), i), Begin: r.begin, End: r.end,
	}
}

// Lookup is the index of the tensor called name. It takes constant time and does not allocate.
func (h *Header) Lookup(name string) (i int, ok bool) {
	i = h.names.find(name, h.Name)
	return i, i >= 0
}

// Names is the tensors' names in file order.
func (h *Header) Names() iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range h.Len() {
			if !yield(h.Name(i)) {
				return
			}
		}
	}
}

// All is every tensor in file order.
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

// Metadata is the header's __metadata__ in file order; maps.Collect makes a map of it.
func (h *Header) Metadata() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := range h.meta.len() {
			if !yield(h.meta.key(i), h.meta.value(i)) {
				return
			}
		}
	}
}

// MetadataValue is the value of one key of __metadata__.
func (h *Header) MetadataValue(key string) (value string, ok bool) {
	i := h.meta.keys.find(key, h.meta.key)
	if i < 0 {
		return "", false
	}
	return h.meta.value(i), true
}

// Notes is what was accepted although it is unusual, one sentence each: unknown fields of a tensor, and trailing bytes where
// WithTrailingBytes allows them. The caller owns the list, which is bounded: its last sentence then says how many more there were.
func (h *Header) Notes() []string { return slices.Clone(h.notes) }
