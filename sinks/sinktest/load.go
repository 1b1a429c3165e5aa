package sinktest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"unsafe"

	"github.com/coldload/coldload/stages"
)

// load is one use of one sink.
type load struct {
	*suite
	Instance
	outputs []stages.Output
	slabs   []stages.Slab // all there are, in order
	closed  bool
}

// fresh makes a sink that is closed at the end whatever happens.
func (s *suite) fresh(outputs []stages.Output) *load {
	l := &load{suite: s, Instance: s.New(s), outputs: outputs, slabs: slabsOf(outputs)}
	s.Cleanup(func() {
		if !l.closed {
			_ = l.Sink.Close() // a check has failed already
		}
	})
	return l
}

// begin makes a sink and begins it.
func (s *suite) begin(outputs []stages.Output) *load {
	s.Helper()
	l := s.fresh(outputs)
	if err := l.Sink.Begin(s.Context(), outputs); err != nil {
		s.Fatalf("Begin: %v", err)
	}
	return l
}

// reserve checks what the contract says about one buffer. It is safe for concurrent use.
func (l *load) reserve(ctx context.Context, s stages.Slab) ([]byte, error) {
	b, err := l.Sink.Reserve(ctx, s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("reserve %s: %w", l.title(s), err)
	case int64(len(b)) != s.Len:
		return nil, fmt.Errorf("reserve %s: got %d bytes, want %d", l.title(s), len(b), s.Len)
	case s.Off%64 == 0 && uintptr(unsafe.Pointer(unsafe.SliceData(b)))%64 != 0:
		return nil, fmt.Errorf("reserve %s: address %p is no multiple of 64", l.title(s), b)
	}
	return b, nil
}

// pass reserves, fills and writes one Slab. It is safe for concurrent use.
func (l *load) pass(s stages.Slab) error {
	b, err := l.reserve(l.Context(), s)
	if err != nil {
		return err
	}
	pattern(s, b)
	if d, ok := l.Sink.(stages.Digester); ok && s.Index%2 == 0 { // a Sink must not rely on it
		if err := d.Digest(l.Context(), []stages.Slab{s}, [][]byte{b}); err != nil {
			return fmt.Errorf("digest %s: %w", l.title(s), err)
		}
	}
	return l.write(s, b)
}

func (l *load) write(s stages.Slab, b []byte) error {
	if err := l.Sink.Write(l.Context(), s, b); err != nil {
		return fmt.Errorf("write %s: %w", l.title(s), err)
	}
	return nil
}

// finish commits and closes, and compares the result before and after the Close.
func (l *load) finish() {
	l.Helper()
	if err := l.Sink.Commit(l.Context()); err != nil {
		l.Fatalf("Commit: %v", err)
	}
	l.must(l.compare())
	l.close()
	if err := l.compare(); err != nil {
		l.Fatalf("after Close: %v", err)
	}
	if l.Visible != nil && !l.Visible() {
		l.Fatalf("the result is not visible after Commit and Close")
	}
	l.release()
}

// abort closes without a commit.
func (l *load) abort(when string) {
	l.Helper()
	l.close()
	if l.Visible != nil && l.Visible() {
		l.Fatalf("%s: something that looks finished is left after Close", when)
	}
	if l.Read == nil {
		return
	}
	for i := range l.outputs {
		if _, ok := l.Read(l.outputs[i].Name); ok {
			l.Fatalf("%s: %s can be read after Close", when, l.outputs[i].Name)
		}
	}
}

func (l *load) close() {
	l.Helper()
	l.closed = true
	if err := l.Sink.Close(); err != nil {
		l.Fatalf("Close: %v", err)
	}
}

func (l *load) release() {
	l.Helper()
	if l.Release == nil {
		return
	}
	if err := l.Release(); err != nil {
		l.Fatalf("release: %v", err)
	}
}

// compare reads every Output back. It needs Read.
func (l *load) compare() error {
	if l.Read == nil {
		return nil
	}
	var want []byte
	for i := range l.outputs {
		o := &l.outputs[i]
		got, ok := l.Read(o.Name)
		if !ok {
			return fmt.Errorf("%s cannot be read", o.Name)
		}
		if int64(len(got)) != o.Size {
			return fmt.Errorf("%s has %d bytes, want %d", o.Name, len(got), o.Size)
		}
		for n := range o.Slabs() {
			s := o.Slab(i, n)
			want = append(want[:0], make([]byte, s.Len)...)
			pattern(s, want)
			if !bytes.Equal(got[s.Off:s.Off+s.Len], want) {
				return fmt.Errorf("%s does not hold what was written", l.title(s))
			}
		}
	}
	if _, ok := l.Read("no.such.output"); ok {
		return errors.New("an output that does not exist can be read")
	}
	return nil
}

// must ends the check on an error.
func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (l *load) title(s stages.Slab) string {
	return fmt.Sprintf("slab %d of %s (%d bytes at %d)", s.Index, l.outputs[s.Output].Name, s.Len, s.Off)
}

// pattern fills b with bytes that no other Slab has.
func pattern(s stages.Slab, b []byte) {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], uint64(s.Output))
	binary.LittleEndian.PutUint64(seed[8:], uint64(s.Index))
	_, _ = rand.NewChaCha8(seed).Read(b) // never fails
}
