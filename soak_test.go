package coldload_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/leak"
	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// weight is what a process takes of the system.
type weight struct {
	resident  int64 // anonymous memory, in bytes
	mappings  int   // lines of /proc/self/maps
	routines  int
	heapBytes int64 // of Go, live
}

func weigh(t *testing.T) (w weight) {
	t.Helper()
	runtime.GC() // what a sync.Pool holds survives one collection
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	w.heapBytes, w.routines = int64(m.HeapAlloc), runtime.NumGoroutine()
	text, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return w // another system than Linux
	}
	w.mappings = strings.Count(string(text), "\n")
	if text, err = os.ReadFile("/proc/self/status"); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			if _, err := fmt.Sscan(rest, &w.resident); err != nil {
				t.Fatal(err)
			}
			w.resident <<= 10
		}
	}
	return w
}

// TestSoak does load after load in one process, in all ways of reading and all layouts, into all sinks, also such that fail and that are
// cancelled, packs, verifications, and single modules on demand, of GPTQ, of what padding fills up, of NVFP4 with its scans, and of GGUF: 200 rounds
// with -wide. The process does not grow.
func TestSoak(t *testing.T) {
	rounds := 24
	if *wide {
		rounds = 200
	}
	sources := soakSources(t)
	for i := range 2 * len(soakModes) * len(sources) { // what is made once is made
		sources[i%len(sources)].round(t, i/len(sources))
	}
	before, first := leak.Now(), weigh(t)
	for i := range rounds {
		sources[i%len(sources)].round(t, i/len(sources))
		if t.Failed() {
			t.Fatalf("in round %d", i)
		}
	}
	before.Check(t)
	last := weigh(t)
	t.Logf("%d rounds: at the beginning %+v, at the end %+v", rounds, first, last)
	if last.resident > first.resident+8<<20 || last.mappings > first.mappings+16 || last.heapBytes > first.heapBytes+2<<20 || last.routines > first.routines {
		t.Errorf("the process grew in %d rounds: %+v, was %+v", rounds, last, first)
	}
}

var soakModes = []file.Mode{file.ModeAuto, file.ModeMmap, file.ModePread, file.ModeDirect}

// soakSource is a checkpoint of the soak, and a module that it has.
type soakSource struct{ path, module string }

// soakSources are the formats of the soak: each takes another way through the stages.
func soakSources(t *testing.T) (all []soakSource) {
	t.Helper()
	for format, module := range map[synth.Format]string{synth.FormatGPTQ: "model.layers.0.self_attn.qkv_proj", synth.FormatGGUF: "blk.0.attn_q"} {
		dir := filepath.Join(t.TempDir(), string(format))
		if _, err := synth.Write(t.Context(), dir, synth.Options{Model: "micro", Format: format, ShardSize: 200 << 10}); err != nil {
			t.Fatal(err)
		}
		all = append(all, soakSource{dir, module})
	}
	r := rand.New(rand.NewPCG(9, 9))
	all = append(all, soakSource{written(t, nvDraw(r, nvKinds[0], 1, 3).build(r, 2)), "model.layers.0.self_attn.qkv_proj"},
		soakSource{written(t, nvOdd(r, nvKinds[1], 1, 3).build(r, 2)), "model.layers.0.self_attn.qkv_proj"})
	return all
}

