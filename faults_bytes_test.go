package coldload_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// TestOrderOfMembers: members that become one module have one g_idx. By themselves, or as plain weights, they may differ.
func TestOrderOfMembers(t *testing.T) {
	q, k, v := qkv(ckpt.GPTQOptions{DescAct: true})
	k.GIdx[0], k.GIdx[1] = k.GIdx[1], k.GIdx[0]
	for i := 2; k.GIdx[0] == q.GIdx[0]; i++ { // until they differ
		k.GIdx[0], k.GIdx[i] = k.GIdx[i], k.GIdx[0]
	}
	build := gptqWith("llama", map[string]any{"desc_act": true}, q, k, v)
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutRaw} {
		breaks(t, []row{{
			name: string(layout), opt: coldload.Options{Layout: layout}, build: build,
			says: []string{single, attn + "k_proj.g_idx", "act-order differs", attn + "q_proj.g_idx", "--no-fuse"},
		}})
		loads(t, []row{{name: string(layout) + ", not fused", opt: coldload.Options{Layout: layout, NoFuse: true}, build: build}})
	}
	loads(t, []row{{name: "dequantised", opt: coldload.Options{Layout: stages.LayoutDequant}, build: build}})
}

// TestMemberWithoutTrivialOrder: without act-order a g_idx that is absent says what a trivial one says, for fusing too. One that is not trivial is
// found all the same.
func TestMemberWithoutTrivialOrder(t *testing.T) {
	q, k, v := qkv(ckpt.GPTQOptions{})
	bare := ckpt.Without(k, "g_idx")
	all := loadPath(t, gptq(q, k, v), coldload.Options{Layout: stages.LayoutRaw})
	odd, _, _ := qkv(ckpt.GPTQOptions{})
	odd.GIdx[3] = 1
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
		opt := coldload.Options{Layout: layout}
		want := loadPath(t, gptq(q, k, v), opt)
		for what, build := range map[string]func(*ckpt.Builder) string{"k": gptq(q, bare, v), "q": gptq(ckpt.Without(q, "g_idx"), k, v)} {
			got := loadPath(t, build, opt)
			for name, x := range got.All() {
				if w, ok := want.Lookup(name); !ok || !bytes.Equal(x.Bytes, w.Bytes) {
					t.Errorf("%s without g_idx, %s: %s is not what it is with one", what, layout, name)
				}
			}
			if _, ok := got.Lookup(attn + "qkv_proj.g_idx"); ok {
				t.Errorf("%s without g_idx, %s: there is a g_idx", what, layout)
			}
		}
		breaks(t, []row{{name: string(layout), opt: opt, build: gptq(odd, bare, v), says: []string{attn + "q_proj.g_idx", "g_idx[3]", "--act-order"}}})
	}
	if _, ok := all.Lookup(attn + "qkv_proj.g_idx"); !ok {
		t.Error("no g_idx where every member has one")
	}
}

// loadPath loads what a row's build makes.
func loadPath(t *testing.T, build func(*ckpt.Builder) string, opt coldload.Options) *host.Memory {
	t.Helper()
	sink, _, err := tryLoad(t, row{build: build, opt: opt})
	if err != nil {
		t.Fatal(err)
	}
	return memoryOf(t, sink)
}

// TestChecksOfWhatIsLeft: a raw g_idx that is copied is checked without its qweight too, and the plan says what is not.
func TestChecksOfWhatIsLeft(t *testing.T) {
	m := o(ckpt.GPTQOptions{})
	m.GIdx[5] = 99
	drop := coldload.Options{Layout: stages.LayoutRaw, Rules: []stages.Rule{ruleFunc(func(o stages.Output) stages.Rewrite {
		return stages.Rewrite{Drop: strings.HasSuffix(o.Name, ".qweight")}
	})}}
	exclude := coldload.Options{Layout: stages.LayoutRaw, Exclude: []string{"*.qweight"}}
	for name, opt := range map[string]coldload.Options{"all": {Layout: stages.LayoutRaw}, "excluded": exclude, "dropped": drop} {
		breaks(t, []row{{name: name, opt: opt, build: gptq(m), says: []string{oProj + ".g_idx", "g_idx[5]", "found 99"}}})
	}
	for name, opt := range map[string]coldload.Options{"excluded": exclude, "dropped": drop} {
		loads(t, []row{{name: name, opt: opt, build: gptq(o(ckpt.GPTQOptions{})), check: func(got loaded) {
			notes(t, got.res.Notes, "1 outputs that are left out", "value checks", "qzeros")
		}}})
	}
}

