package coldload_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// stageFunc is a stage of the user's as a function.
type stageFunc func(ctx context.Context, b *stages.Batch) (*stages.Batch, error)

func (stageFunc) Name() string { return "mine" }

func (f stageFunc) Process(ctx context.Context, b *stages.Batch) (*stages.Batch, error) {
	return f(ctx, b)
}

// namelessStage panics when it is asked its name: a nil pointer in an interface.
type namelessStage struct{ stageFunc }

func (*namelessStage) Name() string { panic("no name") }

// badSink fails in one of its calls.
type badSink struct {
	countingSink

	panics  string // the call that panics
	staging int64
}

func newBadSink(panics string) *badSink {
	return &badSink{countingSink: countingSink{Sink: discard.New()}, panics: panics}
}

func (s *badSink) at(call string) {
	if s.panics == call {
		panic("sink " + call)
	}
}

func (s *badSink) Begin(ctx context.Context, o []stages.Output) error {
	s.at("begin")
	return s.Sink.Begin(ctx, o)
}

func (s *badSink) StagingBytes(stages.Slab) int64 {
	s.at("staging")
	return s.staging
}

func (s *badSink) Done(stages.Output) bool {
	s.at("done")
	return false
}

func (s *badSink) Close() error {
	err := s.countingSink.Close()
	s.at("close")
	return err
}

// badSource gives what a Source must not.
type badSource struct {
	stages.Source

	mode   string
	closes *atomic.Int32
}

type ownViews [][]byte

func (v ownViews) Bytes(i int) []byte { return v[i] }
func (ownViews) Method() string       { return "own" }
func (ownViews) Release()             {}

func (s *badSource) Close() error {
	s.closes.Add(1)
	return s.Source.Close()
}

func (s *badSource) Fetch(ctx context.Context, ranges []stages.Extent) (stages.Views, error) {
	switch s.mode {
	case "no views":
		return nil, nil
	case "few views":
		return ownViews{}, nil
	case "short views", "long views":
		by := map[string]int64{"short views": -1, "long views": 1}[s.mode]
		var v ownViews
		for _, r := range ranges {
			v = append(v, make([]byte, r.Len+by))
		}
		return v, nil
	case "panic":
		panic("source fetch")
	}
	return s.Source.Fetch(ctx, ranges)
}

// around makes Options whose source is a badSource.
func around(mode string, closes *atomic.Int32) coldload.Options {
	return coldload.Options{Source: func(shards []file.Shard) (stages.Source, error) {
		src, err := file.New(shards, file.Options{})
		return &badSource{Source: src, mode: mode, closes: closes}, err
	}}
}

// says checks an error; panicked tells whether it must be a panic that was recovered.
func says(t *testing.T, what string, err error, panicked bool, parts ...string) {
	t.Helper()
	if err == nil || !containsAll(err.Error(), parts) {
		t.Errorf("%s: error %v, want one with %q", what, err, parts)
	}
	if _, ok := errors.AsType[*pipeline.PanicError](err); ok != panicked {
		t.Errorf("%s: %v is a PanicError: %v, want %v", what, err, ok, panicked)
	}
}

// openFiles is how many descriptors the process has open; -1 where the system does not tell.
func openFiles() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return -1
	}
	return len(list)
}

// TestStagesOfOnesOwnMisbehave: whatever a stage does with its Batch, the load ends with one error, and nothing of the source stays in use.
func TestStagesOfOnesOwnMisbehave(t *testing.T) {
	own := errors.New("my own")
	for name, x := range map[string]struct {
		do       stageFunc
		panicked bool
		says     string
	}{
		"nothing":           {func(context.Context, *stages.Batch) (*stages.Batch, error) { return nil, nil }, false, "stage mine returned no batch"},
		"another":           {func(context.Context, *stages.Batch) (*stages.Batch, error) { return &stages.Batch{}, nil }, false, "stage mine returned another batch"},
		"fewer parts":       {func(_ context.Context, b *stages.Batch) (*stages.Batch, error) { b.Parts = nil; return b, nil }, false, "stage mine changed what the batch is made of"},
		"error":             {func(context.Context, *stages.Batch) (*stages.Batch, error) { return nil, own }, false, "my own"},
		"error and a batch": {func(_ context.Context, b *stages.Batch) (*stages.Batch, error) { return b, own }, false, "my own"},
		"error, released":   {func(_ context.Context, b *stages.Batch) (*stages.Batch, error) { b.Release(); return nil, own }, false, "my own"},
		"panic":             {func(context.Context, *stages.Batch) (*stages.Batch, error) { panic(own) }, true, "my own"},
	} {
		for _, after := range []stages.Phase{stages.PhaseFetch, stages.PhaseDecode, stages.PhaseFuse, stages.PhaseRepack} {
			before := openFiles()
			_, err := coldload.Load(t.Context(), big(t), discard.New(), coldload.Options{Stages: []coldload.Insert{{After: after, Stage: x.do}}})
			says(t, name+" after "+after.String(), err, x.panicked, "mine: batch", x.says)
			if err != nil && strings.Contains(err.Error(), "in use") {
				t.Errorf("%s after %s: %v: the Batch was not released", name, after, err)
			}
			if now := openFiles(); now != before {
				t.Errorf("%s after %s: %d files are open, %d were", name, after, now, before)
			}
		}
	}
	_, err := coldload.Load(t.Context(), big(t), discard.New(), coldload.Options{Stages: []coldload.Insert{{After: stages.PhaseFuse, Stage: &namelessStage{}}}})
	says(t, "a stage without a name", err, true, "no name")
}

