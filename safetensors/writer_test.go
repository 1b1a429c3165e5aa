package safetensors_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/coldload/coldload/safetensors"
)

func spec(name string, d safetensors.DType, shape ...int64) safetensors.Spec {
	return safetensors.Spec{Name: name, DType: d, Shape: shape}
}

// TestWriterBytes pins the bytes of a file: they must be the same in every release.
func TestWriterBytes(t *testing.T) {
	var buf bytes.Buffer
	w, err := safetensors.NewWriter(&buf, []safetensors.Spec{spec(`b"\é`, safetensors.U8, 2), spec("a", safetensors.F32)},
		safetensors.WriterOptions{Metadata: map[string]string{"z": "\x00\n\r\t\u2028", "a": ""}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteTensor(`b"\é`, []byte{1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := w.CopyTensor("a", strings.NewReader("abcd, and more")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	text := `{"__metadata__":{"a":"","z":"\u0000\n\r\t` + "\u2028" + `"},` +
		`"b\"\\é":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"F32","shape":[],"data_offsets":[2,6]}}`
	text += strings.Repeat(" ", (8-len(text)%8)%8)
	if want := string(fileOf(text)) + "\x01\x02abcd"; buf.String() != want {
		t.Errorf("wrote\n%q, want\n%q", buf.String(), want)
	}
	if l := w.Layout(); l.FileSize() != int64(buf.Len()) || l.Offset(1)+l.Size(1) != l.FileSize() || l.Size(0) != 2 {
		t.Errorf("FileSize %d of %d, tensor 1 at %d", l.FileSize(), buf.Len(), l.Offset(1))
	}
}

func TestLayoutRefuses(t *testing.T) {
	for _, tc := range []struct {
		name    string
		tensors []safetensors.Spec
		options safetensors.WriterOptions
		rule    error
	}{
		{"nothing", nil, safetensors.WriterOptions{}, nil},
		{"duplicate", []safetensors.Spec{spec("a", safetensors.U8), spec("b", safetensors.U8), spec("a", safetensors.U8)}, safetensors.WriterOptions{}, safetensors.ErrDuplicateTensor},
		{"__metadata__", []safetensors.Spec{spec("__metadata__", safetensors.U8)}, safetensors.WriterOptions{}, safetensors.ErrName},
		{"empty name", []safetensors.Spec{spec("", safetensors.U8)}, safetensors.WriterOptions{}, safetensors.ErrName},
		{"control", []safetensors.Spec{spec("a\n", safetensors.U8)}, safetensors.WriterOptions{}, safetensors.ErrName},
		{"UTF-8", []safetensors.Spec{spec("a\xff", safetensors.U8)}, safetensors.WriterOptions{}, safetensors.ErrUTF8},
		{"long name", []safetensors.Spec{spec(strings.Repeat("a", 4097), safetensors.U8)}, safetensors.WriterOptions{}, safetensors.ErrNameTooLong},
		{"no dtype", []safetensors.Spec{{Name: "a"}}, safetensors.WriterOptions{}, safetensors.ErrDType},
		{"rank", []safetensors.Spec{spec("a", safetensors.U8, make([]int64, 65)...)}, safetensors.WriterOptions{}, safetensors.ErrRank},
		{"negative dim", []safetensors.Spec{spec("a", safetensors.U8, -1)}, safetensors.WriterOptions{}, safetensors.ErrOverflow},
		{"overflow", []safetensors.Spec{spec("a", safetensors.U8, 0, math.MaxInt64, 2)}, safetensors.WriterOptions{}, safetensors.ErrOverflow},
		{"F4 odd", []safetensors.Spec{spec("a", safetensors.F4, 3)}, safetensors.WriterOptions{}, safetensors.ErrMisaligned},
		{"file overflow", hugeSpecs(), safetensors.WriterOptions{}, safetensors.ErrOverflow},
		{"count", []safetensors.Spec{spec("a", safetensors.U8), spec("b", safetensors.U8)}, safetensors.WriterOptions{Limits: safetensors.Limits{MaxTensors: 1}}, safetensors.ErrTooManyTensors},
		{"header", []safetensors.Spec{spec("a", safetensors.U8)}, safetensors.WriterOptions{Limits: safetensors.Limits{MaxHeaderBytes: 20}}, safetensors.ErrHeaderTooLarge},
		{"metadata UTF-8", nil, safetensors.WriterOptions{Metadata: map[string]string{"a": "\xff"}}, safetensors.ErrUTF8},
		{"align 3", nil, safetensors.WriterOptions{Align: 3}, safetensors.ErrAlign},
		{"align negative", nil, safetensors.WriterOptions{Align: -8}, safetensors.ErrAlign},
		{"align too large", nil, safetensors.WriterOptions{Align: 1 << 17}, safetensors.ErrAlign},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var buf bytes.Buffer
			_, err := safetensors.NewWriter(&buf, tc.tensors, tc.options)
			if !errors.Is(err, tc.rule) || tc.rule != nil && buf.Len() > 0 {
				t.Errorf("got %v with %d bytes written, want %v", err, buf.Len(), tc.rule)
			}
			if _, err := safetensors.NewRandomWriter(&memory{}, tc.tensors, tc.options); !errors.Is(err, tc.rule) {
				t.Errorf("got %v, want %v", err, tc.rule)
			}
		})
	}
}

// hugeSpecs is tensors whose sum does not fit in a file.
func hugeSpecs() []safetensors.Spec {
	var specs []safetensors.Spec
	for i := range 10 {
		specs = append(specs, spec(shortName(i), safetensors.U8, math.MaxInt64/8))
	}
	return specs
}

func TestAlign(t *testing.T) {
	for _, align := range []int{1, 8, 64, 4096, 65536} {
		l, err := safetensors.NewLayout([]safetensors.Spec{spec("a", safetensors.U8, 1)}, safetensors.WriterOptions{Align: align})
		if err != nil {
			t.Fatal(err)
		}
		if l.Offset(0)%int64(align) != 0 || l.Offset(0) != int64(len(l.Header())) {
			t.Errorf("align %d: data at %d", align, l.Offset(0))
		}
		if _, err := safetensors.ParseHeader(l.Header(), l.FileSize()); err != nil {
			t.Error(err)
		}
	}
}

func TestWriterMisuse(t *testing.T) {
	specs := []safetensors.Spec{spec("z", safetensors.U8, 0), spec("a", safetensors.U8, 2), spec("b", safetensors.U8, 2)}
	two := []byte{1, 2}
	for _, tc := range []struct {
		name string
		use  func(w *safetensors.Writer) error
		rule error
	}{
		{"all", func(w *safetensors.Writer) error {
			return errors.Join(w.WriteTensor("z", nil), w.WriteTensor("a", two), w.WriteTensor("b", two), w.Close())
		}, nil},
		{"without the empty one", func(w *safetensors.Writer) error {
			return errors.Join(w.WriteTensor("a", two), w.WriteTensor("b", two), w.Close())
		}, nil},
		{"out of order", func(w *safetensors.Writer) error { return w.WriteTensor("b", two) }, safetensors.ErrOrder},
		{"unknown", func(w *safetensors.Writer) error { return w.WriteTensor("c", two) }, safetensors.ErrOrder},
		{"twice", func(w *safetensors.Writer) error {
			return errors.Join(w.WriteTensor("a", two), w.WriteTensor("a", two))
		}, safetensors.ErrOrder},
		{"beyond the end", func(w *safetensors.Writer) error {
			return errors.Join(w.WriteTensor("a", two), w.WriteTensor("b", two), w.WriteTensor("b", two))
		}, safetensors.ErrOrder},
		{"wrong size", func(w *safetensors.Writer) error { return w.WriteTensor("a", two[:1]) }, safetensors.ErrBufferSize},
		{"short reader", func(w *safetensors.Writer) error { return w.CopyTensor("a", bytes.NewReader(two[:1])) }, io.ErrUnexpectedEOF},
		{"unfinished", func(w *safetensors.Writer) error { return errors.Join(w.WriteTensor("a", two), w.Close()) }, safetensors.ErrIncomplete},
		{"closed twice", func(w *safetensors.Writer) error {
			return errors.Join(w.WriteTensor("a", two), w.WriteTensor("b", two), w.Close(), w.Close())
		}, safetensors.ErrClosed},
		{"written after an error", func(w *safetensors.Writer) error {
			_ = w.WriteTensor("b", two) // refused
			return w.WriteTensor("a", two)
		}, safetensors.ErrOrder},
		{"closed after an error", func(w *safetensors.Writer) error {
			_ = w.WriteTensor("b", two) // refused
			return w.Close()
		}, safetensors.ErrOrder},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := safetensors.NewWriter(io.Discard, specs, safetensors.WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.use(w); !errors.Is(err, tc.rule) {
				t.Errorf("got %v, want %v", err, tc.rule)
			}
		})
	}
}

var errFull = errors.New("full")

// limited fails, or only stops, after left bytes.
type limited struct {
	left  int
	quiet bool
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) <= l.left {
		l.left -= len(p)
		return len(p), nil
	}
	n := l.left
	l.left = 0
	if l.quiet {
		return n, nil
	}
	return n, errFull
}

// atWriter makes any io.Writer an io.WriterAt.
type atWriter struct{ io.Writer }

func (m *atWriter) WriteAt(p []byte, _ int64) (int, error) { return m.Write(p) }

func TestFailingWriter(t *testing.T) {
	specs := []safetensors.Spec{spec("a", safetensors.U8, 4)}
	l, err := safetensors.NewLayout(specs, safetensors.WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for left := range int(l.FileSize()) {
		for _, quiet := range []bool{false, true} {
			want := errFull
			if quiet {
				want = io.ErrShortWrite
			}
			for _, write := range []func(io.Writer) error{writeTensor, copyTensor, writeRandom} {
				if err := write(&limited{left, quiet}); !errors.Is(err, want) {
					t.Fatalf("room for %d bytes, quiet %v: %v", left, quiet, err)
				}
			}
		}
	}
}

func writeTensor(to io.Writer) error {
	w, err := safetensors.NewWriter(to, []safetensors.Spec{spec("a", safetensors.U8, 4)}, safetensors.WriterOptions{})
	if err != nil {
		return err
	}
	_ = w.WriteTensor("a", make([]byte, 4)) // Close says it again
	return w.Close()
}

func copyTensor(to io.Writer) error {
	w, err := safetensors.NewWriter(to, []safetensors.Spec{spec("a", safetensors.U8, 4)}, safetensors.WriterOptions{})
	if err != nil {
		return err
	}
	_ = w.CopyTensor("a", zeroes{}) // Close says it again
	return w.Close()
}

func writeRandom(to io.Writer) error {
	w, err := safetensors.NewRandomWriter(&atWriter{to}, []safetensors.Spec{spec("a", safetensors.U8, 4)}, safetensors.WriterOptions{})
	if err != nil {
		return err
	}
	_ = w.WriteTensorAt("a", make([]byte, 4), 0) // Close says it again
	return w.Close()
}

// memory is an io.WriterAt.
type memory struct {
	mu sync.Mutex
	b  []byte
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if end := int(off) + len(p); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func TestRandomWriterMisuse(t *testing.T) {
	specs := []safetensors.Spec{spec("z", safetensors.U8, 0), spec("a", safetensors.U8, 8)}
	at := func(w *safetensors.RandomWriter, off int64, n int) error {
		return w.WriteTensorAt("a", make([]byte, n), off)
	}
	for _, tc := range []struct {
		name string
		use  func(w *safetensors.RandomWriter) error
		rule error
	}{
		{"pieces", func(w *safetensors.RandomWriter) error {
			return errors.Join(at(w, 6, 2), at(w, 0, 3), at(w, 4, 2), at(w, 3, 1), at(w, 8, 0), w.WriteTensorAt("z", nil, 0), w.Close())
		}, nil},
		{"unknown", func(w *safetensors.RandomWriter) error { return w.WriteTensorAt("c", nil, 0) }, safetensors.ErrNotFound},
		{"before", func(w *safetensors.RandomWriter) error { return at(w, -1, 1) }, safetensors.ErrBufferSize},
		{"behind", func(w *safetensors.RandomWriter) error { return at(w, 8, 1) }, safetensors.ErrBufferSize},
		{"overflow", func(w *safetensors.RandomWriter) error { return at(w, math.MaxInt64, 8) }, safetensors.ErrBufferSize},
		{"twice", func(w *safetensors.RandomWriter) error { return errors.Join(at(w, 0, 8), at(w, 0, 8)) }, safetensors.ErrWrittenTwice},
		{"overlap before", func(w *safetensors.RandomWriter) error { return errors.Join(at(w, 4, 4), at(w, 3, 2)) }, safetensors.ErrWrittenTwice},
		{"overlap behind", func(w *safetensors.RandomWriter) error { return errors.Join(at(w, 0, 4), at(w, 3, 2)) }, safetensors.ErrWrittenTwice},
		{"around", func(w *safetensors.RandomWriter) error { return errors.Join(at(w, 3, 1), at(w, 0, 8)) }, safetensors.ErrWrittenTwice},
		{"hole", func(w *safetensors.RandomWriter) error { return errors.Join(at(w, 0, 4), at(w, 5, 3), w.Close()) }, safetensors.ErrIncomplete},
		{"nothing", func(w *safetensors.RandomWriter) error { return w.Close() }, safetensors.ErrIncomplete},
		{"closed", func(w *safetensors.RandomWriter) error {
			_ = w.Close() // incomplete
			return at(w, 0, 8)
		}, safetensors.ErrClosed},
		{"closed twice", func(w *safetensors.RandomWriter) error { return errors.Join(at(w, 0, 8), w.Close(), w.Close()) }, safetensors.ErrClosed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w, err := safetensors.NewRandomWriter(&memory{}, specs, safetensors.WriterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.use(w); !errors.Is(err, tc.rule) {
				t.Errorf("got %v, want %v", err, tc.rule)
			}
		})
	}
}

// drawSpecs makes any list of tensors that can be written, with some bytes for each.
func drawSpecs(t *rapid.T) (specs []safetensors.Spec, data map[string][]byte) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`[^\pC]{1,20}`), 0, 20, rapid.ID).Draw(t, "names")
	data = map[string][]byte{}
	for _, name := range names {
		d := safetensors.DType(rapid.IntRange(int(safetensors.BOOL), int(safetensors.U64)).Draw(t, "dtype"))
		shape := rapid.SliceOfN(rapid.Int64Range(0, 4), 0, 4).Draw(t, "shape")
		if d.Bits() < 8 {
			shape = append(shape, 4) // a whole number of bytes
		}
		n, err := safetensors.Elements(shape)
		if err != nil {
			t.Fatal(err)
		}
		size, err := d.Size(n)
		if err != nil {
			t.Fatal(err)
		}
		specs = append(specs, safetensors.Spec{Name: name, DType: d, Shape: shape})
		data[name] = rapid.SliceOfN(rapid.Byte(), int(size), int(size)).Draw(t, "data")
	}
	return specs, data
}

