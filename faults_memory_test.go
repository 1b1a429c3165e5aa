package coldload_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/stages"
)

const bombBytes = 20 << 20

// bomb is a header of about bombBytes whose n-th tensor is made by each, and what its data takes.
func bomb(each func(n int, off int64) (text string, bytes int64)) (header string, data int64) {
	var b strings.Builder
	b.WriteByte('{')
	for n := 0; b.Len() < bombBytes; n++ {
		if n > 0 {
			b.WriteByte(',')
		}
		text, bytes := each(n, data)
		b.WriteString(text)
		data += bytes
	}
	b.WriteByte('}')
	return b.String(), data
}

func entry(name, dtype, shape string, off, n int64) string {
	return fmt.Sprintf(`"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}`, name, dtype, shape, off, off+n)
}

// TestHeaderBombs: whatever a header of 20 MB says, opening and planning take little time and a small multiple of its size.
func TestHeaderBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("headers of 20 MB")
	}
	empty := func(name func(n int) string, dtype, shape string) func(int, int64) (string, int64) {
		return func(n int, off int64) (string, int64) { return entry(name(n), dtype, shape, off, 0), 0 }
	}
	for _, b := range []struct {
		name    string
		each    func(n int, off int64) (string, int64)
		end     string // replaces the closing brace
		config  string
		refused bool
	}{
		{name: "tensors of no bytes", each: empty(func(n int) string { return fmt.Sprint("t", n) }, "U8", "0")},
		{name: "bytes", each: func(n int, off int64) (string, int64) { return entry(fmt.Sprint(n), "U8", "1", off, 1), 1 }},
		{name: "the last is wrong", each: empty(func(n int) string { return fmt.Sprint("t", n) }, "U8", "0"), end: `,"t0":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, refused: true},
		{name: "many dims", each: empty(func(n int) string { return fmt.Sprint("t", n) }, "U8", "0"+strings.Repeat(",1", 60))},
		{name: "long names", each: empty(func(n int) string { return strings.Repeat("x.", 2000) + fmt.Sprint(n) }, "U8", "0")},
		{name: "qweights alone", config: `{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":64}}`, refused: true, each: empty(func(n int) string { return fmt.Sprint(n, ".qweight") }, "I32", "0,0")},
		{name: "qweights without a config", refused: true, each: empty(func(n int) string { return fmt.Sprint(n, ".qweight") }, "I32", "0,0")},
		{name: "scales alone", config: `{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":64}}`, refused: true, each: empty(func(n int) string { return fmt.Sprint(n, ".scales") }, "I32", "0,0")},
		{name: "experts of no bytes", each: empty(func(n int) string { return fmt.Sprintf("experts.%d.%s.weight", n/3, proj[n%3]) }, "U8", "0,0")},
		{name: "scopes of one expert", each: empty(func(n int) string { return fmt.Sprintf("l.%d.experts.0.%s.weight", n/3, proj[n%3]) }, "U8", "0,0")},
		{name: "scopes that lack experts", config: `{"model_type":"qwen3_moe","num_experts":1000000}`, refused: true, each: empty(func(n int) string { return fmt.Sprintf("l.%d.experts.0.gate_proj.weight", n) }, "U8", "0,0")},
		{name: "q without k", config: `{"model_type":"llama"}`, refused: true, each: empty(func(n int) string { return fmt.Sprintf("l.%d.self_attn.q_proj.weight", n) }, "U8", "0,0")},
	} {
		t.Run(b.name, func(t *testing.T) {
			header, data := bomb(b.each)
			if b.end != "" {
				header = strings.TrimSuffix(header, "}") + b.end
			}
			dir := t.TempDir()
			writeSparse(t, filepath.Join(dir, single), header, data)
			if b.config != "" {
				if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(b.config), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			size, tensors := int64(len(header)), int64(strings.Count(header, "dtype"))
			start := time.Now()
			err, peak := peakHeap(func() error { return openAndPlan(t, dir) })
			t.Logf("%v, peak %.1f MB for %.1f MB: %.1f x", time.Since(start).Round(time.Millisecond), float64(peak)/1e6, float64(size)/1e6, float64(peak)/float64(size))
			if _, refused := errors.AsType[*stages.RefusedError](err); refused != b.refused || err != nil && !refused {
				t.Errorf("error %.300v, want a refusal: %v", err, b.refused)
			}
			if most := 4*size + 64<<20 + 400*tensors; peak > most {
				t.Errorf("%d bytes of heap for a header of %d bytes, want at most %d", peak, size, most)
			}
		})
	}
}

func openAndPlan(t *testing.T, dir string) error {
	t.Helper()
	ck, err := coldload.Open(t.Context(), dir, coldload.Options{})
	if err != nil {
		return err
	}
	_, err = ck.Plan(coldload.Options{}, nil)
	return errors.Join(err, ck.Close())
}

// writeSparse writes a file of this header whose data is a hole.
func writeSparse(t *testing.T, path, header string, data int64) {
	t.Helper()
	start := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	if err := os.WriteFile(path, append(start, header...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(start)+len(header))+data); err != nil {
		t.Skip(err)
	}
}

// peakHeap is the most that the heap grows by while f runs, in bytes.
func peakHeap(f func() error) (err error, peak int64) { //nolint:revive,staticcheck // the error is what f returned
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() int64 {
		metrics.Read(sample)
		return int64(sample[0].Value.Uint64())
	}
	runtime.GC()
	before := read()
	stop, done := make(chan struct{}), make(chan int64)
	go func() {
		var most int64
		for {
			select {
			case <-stop:
				done <- most
				return
			case <-time.After(time.Millisecond):
				most = max(most, read())
			}
		}
	}()
	err = f()
	close(stop)
	return err, max(<-done, read()) - before
}

// TestHugeSparseFile: a file that says it holds more than there is anywhere.
func TestHugeSparseFile(t *testing.T) {
	for _, size := range []int64{1 << 43, 1 << 50, 1 << 59} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			dir := t.TempDir()
			writeSparse(t, filepath.Join(dir, single), "{"+entry("a", "U8", fmt.Sprint(size), 0, size)+"}", size)
			err, peak := peakHeap(func() error { return openAndPlan(t, dir) })
			if _, refused := errors.AsType[*stages.RefusedError](err); err != nil && !refused {
				t.Errorf("error %v, want a refusal or none", err)
			}
			if peak > 256<<20 {
				t.Errorf("%d bytes of heap", peak)
			}
		})
	}
}
