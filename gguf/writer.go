package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// KeyValue is one entry of the metadata to write. Value is a bool, string, float32, float64 or an integer of a fixed size, or a slice of one of
// these types; a slice of slices is an array of arrays.
type KeyValue struct {
	Key   string
	Value any
}

// Spec is one tensor to write.
type Spec struct {
	Name  string
	Type  Type
	Shape []int64 // elements, slowest dim first
}

// WriterOptions change how a file is written. The zero value is good.
type WriterOptions struct {
	Version int // 2 or 3; 0 means 3
}

// Layout is where the bytes of a file go. It does not change and may be used from several goroutines.
type Layout struct {
	bytes  []byte
	header *Header
}

// NewLayout lays out a file of the given metadata and tensors, which lie in their order. An alignment other than 32 is one of the metadata,
// general.alignment as a uint32. What a reader refuses is refused here by the same rules.
func NewLayout(metadata []KeyValue, tensors []Spec, o WriterOptions) (*Layout, error) {
	version := o.Version
	if version == 0 {
		version = 3
	}
	e := &encoder{}
	e.b = append(e.b, magic...)
	e.u32(uint32(version))
	e.u64(uint64(len(tensors)))
	e.u64(uint64(len(metadata)))
	align := int64(defaultAlignment)
	for _, kv := range metadata {
		e.string(kv.Key)
		if err := e.value(kv.Value); err != nil {
			return nil, &FormatError{Offset: NoOffset, Key: kv.Key, Err: err, Found: fmt.Sprintf("%T", kv.Value)}
		}
		if n, ok := kv.Value.(uint32); ok && kv.Key == alignmentKey && n >= 8 && n <= maxAlignment && n&(n-1) == 0 {
			align = int64(n)
		}
	}
	end := int64(0)
	for i, t := range tensors {
		e.string(t.Name)
		e.u32(uint32(len(t.Shape)))
		for d := range t.Shape {
			e.u64(uint64(t.Shape[len(t.Shape)-1-d]))
		}
		e.u32(uint32(t.Type))
		e.u64(uint64(alignUp(end, align)))
		n, ok := t.Size()
		if end = alignUp(end, align) + n; !ok || end < 0 || end > math.MaxInt64/2 {
			return nil, &FormatError{Offset: NoOffset, Tensor: t.Name, Err: ErrOverflow, Found: fmt.Sprintf("%s %v, tensor %d", t.Type, t.Shape, i)}
		}
	}
	e.b = append(e.b, make([]byte, alignUp(int64(len(e.b)), align)-int64(len(e.b)))...)
	size := alignUp(int64(len(e.b))+end, align)
	h, err := parse(zerosAfter(e.b), size, Limits{MaxHeaderBytes: ceilingHeader}.withDefaults())
	if err != nil {
		return nil, err
	}
	return &Layout{bytes: e.b, header: h}, nil
}

// zerosAfter is a file of which only the header is there.
type zerosAfter []byte

func (z zerosAfter) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, z[min(off, int64(len(z))):])
	clear(p[n:])
	return len(p), nil
}

// Size is the number of bytes of the tensor. ok is false when it overflows, or when Type and Shape do not go together.
func (t Spec) Size() (n int64, ok bool) {
	elems, size := t.Type.Block()
	if elems == 0 || len(t.Shape) == 0 || t.Shape[len(t.Shape)-1]%elems != 0 {
		return 0, false
	}
	n = size
	for i, d := range t.Shape {
		if i == len(t.Shape)-1 {
			d /= elems
		}
		if d <= 0 || n > math.MaxInt64/2/d {
			return 0, false
		}
		n *= d
	}
	return n, true
}

// Bytes is the header with its padding: what the file begins with. It must not be changed.
func (l *Layout) Bytes() []byte { return l.bytes }

// Header is the table as a reader will see it.
func (l *Layout) Header() *Header { return l.header }

// encoder appends values as a file has them.
type encoder struct{ b []byte }

func (e *encoder) u32(v uint32) { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64) { e.b = binary.LittleEndian.AppendUint64(e.b, v) }

func (e *encoder) string(s string) {
	e.u64(uint64(len(s)))
	e.b = append(e.b, s...)
}

// value appends the type and the value.
func (e *encoder) value(v any) error {
	t, ok := typeOf(v)
	if !ok {
		return ErrValue
	}
	e.u32(uint32(t))
	return e.plain(v)
}

