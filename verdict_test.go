package coldload_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// slowSource is a source that is far away: every Fetch takes a while, and, with oneAtATime, only one at a time is served.
type slowSource struct {
	stages.Source

	delay      time.Duration
	oneAtATime *sync.Mutex
}

func (s *slowSource) Fetch(ctx context.Context, ranges []stages.Extent) (stages.Views, error) {
	if s.oneAtATime != nil {
		s.oneAtATime.Lock()
		defer s.oneAtATime.Unlock()
	}
	time.Sleep(s.delay)
	return s.Source.Fetch(ctx, ranges)
}

// slowly makes Options.Source of a slowSource.
func slowly(delay time.Duration, oneAtATime *sync.Mutex) func([]file.Shard) (stages.Source, error) {
	return func(shards []file.Shard) (stages.Source, error) {
		src, err := file.New(shards, file.Options{})
		return &slowSource{Source: src, delay: delay, oneAtATime: oneAtATime}, err
	}
}

// slowSink takes its time over every Slab.
type slowSink struct {
	stages.Sink

	delay time.Duration
}

func (s *slowSink) Write(ctx context.Context, slab stages.Slab, b []byte) error {
	time.Sleep(s.delay)
	return s.Sink.Write(ctx, slab, b)
}

// StagingBytes is that of the Sink within.
func (s *slowSink) StagingBytes(slab stages.Slab) int64 {
	if st, ok := s.Sink.(stages.Stager); ok {
		return st.StagingBytes(slab)
	}
	return 0
}

// burn keeps one processor busy.
func burn(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		burnt.Add(1)
	}
}

// burnt is what burn does.
var burnt atomic.Int64

// slowStage is a stage that does something to every Batch for a while.
func slowStage(do func(time.Duration), d time.Duration) []coldload.Insert {
	return []coldload.Insert{{After: stages.PhaseFetch, Stage: stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
		do(d)
		return b, nil
	})}}
}

// verdictModel is a checkpoint of some dozen Batches with the budget that the tests below give.
func verdictModel(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ck")
	if _, err := synth.Write(t.Context(), dir, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// waiting is how many tasks had or wanted a processor in the last minute, where the system tells.
func waiting() (n float64) {
	text, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(text), &n)
	return n
}

// Loads that are held up on purpose: each names what held it up.
func TestForcedVerdicts(t *testing.T) { // not parallel: processor time is that of all tests
	dir := verdictModel(t)
	const wait = 15 * time.Millisecond
	for _, c := range []struct {
		name    string
		opt     coldload.Options
		sink    stages.Sink
		by      string
		phase   string
		mention string
	}{
		{
			"throttled source",
			coldload.Options{Source: slowly(wait, new(sync.Mutex)), Workers: coldload.Workers{Fetch: 8}},
			discard.New(), coldload.BoundBySource, "fetch", "bound by reading: ",
		},
		{
			"stage that computes",
			coldload.Options{Stages: slowStage(burn, wait)},
			discard.New(), coldload.BoundByCPU, "mine", "mine",
		},
		{
			"stage that waits",
			coldload.Options{Stages: slowStage(time.Sleep, 4*wait)},
			discard.New(), coldload.BoundByStage, "mine", "it waits for something of its own",
		},
		{"slow sink", coldload.Options{}, &slowSink{Sink: discard.New(), delay: time.Millisecond}, coldload.BoundBySink, "upload", "bound by writing: "},
		{
			"starved budget",
			coldload.Options{Source: slowly(wait, nil), Budget: 12 << 20, Workers: coldload.Workers{Fetch: 32}},
			discard.New(), coldload.BoundByBudget, "fetch", "a larger budget helps (--budget 48MiB; now 12MiB)",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, err := coldload.Load(t.Context(), dir, c.sink, c.opt)
			if err != nil {
				t.Fatal(err)
			}
			v := res.Verdict
			t.Logf("%v: %s", res.Duration, v.Sentence)
			if v.BoundBy != c.by || v.Phase != c.phase || !strings.Contains(v.Sentence, c.mention) || !strings.HasSuffix(v.Sentence, "; "+v.Advice) {
				if n := waiting(); n > 2*float64(runtime.NumCPU()) {
					t.Skipf("not to be told on a machine where %g tasks want %d processors: %s", n, runtime.NumCPU(), v.Sentence)
				}
				t.Errorf("%+v, want %s by %s with %q; phases %+v", v, c.by, c.phase, c.mention, res.Phases)
			}
		})
	}
}

// The root span says it too, and a load of one module, which is over at once, is not judged.
func TestVerdictInSpan(t *testing.T) { // not parallel: processor time is that of all tests
	spans := tracetest.NewInMemoryExporter()
	// Long beside what the process waits for processors that other programs have.
	opt := coldload.Options{Source: slowly(500*time.Millisecond, nil), TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))}
	res, err := coldload.Load(t.Context(), fixturePath("gptq_moe_4b_g128_sharded"), discard.New(), opt)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range spans.GetSpans() {
		if s.Name != "coldload.load" {
			continue
		}
		set := attribute.NewSet(s.Attributes...)
		by, _ := set.Value("coldload.bound_by")
		sentence, _ := set.Value("coldload.verdict")
		if by.AsString() != coldload.BoundBySource || res.Verdict.BoundBy != coldload.BoundBySource || sentence.AsString() != res.Verdict.Sentence {
			t.Errorf("bound by %q in the span: %s; %+v in the result", by.AsString(), sentence.AsString(), res.Verdict)
		}
		if !s.EndTime.Equal(res.Ended()) {
			t.Errorf("the span ended at %v, the load at %v", s.EndTime, res.Ended())
		}
		return
	}
	t.Error("no root span")
}

// What a load took of the machine is told, and a copy is measured only when the verdict needs it.
func TestUsage(t *testing.T) { // not parallel, as above
	asked := 0
	opt := coldload.Options{Source: slowly(50*time.Millisecond, nil), CopySpeed: func(context.Context) float64 { asked++; return 1 }}
	res, err := coldload.Load(t.Context(), fixturePath("gptq_moe_4b_g128_sharded"), discard.New(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if u := res.Usage; u.CPU <= 0 || u.System > u.CPU || u.CPUs <= 0 || u.CopySpeed != 0 || asked != 0 {
		t.Errorf("%+v, a copy measured %d times", u, asked)
	}
}
