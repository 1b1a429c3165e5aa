package safetensors

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
)

// Writer writes a file from its beginning to its end on an io.Writer. It is for one goroutine. After an error every call fails with it,
// since a part of the file may be out already.
type Writer struct {
	w      io.Writer
	layout *Layout
	next   int // the tensor to write now
	err    error
}

// NewWriter writes the header for tensors and returns a Writer for their bytes, which must come in the same order. See NewLayout for what
// is refused; nothing has been written then.
func NewWriter(w io.Writer, tensors []Spec, o WriterOptions) (*Writer, error) {
	l, err := NewLayout(tensors, o)
	if err != nil {
		return nil, err
	}
	if err := writeAll(w, l.header); err != nil {
		return nil, fmt.Errorf("safetensors: write header: %w", err)
	}
	return &Writer{w: w, layout: l}, nil
}

// Layout is where the bytes go.
func (w *Writer) Layout() *Layout { return w.layout }

// WriteTensor writes the next tensor. name must be the one that was declared next (ErrOrder; tensors without bytes may be left out), and
// data must be exactly its bytes (ErrBufferSize).
func (w *Writer) WriteTensor(name string, data []byte) error {
	size, err := w.begin(name)
	if err != nil {
		return err
	}
	if int64(len(data)) != size {
		return w.stop(specFault(name, ErrBufferSize, fmt.Sprintf("%d bytes", size), decimal(len(data))))
	}
	if err := writeAll(w.w, data); err != nil {
		return w.stop(fmt.Errorf("safetensors: write tensor %s: %w", quote(name), err))
	}
	w.next++
	return nil
}

// CopyTensor is WriteTensor for bytes that come from r. It reads exactly the tensor's size; when r ends before that the error is
// ErrBufferSize with io.ErrUnexpectedEOF. Whether r has more is not looked at.
func (w *Writer) CopyTensor(name string, r io.Reader) error {
	size, err := w.begin(name)
	if err != nil {
		return err
	}
	n, err := io.CopyN(w.w, r, size)
	switch {
	case errors.Is(err, io.EOF):
		short := wrapCause(ErrBufferSize, io.ErrUnexpectedEOF)
		return w.stop(specFault(name, short, fmt.Sprintf("%d bytes", size), decimal(n)))
	case err != nil:
		return w.stop(fmt.Errorf("safetensors: copy tensor %s: %w", quote(name), err))
	}
	w.next++
	return nil
}

// begin is the size of the tensor called name if it is its turn. Tensors without bytes need no turn.
func (w *Writer) begin(name string) (int64, error) {
	if w.err != nil {
		return 0, w.err
	}
	l := w.layout
	for w.next < l.Len() && l.names[w.next] != name && l.Size(w.next) == 0 {
		w.next++
	}
	if w.next == l.Len() || l.names[w.next] != name {
		expected := "the end"
		if w.next < l.Len() {
			expected = quote(l.names[w.next])
		}
		return 0, w.stop(specFault(name, ErrOrder, expected, quote(name)))
	}
	return l.Size(w.next), nil
}

// stop keeps err for every later call.
func (w *Writer) stop(err error) error {
	w.err = err
	return err
}

// Close reports ErrIncomplete when bytes are missing, and the first error again if there was one. It does not close the underlying
// io.Writer. A second Close, like any other call after it, fails with ErrClosed.
func (w *Writer) Close() error {
	if w.err != nil {
		return w.err
	}
	w.err = specFault("", ErrClosed, "", "")
	l := w.layout
	for ; w.next < l.Len(); w.next++ {
		if size := l.Size(w.next); size != 0 {
			return specFault(l.names[w.next], ErrIncomplete, fmt.Sprintf("%d bytes", size), "none")
		}
	}
	return nil
}

// writeAll does not trust w to report a short write.
func writeAll(w io.Writer, p []byte) error {
	n, err := w.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return err
}

// RandomWriter writes the tensors of a file in any order and in pieces, from several goroutines at once.
type RandomWriter struct {
	w      io.WriterAt
	layout *Layout

	mu     sync.Mutex
	done   [][]piece // for each tensor what has been written, sorted, neighbours merged
	err    error     // the first failed write
	closed bool
}