// TestRoundTrip writes any tensors, in order and at random, and reads the same back.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		specs, data := drawSpecs(t)
		options := safetensors.WriterOptions{
			Metadata: rapid.MapOfN(rapid.String(), rapid.String(), 0, 5).Draw(t, "metadata"),
			Align:    1 << rapid.IntRange(0, 8).Draw(t, "align"),
		}
		var buf bytes.Buffer
		w, err := safetensors.NewWriter(&buf, specs, options)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range specs {
			if err := w.WriteTensor(s.Name, data[s.Name]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if random := writePieces(t, specs, data, options); !bytes.Equal(random, buf.Bytes()) {
			t.Fatalf("the writers disagree: %q and %q", random, buf.Bytes())
		}
		checkRead(t, buf.Bytes(), specs, data, options)
	})
}

// writePieces writes each tensor in pieces of any size, backwards, from one goroutine a tensor.
func writePieces(t *rapid.T, specs []safetensors.Spec, data map[string][]byte, o safetensors.WriterOptions) []byte {
	var m memory
	w, err := safetensors.NewRandomWriter(&m, specs, o)
	if err != nil {
		t.Fatal(err)
	}
	step := rapid.IntRange(1, 64).Draw(t, "step")
	var wg sync.WaitGroup
	errs := make([]error, len(specs))
	for i, s := range specs {
		wg.Go(func() {
			for end := len(data[s.Name]); end > 0; end -= step {
				begin := max(0, end-step)
				errs[i] = errors.Join(errs[i], w.WriteTensorAt(s.Name, data[s.Name][begin:end], int64(begin)))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errors.Join(errs...), w.Close()); err != nil {
		t.Fatal(err)
	}
	return m.b
}

func checkRead(t *rapid.T, file []byte, specs []safetensors.Spec, data map[string][]byte, o safetensors.WriterOptions) {
	f, err := safetensors.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	if got := maps.Collect(f.Header().Metadata()); !maps.Equal(got, o.Metadata) {
		t.Fatalf("metadata %q, want %q", got, o.Metadata)
	}
	if f.Header().DataOffset()%int64(o.Align) != 0 || f.Header().Len() != len(specs) {
		t.Fatalf("data at %d, %d tensors", f.Header().DataOffset(), f.Header().Len())
	}
	i := 0
	for name, info := range f.All() {
		want := specs[i]
		if i++; name != want.Name || info.DType != want.DType || !slices.Equal(info.Shape, want.Shape) {
			t.Fatalf("read %+v, wrote %+v", info, want)
		}
		got := make([]byte, info.Size())
		if err := f.ReadInto(name, got); err != nil || !bytes.Equal(got, data[name]) {
			t.Fatalf("%q: read %x, wrote %x (%v)", name, got, data[name], err)
		}
	}
}

func TestLayoutIsDeterministic(t *testing.T) {
	metadata := map[string]string{}
	for i := range 50 {
		metadata[strconv.Itoa(i)] = "x"
	}
	var first []byte
	for range 5 {
		l, err := safetensors.NewLayout(hugeSpecs()[:1], safetensors.WriterOptions{Metadata: metadata})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = l.Header()
		}
		if !bytes.Equal(first, l.Header()) {
			t.Fatal("other bytes for the same input")
		}
	}
}
