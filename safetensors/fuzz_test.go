package safetensors_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

// FuzzHeader compares the reader with the oracle: what is accepted, and what is read.
func FuzzHeader(f *testing.F) {
	for _, v := range slices.Concat(textVerdicts, fieldVerdicts, metadataVerdicts, nameVerdicts, numberVerdicts, sizeVerdicts, coverVerdicts) {
		if len(v.text) < 2000 && v.data < 1<<16 {
			f.Add([]byte(v.text), uint16(v.data))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, data uint16) {
		if len(text) == 0 {
			return
		}
		prefix, size := headerOf(string(text), int64(data))
		h, err := safetensors.ParseHeader(prefix, size)
		tensors, metadata, ok := slowHeader(string(text), int(data))
		if (err == nil) != ok {
			t.Fatalf("error %v, but the oracle says %v", err, ok)
		}
		if err != nil {
			checkFault(t, err, size)
			return
		}
		compareTensors(t, h, tensors)
		if got := maps.Collect(h.Metadata()); len(got) != len(metadata.keys) {
			t.Fatalf("metadata %q, want %q", got, metadata.keys)
		}
		for i, key := range metadata.keys {
			if v, ok := h.MetadataValue(key); !ok || v != metadata.values[i].text {
				t.Fatalf("metadata %q is %q, want %q", key, v, metadata.values[i].text)
			}
		}
		rewrite(t, h)
	})
}

// checkFault wants a FormatError whose offset lies in the file.
func checkFault(t *testing.T, err error, size int64) {
	t.Helper()
	fault, ok := errors.AsType[*safetensors.FormatError](err)
	if !ok || fault.Offset < 0 || fault.Offset > size || len(err.Error()) > 2000 {
		t.Fatalf("fault %+v in a file of %d bytes", fault, size)
	}
}

func compareTensors(t *testing.T, h *safetensors.Header, want []slowTensor) {
	t.Helper()
	if h.Len() != len(want) {
		t.Fatalf("%d tensors, want %d", h.Len(), len(want))
	}
	for i, w := range want {
		got := h.Info(i)
		same := got.Name == w.name && got.DType.String() == w.dtype && got.Begin == w.begin && got.End == w.end && slices.Equal(got.Shape, w.shape)
		if n, ok := h.Lookup(w.name); !same || !ok || n != i {
			t.Fatalf("tensor %d is %+v (Lookup %d %v), want %+v", i, got, n, ok, w)
		}
	}
}

// rewrite writes the header's tensors with Writer and reads them again.
func rewrite(t *testing.T, h *safetensors.Header) {
	t.Helper()
	order := make([]safetensors.Info, 0, h.Len())
	for _, info := range h.All() {
		order = append(order, info)
	}
	slices.SortStableFunc(order, func(a, b safetensors.Info) int { return int(a.Begin+a.End) - int(b.Begin+b.End) })
	specs := make([]safetensors.Spec, len(order))
	for i, info := range order {
		specs[i] = safetensors.Spec{Name: info.Name, DType: info.DType, Shape: info.Shape}
	}
	var buf bytes.Buffer
	w, err := safetensors.NewWriter(&buf, specs, safetensors.WriterOptions{Metadata: maps.Collect(h.Metadata())})
	if err != nil {
		t.Fatalf("the writer refuses what was read: %v", err)
	}
	for _, info := range order {
		if err := w.CopyTensor(info.Name, io.LimitReader(zeroes{}, info.Size())); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	back, err := safetensors.ReadHeader(bytes.NewReader(buf.Bytes()), int64(buf.Len()))
	if err != nil {
		t.Fatalf("what was written is refused: %v", err)
	}
	for i, info := range order {
		got := back.Info(i)
		if got.Name != info.Name || got.DType != info.DType || got.Begin != info.Begin || !slices.Equal(got.Shape, info.Shape) {
			t.Fatalf("wrote %+v, read %+v", info, got)
		}
	}
	if !maps.Equal(maps.Collect(back.Metadata()), maps.Collect(h.Metadata())) {
		t.Fatal("metadata changed")
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// FuzzIndex compares the reader of an index with the oracle.
func FuzzIndex(f *testing.F) {
	for _, v := range indexVerdicts {
		if len(v.text) < 2000 {
			f.Add([]byte(v.text))
		}
	}
	f.Add([]byte(indexText(3)))
	f.Fuzz(func(t *testing.T, text []byte) {
		ix, err := safetensors.ParseIndex(text)
		weightMap, ok := slowIndex(string(text))
		if (err == nil) != ok {
			t.Fatalf("error %v, but the oracle says %v", err, ok)
		}
		if err != nil {
			checkFault(t, err, int64(len(text)))
			return
		}
		if ix.Len() != len(weightMap.keys) {
			t.Fatalf("%d entries, want %d", ix.Len(), len(weightMap.keys))
		}
		var files []string
		for i, name := range weightMap.keys {
			want := weightMap.values[i].text
			if file, ok := ix.Lookup(name); !ok || file != want || ix.Name(i) != name || ix.File(i) != want {
				t.Fatalf("entry %d: %q in %q, want %q in %q", i, ix.Name(i), file, name, want)
			}
			files = append(files, want)
		}
		slices.Sort(files)
		if got := ix.Files(); !slices.Equal(got, slices.Compact(files)) {
			t.Fatalf("files %q, want %q", got, files)
		}
	})
}