// plain appends a value without its type.
func (e *encoder) plain(v any) error {
	switch v := v.(type) {
	case string:
		e.string(v)
	case []string:
		return elements(e, String, v)
	case []bool:
		return elements(e, Bool, v)
	case []uint8:
		return elements(e, Uint8, v)
	case []int8:
		return elements(e, Int8, v)
	case []uint16:
		return elements(e, Uint16, v)
	case []int16:
		return elements(e, Int16, v)
	case []uint32:
		return elements(e, Uint32, v)
	case []int32:
		return elements(e, Int32, v)
	case []uint64:
		return elements(e, Uint64, v)
	case []int64:
		return elements(e, Int64, v)
	case []float32:
		return elements(e, Float32, v)
	case []float64:
		return elements(e, Float64, v)
	case [][]string:
		return elements(e, Array, v)
	case [][]uint32:
		return elements(e, Array, v)
	case [][]int32:
		return elements(e, Array, v)
	case [][]float32:
		return elements(e, Array, v)
	default:
		b, err := binary.Append(e.b, binary.LittleEndian, v)
		if err != nil {
			return ErrValue
		}
		e.b = b
	}
	return nil
}

func elements[T any](e *encoder, t ValueType, list []T) error {
	e.u32(uint32(t))
	e.u64(uint64(len(list)))
	for _, v := range list {
		if err := e.plain(v); err != nil {
			return err
		}
	}
	return nil
}

// typeOf is the type of a Go value.
func typeOf(v any) (ValueType, bool) {
	switch v.(type) {
	case uint8:
		return Uint8, true
	case int8:
		return Int8, true
	case uint16:
		return Uint16, true
	case int16:
		return Int16, true
	case uint32:
		return Uint32, true
	case int32:
		return Int32, true
	case uint64:
		return Uint64, true
	case int64:
		return Int64, true
	case float32:
		return Float32, true
	case float64:
		return Float64, true
	case bool:
		return Bool, true
	case string:
		return String, true
	case []string, []bool, []uint8, []int8, []uint16, []int16, []uint32, []int32, []uint64, []int64, []float32, []float64,
		[][]string, [][]uint32, [][]int32, [][]float32:
		return Array, true
	}
	return 0, false
}

// Writer writes a file from its beginning to its end on an io.Writer. It is for one goroutine. After an error every call fails with it, since a
// part of the file may be out already.
type Writer struct {
	w      io.Writer
	layout *Layout
	next   int // the tensor to write now
	err    error
}

// NewWriter writes the header and returns a Writer for the bytes of the tensors, which must come in the same order. See NewLayout for what is
// refused; nothing has been written then.
func NewWriter(w io.Writer, metadata []KeyValue, tensors []Spec, o WriterOptions) (*Writer, error) {
	l, err := NewLayout(metadata, tensors, o)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(l.bytes); err != nil {
		return nil, fmt.Errorf("gguf: write header: %w", err)
	}
	return &Writer{w: w, layout: l}, nil
}

// Layout is where the bytes go.
func (w *Writer) Layout() *Layout { return w.layout }

// WriteTensor writes the next tensor and its padding. name must be the one that was declared next (ErrOrder), and data must be exactly its
// bytes (ErrBufferSize).
func (w *Writer) WriteTensor(name string, data []byte) error {
	if w.err != nil {
		return w.err
	}
	h := w.layout.header
	expected := "the end"
	if w.next < h.Len() {
		expected = quote(h.Name(w.next))
	}
	if w.next == h.Len() || h.Name(w.next) != name {
		return w.stop(&FormatError{Offset: NoOffset, Tensor: name, Err: ErrOrder, Expected: expected, Found: quote(name)})
	}
	begin, end := h.Extent(w.next)
	if int64(len(data)) != end-begin {
		return w.stop(&FormatError{
			Offset: NoOffset, Tensor: name, Err: ErrBufferSize, Expected: fmt.Sprintf("%d bytes", end-begin), Found: decimal(len(data)),
		})
	}
	padding := make([]byte, alignUp(end, h.alignment)-end)
	for _, p := range [][]byte{data, padding} {
		if _, err := w.w.Write(p); err != nil {
			return w.stop(fmt.Errorf("gguf: write tensor %s: %w", quote(name), err))
		}
	}
	w.next++
	return nil
}

// stop keeps err for every later call.
func (w *Writer) stop(err error) error {
	w.err = err
	return err
}

// Close reports ErrIncomplete when tensors are missing, and the first error again if there was one. It does not close the underlying
// io.Writer. A second Close, like any other call after it, fails with ErrClosed.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	w.err = &FormatError{Offset: NoOffset, Err: ErrClosed}
	if h := w.layout.header; w.next < h.Len() {
		return &FormatError{Offset: NoOffset, Tensor: h.Name(w.next), Err: ErrIncomplete}
	}
	return nil
}