// round is one of every kind.
func (s soakSource) round(t *testing.T, i int) {
	t.Helper()
	src := s.path
	layouts := []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw}
	opt := coldload.Options{IO: soakModes[i%len(soakModes)], Layout: layouts[i/len(soakModes)%len(layouts)], Budget: 1 << 20 << (i % 5)}
	sink := host.New(host.Options{})
	if _, err := coldload.Load(t.Context(), src, sink, opt); err != nil {
		t.Fatal(err)
	}
	if err := sink.Memory().Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := coldload.Load(t.Context(), src, discard.New(), opt); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	failing := opt
	failing.Stages = []coldload.Insert{{After: stages.PhaseFetch, Stage: &spoiler{do: func() error { cancel(errWalk); return nil }}}}
	if _, err := coldload.Load(ctx, src, host.New(host.Options{}), failing); !errors.Is(err, errWalk) {
		t.Fatalf("a load that was cancelled: %v", err)
	}
	failing.Stages[0].Stage = &spoiler{do: func() error { return errWalk }}
	if _, err := coldload.Load(t.Context(), src, discard.New(), failing); !errors.Is(err, errWalk) {
		t.Fatalf("a load that fails: %v", err)
	}
	soakFolder(t, src, opt)
	ck, err := coldload.Open(t.Context(), src, opt)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ck.Linear(t.Context(), s.module, opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Close(), ck.Close()); err != nil {
		t.Fatal(err)
	}
}

// soakFolder packs, verifies and removes.
func soakFolder(t *testing.T, src string, opt coldload.Options) {
	t.Helper()
	dir := filepath.Join(filepath.Dir(src), "packed")
	if _, err := coldload.Pack(t.Context(), src, dir, opt, coldload.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	res, err := coldload.Verify(t.Context(), dir, coldload.VerifyOptions{Against: src})
	if err != nil || len(res.Differences) > 0 {
		t.Fatal(err, res.Differences)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// TestLoadsShareABudget: loads of several checkpoints at once keep to one budget together, with all memory of their sources, and give the bytes
// that they give alone.
func TestLoadsShareABudget(t *testing.T) {
	const size, loads = 24 << 20, 4
	dirs := make([]string, loads)
	for i := range dirs {
		dirs[i] = big(t)
	}
	budget := pipeline.NewBudget(size)
	begin := offheap.InUse()
	var most atomic.Int64
	look := stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
		now := offheap.InUse() - begin
		for {
			was := most.Load()
			if now <= was || most.CompareAndSwap(was, now) {
				return b, nil
			}
		}
	})
	sinks := make([]*heapSink, loads)
	var all sync.WaitGroup
	for i, dir := range dirs {
		sinks[i] = &heapSink{}
		all.Go(func() {
			_, err := coldload.Load(t.Context(), dir, sinks[i], coldload.Options{
				SharedBudget: budget, IO: []file.Mode{file.ModePread, file.ModeDirect}[i%2],
				Stages: []coldload.Insert{{After: stages.PhaseFetch, Stage: look, Workers: 2}},
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if budget.InUse() != 0 || budget.Peak() > size || budget.Peak() < size/2 {
		t.Errorf("%d bytes are charged at the end, at most %d were, of %d", budget.InUse(), budget.Peak(), size)
	}
	if most.Load() > size {
		t.Errorf("the sources had %d bytes, of %d", most.Load(), size)
	}
	t.Logf("charged at most %.1f MiB, buffers at most %.1f MiB, of %d MiB", float64(budget.Peak())/(1<<20), float64(most.Load())/(1<<20), size>>20)
	for _, s := range sinks {
		for _, name := range []string{"a", "f"} {
			if !slices.Equal(s.bytes[name], dataOf(ckpt.Dense(name, safetensors.BF16, 7, 1024, 2048), name)) {
				t.Errorf("%s: other bytes than the file's", name)
			}
		}
	}
}

// heapSink keeps Outputs in Go's own memory.
type heapSink struct {
	mu      sync.Mutex
	outputs []stages.Output
	bytes   map[string][]byte
}

func (s *heapSink) Begin(_ context.Context, outputs []stages.Output) error {
	s.outputs, s.bytes = outputs, map[string][]byte{}
	for _, o := range outputs {
		s.bytes[o.Name] = make([]byte, o.Size)
	}
	return nil
}

func (s *heapSink) Reserve(_ context.Context, slab stages.Slab) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes[s.outputs[slab.Output].Name][slab.Off:][:slab.Len], nil
}

func (*heapSink) Write(context.Context, stages.Slab, []byte) error { return nil }
func (*heapSink) Commit(context.Context) error                     { return nil }
func (*heapSink) Close() error                                     { return nil }