// loadingSink loads something else whenever it takes a Slab.
type loadingSink struct {
	stages.Sink

	load func(ctx context.Context) error
}

func (s *loadingSink) Write(ctx context.Context, slab stages.Slab, b []byte) error {
	return errors.Join(s.load(ctx), s.Sink.Write(ctx, slab, b))
}

// TestLoadInsideAStage: a stage and a sink may load from their own Checkpoint, however small the budget is and however the files are read.
func TestLoadInsideAStage(t *testing.T) {
	for _, io := range []file.Mode{file.ModeMmap, file.ModePread} {
		ck := openFixture(t, "gptq_moe_4b_g128_sharded", coldload.Options{Budget: 264 << 10, IO: io})
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the load does not end"))
		defer cancel()
		linear := func(ctx context.Context) error {
			m, err := ck.Linear(ctx, "model.embed_tokens", coldload.Options{}) // as large as the budget, about
			if err != nil {
				return err
			}
			return m.Close()
		}
		for _, after := range []stages.Phase{stages.PhaseFetch, stages.PhaseRepack} {
			sink := host.New(host.Options{})
			_, err := ck.LoadAll(ctx, sink, coldload.Options{Stages: []coldload.Insert{{After: after, Stage: stageFunc(
				func(ctx context.Context, b *stages.Batch) (*stages.Batch, error) { return b, linear(ctx) })}}})
			if err != nil {
				t.Errorf("%v, after %s: %v", io, after, err)
				continue
			}
			_ = memoryOf(t, sink)
		}
		if _, err := ck.LoadAll(ctx, &loadingSink{Sink: discard.New(), load: linear}, coldload.Options{}); err != nil {
			t.Errorf("%v, in a sink: %v", io, err)
		}
		for out, err := range ck.Outputs(ctx, coldload.Options{}) {
			if err := errors.Join(err, linear(ctx)); err != nil {
				t.Fatalf("%v, in a loop: %v", io, err)
			}
			if err := out.Release(); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestSourcesOfOnesOwnMisbehave: what a Source must not give is an error, in a load and on demand: never zeros, never a crash.
func TestSourcesOfOnesOwnMisbehave(t *testing.T) {
	dir := fixturePath("plain_bf16_sharded")
	const norm = "model.norm.weight"
	for mode, x := range map[string]struct {
		panicked bool
		says     string
	}{
		"no views":    {false, "gave no views"},
		"few views":   {true, "out of range"},
		"short views": {false, "the source gave"},
		"long views":  {false, "the source gave"},
		"panic":       {true, "source fetch"},
	} {
		var closes atomic.Int32
		sink := newBadSink("")
		_, err := coldload.Load(t.Context(), dir, sink, around(mode, &closes))
		says(t, mode+": Load", err, x.panicked, x.says)
		if closes.Load() != 1 || sink.closes != 1 {
			t.Errorf("%s: the source was closed %d times, the sink %d times", mode, closes.Load(), sink.closes)
		}
		ck := openPath(t, dir, around(mode, &closes))
		_, err = ck.Float32(norm)
		says(t, mode+": Float32", err, x.panicked, x.says)
		err = ck.ReadInto(t.Context(), norm, make([]byte, 256))
		says(t, mode+": ReadInto", err, x.panicked, x.says)
	}
	before := openFiles()
	_, err := coldload.Open(t.Context(), dir, coldload.Options{Source: func([]file.Shard) (stages.Source, error) { return nil, nil }})
	says(t, "no source", err, false, "Source returned no source")
	_, err = coldload.Open(t.Context(), dir, coldload.Options{Source: func([]file.Shard) (stages.Source, error) { panic("no source") }})
	says(t, "a source that panics", err, true, "no source")
	if now := openFiles(); now != before {
		t.Errorf("%d files are open, %d were", now, before)
	}
}

// panicking is a rule and a format.
type panicking struct{ at string }

func (p panicking) Rewrite(stages.Output) stages.Rewrite { panic("rule") }
func (panicking) Name() string                           { return "gptq" }

func (p panicking) Open(*discover.QuantConfig) (plan.Reader, []stages.Fault) {
	if p.at == "open" {
		panic("format open")
	}
	return p, nil
}

func (panicking) Parts() []string { return []string{"qweight", "scales", "qzeros", "g_idx", "bias"} }

func (p panicking) Module(*plan.Module, *plan.Checks) bool {
	if p.at == "module" {
		panic("format module")
	}
	return true
}

func (p panicking) Compile(*plan.Group, *plan.Builder) string { panic("format compile") }

// TestPanicsBesideThePipeline: a panic of what a load calls before its stages run is an error, the sink is closed once, and no file stays
// open.
func TestPanicsBesideThePipeline(t *testing.T) {
	dir := fixturePath("gptq_moe_4b_g128_sharded")
	const module = "model.layers.0.self_attn.qkv_proj"
	before := openFiles()
	check := func(what string, opt coldload.Options, sink *badSink, text string) {
		t.Helper()
		_, err := coldload.Load(t.Context(), dir, sink, opt)
		says(t, what, err, true, text)
		if sink.closes != 1 {
			t.Errorf("%s: the sink was closed %d times", what, sink.closes)
		}
		if now := openFiles(); now != before {
			t.Errorf("%s: %d files are open, %d were", what, now, before)
		}
	}
	for _, call := range []string{"begin", "staging", "done"} {
		check("sink "+call, coldload.Options{}, newBadSink(call), "sink "+call)
	}
	sink := newBadSink("close")
	_, err := coldload.Load(t.Context(), dir+"/nothing", sink, coldload.Options{})
	if says(t, "sink close", err, true, "sink close"); sink.closes != 1 {
		t.Errorf("the sink was closed %d times", sink.closes)
	}
	rule := coldload.Options{Rules: []stages.Rule{panicking{}}}
	check("rule", rule, newBadSink(""), "rule")
	for _, at := range []string{"open", "module", "compile"} {
		check("format "+at, coldload.Options{Formats: []plan.Format{panicking{at}}}, newBadSink(""), "format "+at)
	}
	ck := openPath(t, dir, coldload.Options{Formats: []plan.Format{panicking{"module"}}})
	_, err = ck.Linear(t.Context(), module, rule)
	says(t, "Linear", err, true, "rule")
	_, err = ck.Linear(t.Context(), module, coldload.Options{Formats: []plan.Format{panicking{"open"}}})
	says(t, "Linear", err, true, "format open")
	_, err = ck.GPTQ("model.layers.0.self_attn.q_proj")
	if err == nil {
		t.Error("GPTQ: no error")
	}
}

// TestNilAndImpossible: what cannot be meant is wrong options, before anything is opened.
func TestNilAndImpossible(t *testing.T) {
	dir := fixturePath("plain_bf16_sharded")
	_, err := coldload.Load(t.Context(), dir, nil, coldload.Options{})
	if says(t, "nil sink", err, false, "sink is nil"); !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("nil sink: %v", err)
	}
	ck := openPath(t, dir, coldload.Options{})
	if _, err := ck.LoadAll(t.Context(), nil, coldload.Options{}); !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("nil sink: %v", err)
	}
	for what, opt := range map[string]coldload.Options{
		"format":         {Formats: []plan.Format{nil}},
		"no budget":      {SharedBudget: pipeline.NewBudget(0)},
		"negative":       {SharedBudget: pipeline.NewBudget(-5)},
		"after no phase": {Stages: []coldload.Insert{{After: 99, Stage: stageFunc(nil)}}},
	} {
		if _, err := coldload.Load(t.Context(), dir, discard.New(), opt); !errors.Is(err, coldload.ErrOptions) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, n := range []int64{-1, -1 << 62, 1 << 62} {
		sink := newBadSink("")
		sink.staging = n
		_, err := coldload.Load(t.Context(), dir, sink, coldload.Options{})
		if refused, ok := errors.AsType[*stages.RefusedError](err); !ok || !hasFault(refused, stages.CodeSink, []string{"StagingBytes"}) || sink.closes != 1 {
			t.Errorf("staging of %d bytes: %v, closed %d times", n, err, sink.closes)
		}
	}
	for _, d := range []stages.DType{safetensors.I32, safetensors.U8, 200} {
		if _, err := ck.Load(t.Context(), "model.norm.weight", d); !errors.Is(err, coldload.ErrOptions) {
			t.Errorf("Load as %s: %v", d, err)
		}
	}
	kept, err := ck.Load(t.Context(), "model.norm.weight", safetensors.Invalid)
	if src, _ := ck.Bytes("model.norm.weight"); err != nil || kept.DType != safetensors.BF16 || !slices.Equal(kept.Bytes, src) {
		t.Errorf("Load as it is: %s, %v", kept.DType, err)
	}
}
