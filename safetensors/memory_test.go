package safetensors_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

// allocated is everything that f allocates, garbage included (MemStats.TotalAlloc). No peak of live memory can be higher.
func allocated(f func()) int64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// costlyHeaders calls try with headers that want to make the reader allocate. Some are refused. They are made one after another, since
// together they are large.
func costlyHeaders(scale int, try func(name, text string, data int64)) {
	order := rand.New(rand.NewPCG(1, 2)).Perm(100_000 * scale)
	entries := func(n int, format string) string { // %s in format stands for a short name
		before, after, _ := strings.Cut(format, "%s")
		return manyTensors(n, func(b *strings.Builder, i int) {
			b.WriteString(before)
			b.WriteString(shortName(i))
			b.WriteString(after)
		})
	}
	const zero = `"%s":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`
	text, data := experts(50_000 * scale)
	try("experts", text, data)
	try("shortest entries", entries(100_000*scale, zero), 0)
	try("shortest entries, a hole at the end", strings.TrimSuffix(entries(100_000*scale, zero), "}")+`,`+tensor("hole", "U8", "1", "1,2")+"}", 2)
	try("shortest entries, unclosed", strings.TrimSuffix(entries(100_000*scale, zero), "}"), 0)
	try("shortest entries, then a duplicate", strings.TrimSuffix(entries(100_000*scale, zero), "}")+`,`+one+"}", 4)
	try("shuffled", manyTensors(len(order), func(b *strings.Builder, i int) {
		fmt.Fprintf(b, `"%s":{"dtype":"U8","shape":[1],"data_offsets":[%d,%d]}`, shortName(i), order[i], order[i]+1)
	}), int64(len(order)))
	try("rank bombs", entries(20_000*scale, `"%s":{"dtype":"U8","shape":[`+strings.Repeat("0,", 63)+`0],"data_offsets":[0,0]}`), 0)
	try("large dims", entries(10_000*scale, `"%s":{"dtype":"U8","shape":[`+strings.Repeat("0,", 63)+`1152921504606846975],"data_offsets":[0,0]}`), 0)
	try("a shape of a million dims", `{"a":{"dtype":"U8","shape":[`+strings.Repeat("0,", 1_000_000*scale)+`0],"data_offsets":[0,0]}}`, 0)
	try("long names", entries(1_000*scale, `"`+strings.Repeat("{", 4000)+`%s":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`), 0)
	try("escaped names", entries(10_000*scale, `"`+strings.Repeat(`\u007b`, 100)+`%s":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`), 0)
	try("one endless name", `{"`+strings.Repeat(`\u0061`, 1_000_000*scale)+`":{}}`, 0)
	try("metadata, shortest entries", `{"__metadata__":`+entries(300_000*scale, `"%s":""`)+`}`, 0)
	try("metadata, empty twice at the end", `{"__metadata__":`+strings.TrimSuffix(entries(300_000*scale, `"%s":""`), "}")+`,"a":""}}`, 0)
	try("metadata, one value", `{"__metadata__":{"a":"`+strings.Repeat("x", 5_000_000*scale)+`"}}`, 0)
	try("metadata, one escaped value", `{"__metadata__":{"a":"`+strings.Repeat(`\n`, 2_000_000*scale)+`"}}`, 0)
	try("metadata, not an object of strings", `{"__metadata__":`+strings.TrimSuffix(entries(300_000*scale, `"%s":""`), "}")+`,"z~":1}}`, 0)
	try("unknown fields", entries(50_000*scale, `"%s":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":`+strings.Repeat("[", 60)+strings.Repeat("]", 60)+`}`), 0)
	try("16 unknown fields with escapes", entries(10_000*scale, `"%s":{"dtype":"U8","shape":[0],"data_offsets":[0,0]`+escapedFields()+`}`), 0)
	try("two endless unknown fields", `{"a":{"x`+strings.Repeat(`\u0061`, 500_000*scale)+`":0,"y`+strings.Repeat(`\u0061`, 500_000*scale)+`":0}}`, 0)
	try("open brackets", `{"a":`+strings.Repeat(`{"a":`, 1_000_000*scale), 0)
	try("noise", "{"+strings.Repeat("\"\\\x00\xff{[", 1_000_000*scale), 0)
	try("spaces", "{}"+strings.Repeat(" ", 5_000_000*scale), 0)
	try("tiny", `{}`, 0)
}

