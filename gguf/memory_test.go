package gguf_test

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/coldload/coldload/gguf"
)

// costly are headers that want to make the reader allocate.
func costly() map[string]*raw {
	tensors := start(100_000, 0)
	for i := range 100_000 {
		tensors.tensor(fmt.Sprintf("%d", i), gguf.I8, uint64(32*i), 1)
	}
	long := start(3000, 0)
	for i := range 3000 {
		long.tensor(fmt.Sprintf("%s%d", strings.Repeat("n", 1000), i), gguf.I8, uint64(32*i), 1, 1, 1, 1)
	}
	twice := start(50_001, 0)
	for i := range 50_000 {
		twice.tensor(fmt.Sprintf("%d", i), gguf.I8, uint64(32*i), 1)
	}
	twice.tensor("0", gguf.I8, 32*50_000, 1)
	keys := start(0, 4096)
	for i := range 4096 {
		keys.key(fmt.Sprintf("%d", i), gguf.Bool).u8(0)
	}
	texts := start(0, 100)
	for i := range 100 {
		texts.key(fmt.Sprintf("%d", i), gguf.String).str(strings.Repeat("x", 60_000))
	}
	tokens := start(0, 1).key("tokenizer.ggml.tokens", gguf.Array).u32(uint32(gguf.String)).u64(1_000_000)
	for range 1_000_000 {
		tokens.str("tok")
	}
	nested := start(0, 1).key("k", gguf.Array).u32(uint32(gguf.Array)).u64(500_000)
	for range 500_000 {
		nested.u32(uint32(gguf.Bool)).u64(1).u8(1)
	}
	return map[string]*raw{
		"tensors": tensors, "long names": long, "a tensor twice at the end": twice, "keys": keys, "texts": texts, "tokens": tokens, "nested": nested,
		"one text": start(0, 1).key("k", gguf.String).str(strings.Repeat("x", 10_000_000)),
	}
}

// TestHeaderMemory holds the promise of the package: three times the bytes of the header and 1 MiB. It measures TotalAlloc, which is stricter
// than the peak.
func TestHeaderMemory(t *testing.T) {
	for name, r := range costly() {
		t.Run(name, func(t *testing.T) {
			header := int64(len(r.b))
			file := bytes.NewReader(r.data(32, 0))
			size := int64(file.Len()) + 32*200_000 // whatever the data: only tensors look at it
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := gguf.ReadHeader(file, size)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("the file has bytes without a tensor and is accepted")
			}
			if got, most := int64(after.TotalAlloc-before.TotalAlloc), 3*header+1<<20; got > most {
				t.Errorf("%d bytes were allocated for a header of %d, %.1f times as much", got, header, float64(got)/float64(header))
			}
		})
	}
}

// TestSparseCounts: counts that a large file could hold take nothing when the header does not bear them out.
func TestSparseCounts(t *testing.T) {
	for name, r := range map[string]*raw{"tensors": start(2_000_000, 0), "array": start(0, 1).key("k", gguf.Array).u32(uint32(gguf.String)).u64(1 << 30)} {
		file := sparse{r.data(32, 0)}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := gguf.ReadHeader(file, 1<<40)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; err == nil || got > 1<<20 {
			t.Errorf("%s: %d bytes were allocated (%v)", name, got, err)
		}
	}
}

// sparse has zeros behind its bytes, without end.
type sparse struct{ b []byte }

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(s.b)) {
		copy(p, s.b[off:])
	}
	return len(p), nil
}
