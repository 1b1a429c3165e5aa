package gguf_test

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/coldload/coldload/gguf"
)

// FuzzHeader compares the reader with the oracle: what is accepted, and what is read.
func FuzzHeader(f *testing.F) {
	for _, e := range evils() {
		if e.size == 0 && len(e.file) < 1000 {
			f.Add(e.file)
		}
	}
	f.Add(start(2, 1).key("general.alignment", gguf.Uint32).u32(64).tensor("a", gguf.Q4_0, 0, 32, 2).tensor("b", gguf.MXFP4, 64, 32).data(64, 81))
	f.Add(start(0, 3).key("split.no", gguf.Uint16).u8(1).u8(0).key("split.count", gguf.Uint16).u8(2).u8(0).key("split.tensors.count", gguf.Int32).u32(7).bytes())
	f.Fuzz(func(t *testing.T, file []byte) {
		if len(file) > 1<<16 {
			return
		}
		h, err := gguf.ReadHeader(bytes.NewReader(file), int64(len(file)))
		slow, slowErr := slowParse(file)
		if (err == nil) != (slowErr == nil) {
			t.Fatalf("error %v, but the oracle says %v", err, slowErr)
		}
		if err != nil {
			if fault, ok := errors.AsType[*gguf.FormatError](err); !ok || fault.Offset > int64(len(file)) && !errors.Is(err, gguf.ErrTruncated) && !errors.Is(err, gguf.ErrHole) || len(err.Error()) > 2000 {
				t.Fatalf("fault %+v in a file of %d bytes", fault, len(file))
			}
			return
		}
		compare(t, h, slow)
	})
}

// compare checks what was read against the oracle.
func compare(t *testing.T, h *gguf.Header, want *slowFile) {
	t.Helper()
	if h.Len() != len(want.tensors) || h.Len() > 0 && h.DataOffset() != want.data {
		t.Fatalf("%d tensors at %d, want %d at %d", h.Len(), h.DataOffset(), len(want.tensors), want.data)
	}
	for i, w := range want.tensors {
		got := h.Info(i)
		n, ok := h.Lookup(w.name)
		if got.Name != w.name || uint32(got.Type) != w.typ || !slices.Equal(got.Shape, w.shape) || got.Begin != w.offset || got.Size() != w.size || n != i || !ok {
			t.Fatalf("tensor %d is %+v (lookup %d), want %+v", i, got, n, w)
		}
		if size, ok := (gguf.Spec{Name: got.Name, Type: got.Type, Shape: got.Shape}).Size(); !ok || size != w.size {
			t.Fatalf("tensor %d: a writer would take %d bytes", i, size)
		}
	}
	keys := maps.Collect(h.Metadata())
	for _, key := range want.keys {
		if _, ok := keys[key]; !ok {
			t.Fatalf("no key %q", key)
		}
	}
	if len(keys) != len(want.keys) {
		t.Fatalf("%d keys, want %d", len(keys), len(want.keys))
	}
}