// TestBadValuesOfEveryLayout: the checks of values do not depend on what is made of them.
func TestBadValuesOfEveryLayout(t *testing.T) {
	m := o(ckpt.GPTQOptions{Bias: true})
	nan := gptq(ckpt.Replace(m, f16Scales(m, 200, 0x7E00)))
	badBias := ckpt.T{Name: oProj + ".bias", DType: safetensors.F16, Shape: []int64{128}, Data: append(make([]byte, 254), 0, 0x7C)}
	order := o(ckpt.GPTQOptions{DescAct: true})
	outside := o(ckpt.GPTQOptions{DescAct: true})
	outside.GIdx[5] = -7
	large := o(ckpt.GPTQOptions{})
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
		opt := coldload.Options{Layout: layout}
		breaks(t, []row{
			{name: string(layout) + ": NaN scale", opt: opt, build: nan, says: []string{single, oProj + ".scales", "element 200", "not finite"}},
			{name: string(layout) + ": infinite bias", opt: opt, build: gptq(ckpt.Replace(m, badBias)), says: []string{single, oProj + ".bias", "element 127", "not finite"}},
			{name: string(layout) + ": act-order that the config denies", opt: opt, build: gptq(order), says: []string{single, oProj + ".g_idx", "desc_act is false", "--act-order"}},
			{
				name: string(layout) + ": g_idx out of range", opt: coldload.Options{Layout: layout, ActOrder: true}, build: gptq(outside),
				says: []string{single, oProj + ".g_idx", "g_idx[5]", "0 to 3", "found -7"},
			},
		})
		loads(t, []row{{name: string(layout) + ": act-order asked for", opt: coldload.Options{Layout: layout, ActOrder: true}, build: gptq(order)}})
	}
	breaks(t, []row{{
		name: "a weight beyond F16", opt: coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F16},
		build: gptq(ckpt.Replace(large, f16Scales(large, 77, 0x7BFF))), // 65504: finite, and no weight but -1, 0 and 1 times it is
		says:  []string{single, oProj + ".scales", "does not fit in F16", "--dtype bf16"},
	}})
	loads(t, []row{{
		name: "the same weight as BF16", opt: coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.BF16},
		build: gptq(ckpt.Replace(large, f16Scales(large, 77, 0x7BFF))),
	}})
}

// TestZerosOfExllama: an output says whether its zero points are one less than they are, and a warning says who computes with odd ones.
func TestZerosOfExllama(t *testing.T) {
	opt := coldload.Options{Layout: stages.LayoutExllama}
	for name, x := range map[string]struct {
		v2     bool // in the bytes
		format string
		want   stages.Layout
		warns  bool
	}{
		"v1": {false, "gptq", stages.LayoutExllama, false}, "v2": {true, "gptq_v2", stages.LayoutExllamaV2, false},
		"v2 bytes in a v1 checkpoint": {true, "gptq", stages.LayoutExllama, true}, "v1 bytes in a v2 checkpoint": {false, "gptq_v2", stages.LayoutExllamaV2, true},
	} {
		m := o(ckpt.GPTQOptions{V2: x.v2})
		loads(t, []row{{name: name, opt: opt, build: gptqWith("llama", map[string]any{"checkpoint_format": x.format}, m), check: func(got loaded) {
			zeros, _ := got.mem.Lookup(oProj + ".qzeros")
			codes, _ := got.mem.Lookup(oProj + ".qweight")
			if zeros.Layout != x.want || codes.Layout != stages.LayoutExllama {
				got.t.Errorf("layouts %q and %q, want %q for the zero points", zeros.Layout, codes.Layout, x.want)
			}
			got.same(oProj+".qzeros", safetensors.I32, []int64{4, 16}, dataOf(m, oProj+".qzeros"))
			if x.warns {
				notes(got.t, got.res.Warnings, oProj+".qzeros", "the exllama kernels compute with what is stored")
			} else if len(got.res.Warnings) > 0 {
				got.t.Errorf("warnings %q", got.res.Warnings)
			}
		}}})
	}
}

// failingSource is a Source whose Fetch fails at one time.
type failingSource struct {
	stages.Source
	left *atomic.Int32
	err  error
}

func (s failingSource) Fetch(ctx context.Context, ranges []stages.Extent) (stages.Views, error) {
	if s.left.Add(-1) < 0 {
		return nil, s.err
	}
	return s.Source.Fetch(ctx, ranges)
}

// TestReadErrors: an error of the source, at any time, is the error of the load, and nothing is left.
func TestReadErrors(t *testing.T) {
	dir := big(t)
	for at := range 6 {
		var left atomic.Int32
		left.Store(int32(at))
		broken := errors.New("the disk is broken")
		opt := coldload.Options{Budget: 4 << 20, Source: func(shards []file.Shard) (stages.Source, error) {
			s, err := file.New(shards, file.Options{})
			return failingSource{Source: s, left: &left, err: broken}, err
		}}
		sink := host.New(host.Options{})
		_, err := coldload.Load(t.Context(), dir, sink, opt)
		if !errors.Is(err, broken) || sink.Memory() != nil {
			t.Errorf("at read %d: error %v", at, err)
		}
	}
	refused := errors.New("no such disk")
	_, err := coldload.Load(t.Context(), dir, host.New(host.Options{}), coldload.Options{
		Source: func(shards []file.Shard) (stages.Source, error) {
			for _, s := range shards {
				if err := s.File.Close(); err != nil {
					t.Error(err)
				}
			}
			return nil, refused
		},
	})
	if !errors.Is(err, refused) {
		t.Errorf("a source that cannot be made: %v", err)
	}
}

// fullSink is a Sink that has no room from one Slab on.
type fullSink struct {
	hashSink
	left      atomic.Int32
	committed bool
}

func (s *fullSink) Write(ctx context.Context, slab stages.Slab, b []byte) error {
	if s.left.Add(-1) < 0 {
		return syscall.ENOSPC
	}
	return s.hashSink.Write(ctx, slab, b)
}

func (s *fullSink) Commit(context.Context) error {
	s.committed = true
	return nil
}

// TestFullSinks: a sink without room ends the load with its error and is not told to commit.
func TestFullSinks(t *testing.T) {
	for at := range 12 {
		sink := &fullSink{}
		sink.left.Store(int32(at))
		_, err := coldload.Load(t.Context(), big(t), sink, coldload.Options{Budget: 8 << 20})
		if !errors.Is(err, syscall.ENOSPC) || sink.committed || !strings.Contains(err.Error(), "upload") {
			t.Errorf("at Slab %d: error %v, committed %v", at, err, sink.committed)
		}
	}
}