// piece is a range of bytes of one tensor.
type piece struct{ begin, end int64 }

// NewRandomWriter writes the header for tensors at the start of w and returns a RandomWriter for their bytes. See NewLayout for what is
// refused; nothing has been written then.
func NewRandomWriter(w io.WriterAt, tensors []Spec, o WriterOptions) (*RandomWriter, error) {
	l, err := NewLayout(tensors, o)
	if err != nil {
		return nil, err
	}
	n, err := w.WriteAt(l.header, 0)
	if err == nil && n != len(l.header) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return nil, fmt.Errorf("safetensors: write header: %w", err)
	}
	return &RandomWriter{w: w, layout: l, done: make([][]piece, l.Len())}, nil
}

// Layout is where the bytes go.
func (w *RandomWriter) Layout() *Layout { return w.layout }

// WriteTensorAt writes data at byte off of the tensor called name. The range must lie inside the tensor (ErrBufferSize), and none of it
// may have been written before (ErrWrittenTwice). After a failed write Close fails too.
func (w *RandomWriter) WriteTensorAt(name string, data []byte, off int64) error {
	i, ok := w.layout.Lookup(name)
	if !ok {
		return specFault(name, ErrNotFound, "", "")
	}
	if size := w.layout.Size(i); off < 0 || off > size || int64(len(data)) > size-off {
		return specFault(name, ErrBufferSize, fmt.Sprintf("a part of %d bytes", size), fmt.Sprintf("%d bytes at %d", len(data), off))
	}
	if len(data) == 0 {
		return nil
	}
	if err := w.claim(i, piece{off, off + int64(len(data))}); err != nil {
		return err
	}
	n, err := w.w.WriteAt(data, w.layout.Offset(i)+off)
	if err == nil && n != len(data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return w.stop(fmt.Errorf("safetensors: write tensor %s: %w", quote(name), err))
	}
	return nil
}

// claim marks p of tensor i as written. It is called before the write, so that two writers of the same bytes do not race.
func (w *RandomWriter) claim(i int, p piece) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return specFault(w.layout.names[i], ErrClosed, "", "")
	}
	done, ok := insertPiece(w.done[i], p)
	if !ok {
		return specFault(w.layout.names[i], ErrWrittenTwice, "", fmt.Sprintf("[%d,%d]", p.begin, p.end))
	}
	w.done[i] = done
	return nil
}

// insertPiece adds p to sorted pieces and merges it with its neighbours; false when it overlaps one.
func insertPiece(done []piece, p piece) ([]piece, bool) {
	at, _ := slices.BinarySearchFunc(done, p, func(a, b piece) int {
		if a.begin < b.begin {
			return -1
		}
		return 1
	})
	first, last := at, at // done[first:last] is replaced by p
	if at > 0 {
		switch before := done[at-1]; {
		case before.end > p.begin:
			return done, false
		case before.end == p.begin:
			first, p.begin = at-1, before.begin
		}
	}
	if at < len(done) {
		switch after := done[at]; {
		case after.begin < p.end:
			return done, false
		case after.begin == p.end:
			last, p.end = at+1, after.end
		}
	}
	return slices.Replace(done, first, last, p), true
}

func (w *RandomWriter) stop(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	return err
}

// Close reports the first failed write, or ErrIncomplete with the first tensor that lacks bytes. It must come after the last
// WriteTensorAt has returned, and it does not close the underlying io.WriterAt. A second Close fails with ErrClosed.
func (w *RandomWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return specFault("", ErrClosed, "", "")
	}
	w.closed = true
	if w.err != nil {
		return w.err
	}
	for i, done := range w.done {
		size := w.layout.Size(i)
		if size == 0 || len(done) == 1 && done[0] == (piece{0, size}) {
			continue
		}
		have := int64(0)
		for _, p := range done {
			have += p.end - p.begin
		}
		return specFault(w.layout.names[i], ErrIncomplete, fmt.Sprintf("%d bytes", size), decimal(have))
	}
	return nil
}