func escapedFields() string {
	var b strings.Builder
	for i := range 16 {
		fmt.Fprintf(&b, `,"\u0061%c":0`, 'a'+i)
	}
	return b.String()
}

// TestHeaderMemory holds the promise of the package: three times the bytes of the header and 1 MiB, the bytes themselves included. It
// measures TotalAlloc, which is stricter than the peak.
func TestHeaderMemory(t *testing.T) {
	for _, scale := range scales() {
		costlyHeaders(scale, func(name, text string, data int64) {
			t.Run(fmt.Sprintf("%s/%d", name, scale), func(t *testing.T) {
				prefix, size := headerOf(text, data)
				r := bytes.NewReader(prefix)
				var h *safetensors.Header
				used := allocated(func() { h, _ = safetensors.ReadHeader(r, size) })
				bound := 3*int64(len(prefix)) + 1<<20
				t.Logf("%d bytes cost %.2f times as much", len(prefix), float64(used)/float64(len(prefix)))
				if used > bound {
					t.Errorf("header of %d bytes cost %d, more than %d", len(prefix), used, bound)
				}
				runtime.KeepAlive(h)
			})
		})
	}
}

// scales are the sizes of the hostile headers; the largest is some tens of MB.
func scales() []int {
	if testing.Short() || raceEnabled {
		return []int{1}
	}
	return []int{1, 5}
}

// TestLyingLength has a length that the file does not have: nothing may be allocated for it.
func TestLyingLength(t *testing.T) {
	data := binary.LittleEndian.AppendUint64(nil, 99_999_999)
	used := allocated(func() {
		if _, err := safetensors.ReadHeader(bytes.NewReader(data), 1000); err == nil {
			t.Error("accepted")
		}
	})
	if used > 16<<10 {
		t.Errorf("%d bytes allocated", used)
	}
}

// TestRetainedMemory measures what an ordinary tensor costs as long as its Header lives: HeapAlloc after a collection.
func TestRetainedMemory(t *testing.T) {
	const n = 100_000
	text, data := experts(n)
	prefix, size := headerOf(text, data)
	r := bytes.NewReader(prefix)
	before := heap()
	h, err := safetensors.ReadHeader(r, size)
	if err != nil {
		t.Fatal(err)
	}
	retained := float64(heap()-before) / n
	names := 0
	for name := range h.Names() {
		names += len(name)
	}
	name := float64(names) / n
	t.Logf("%.1f bytes a tensor retained, %.1f of them the name; text %.1f", retained, name, float64(len(text))/n)
	if retained > name+50 {
		t.Errorf("%.1f bytes a tensor retained with a name of %.1f", retained, name)
	}
	runtime.KeepAlive(h)
	runtime.KeepAlive(text)
	runtime.KeepAlive(prefix)
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestIndexMemory holds an index to three times its text and 1 MiB, the text included. It measures TotalAlloc.
func TestIndexMemory(t *testing.T) {
	entries := func(n int, format string) string {
		return `{"weight_map":` + manyTensors(n, func(b *strings.Builder, i int) { fmt.Fprintf(b, format, shortName(i), shortName(i%9_000)) }) + `}`
	}
	for _, c := range []struct{ name, text string }{
		{"ordinary", indexText(200_000)},
		{"shortest entries", entries(500_000, `"%s":"f%.0s"`)},
		{"many shards", entries(9_000, `"%s":"%s_"`)},
		{"many shards many times", entries(500_000, `"%s":"%s_"`)},
		{"too many shards", `{"weight_map":` + manyTensors(500_000, func(b *strings.Builder, i int) { fmt.Fprintf(b, `"%s":"f%d"`, shortName(i), i) }) + `}`},
		{"long names", entries(1_000, `"`+strings.Repeat("n", 4000)+`%s":"f%.0s"`)},
		{"unknown keys", `{"x":` + strings.Repeat("[", 40) + strings.Repeat("0,", 1_000_000)},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := []byte(c.text)
			var ix *safetensors.Index
			used := allocated(func() { ix, _ = safetensors.ParseIndex(data) })
			if bound := 2*int64(len(data)) + 1<<20; used > bound {
				t.Errorf("index of %d bytes cost %d besides, more than %d", len(data), used, bound)
			}
			runtime.KeepAlive(ix)
		})
	}
}
