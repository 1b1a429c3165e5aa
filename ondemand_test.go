package coldload_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/stages"
)

func openFixture(t *testing.T, name string, opt coldload.Options) *coldload.Checkpoint {
	t.Helper()
	return openPath(t, fixturePath(name), opt)
}

// TestOnDemandEqualsLoad: every module loaded by itself has the bytes that a whole load gives it, from many goroutines at once.
func TestOnDemandEqualsLoad(t *testing.T) {
	for name := range gptqFixtures {
		for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
			t.Run(fmt.Sprintf("%s/%s", name, layout), func(t *testing.T) {
				opt := coldload.Options{Layout: layout}
				whole, _ := loadHost(t, fixturePath(name), opt)
				ck := openFixture(t, name, coldload.Options{Budget: 4 << 20})
				var wg sync.WaitGroup
				for module := range modulesOf(whole.Outputs()) {
					wg.Go(func() {
						m, err := loadModule(t.Context(), ck, module, opt)
						if err != nil {
							t.Errorf("%s: %v", module, err)
							return
						}
						defer m.Close()
						for out, tensor := range m.All() {
							want, ok := whole.Lookup(out)
							if !ok || !bytes.Equal(want.Bytes, tensor.Bytes) || want.DType != tensor.DType || fmt.Sprint(want.Shape) != fmt.Sprint(tensor.Shape) {
								t.Errorf("%s: not what a whole load makes of it", out)
							}
						}
					})
				}
				wg.Wait()
			})
		}
	}
}

// modulesOf are the names of the linear layers among the outputs.
func modulesOf(outputs []stages.Output) map[string]bool {
	set := map[string]bool{}
	for _, o := range outputs {
		if base, ok := strings.CutSuffix(o.Name, "_proj.weight"); ok {
			set[base+"_proj"] = true
		}
		if base, ok := strings.CutSuffix(o.Name, ".qweight"); ok {
			set[base] = true
		}
	}
	return set
}

func loadModule(ctx context.Context, ck *coldload.Checkpoint, module string, opt coldload.Options) (*coldload.Module, error) {
	scope, member, ok := strings.Cut(module, ".experts.")
	members := map[string][]string{"gate_up_proj": {"gate_proj", "up_proj"}, "down_proj": {"down_proj"}}[member]
	if !ok || members == nil {
		return ck.Linear(ctx, module, opt)
	}
	return ck.Experts(ctx, scope+".experts.{e}", members, 4, opt)
}

func TestLinearFindsTheFirstThatExists(t *testing.T) {
	ck := openFixture(t, "plain_bf16_sharded", coldload.Options{})
	m, err := ck.Linear(t.Context(), "model.layers.0.self_attn.q_proj", coldload.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	w, ok := m.Part("weight")
	src, err := ck.Bytes("model.layers.0.self_attn.q_proj.weight")
	if err != nil || !ok || !bytes.Equal(w.Bytes, src) {
		t.Errorf("the dense module itself: %v %v", ok, err)
	}
	if _, err := ck.Linear(t.Context(), "model.layers.9.self_attn.q_proj", coldload.Options{}); err == nil || !strings.Contains(err.Error(), "no such module") {
		t.Errorf("a module that is not there: %v", err)
	}
	if _, err := ck.Experts(t.Context(), "model.layers.0.mlp.experts", []string{"down_proj"}, 4, coldload.Options{}); !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("a pattern without {e}: %v", err)
	}
	if _, err := ck.Experts(t.Context(), "model.layers.0.mlp.experts.{e}", []string{"down_proj"}, 5, coldload.Options{}); err == nil {
		t.Error("an expert that is not there was made")
	}
}

func TestTensorsOneByOne(t *testing.T) {
	ck := openFixture(t, "gptq_moe_4b_g128_sharded", coldload.Options{})
	const qweight, scales, norm = "model.layers.0.self_attn.q_proj.qweight", "model.layers.0.self_attn.q_proj.scales", "model.norm.weight"
	if !ck.Has(qweight) || ck.Has("nothing") || ck.QuantConfig() == nil {
		t.Error("Has or QuantConfig is wrong")
	}
	info, ok := ck.Tensor(qweight)
	if !ok || info.DType != safetensors.I32 || fmt.Sprint(info.Shape) != "[32 256]" {
		t.Fatalf("tensor %+v", info)
	}
	view, err := ck.Bytes(qweight)
	if err != nil {
		t.Fatal(err)
	}
	into := make([]byte, len(view))
	if err := ck.ReadInto(t.Context(), qweight, into); err != nil || !bytes.Equal(view, into) {
		t.Errorf("ReadInto: %v", err)
	}
	if err := ck.ReadInto(t.Context(), qweight, into[1:]); err == nil {
		t.Error("a short buffer was accepted")
	}
	codes, err := ck.Int32(qweight)
	if err != nil || len(codes) != 32*256 || uint32(codes[1]) != uint32(view[4])|uint32(view[5])<<8|uint32(view[6])<<16|uint32(view[7])<<24 {
		t.Errorf("Int32: %d values, %v", len(codes), err)
	}
	if _, err := ck.Int32(scales); !errors.Is(err, coldload.ErrDType) {
		t.Errorf("F16 as I32: %v", err)
	}
	values, err := ck.Float32(scales)
	if err != nil || len(values) != 2*256 || values[0] <= 0 {
		t.Errorf("Float32: %v", err)
	}
	if _, err := ck.Float32(qweight); !errors.Is(err, coldload.ErrDType) {
		t.Errorf("I32 as F32: %v", err)
	}
	if _, err := ck.Float32("nothing"); !errors.Is(err, coldload.ErrNotFound) {
		t.Errorf("a tensor that is not there: %v", err)
	}
	loaded, err := ck.Load(t.Context(), norm, safetensors.F16)
	if err != nil || loaded.DType != safetensors.F16 || len(loaded.Bytes) != 2*256 {
		t.Errorf("Load: %+v, %v", loaded.DType, err)
	}
	g, err := ck.GPTQ("model.layers.0.self_attn.q_proj")
	if err != nil || g.K != 256 || g.N != 256 || g.Bits != 4 || g.Group != 128 || !g.Symmetric || g.ActOrder || g.Format != "gptq" ||
		g.QWeight.Name != qweight || g.Scales.Name != scales || g.Bias.Name != "" || g.GIdx.Name == "" {
		t.Errorf("GPTQ: %+v, %v", g, err)
	}
	if _, err := ck.GPTQ("model.norm"); err == nil {
		t.Error("a norm is a gptq module")
	}
}

// TestOutputsStream: every Output once, with the bytes of a whole load; memory comes back; leaving early ends the load.
func TestOutputsStream(t *testing.T) {
	for _, name := range []string{"gptq_moe_4b_g128_sharded", "plain_bf16_sharded"} {
		whole, _ := loadHost(t, fixturePath(name), coldload.Options{})
		ck := openFixture(t, name, coldload.Options{})
		seen := map[string]bool{}
		for out, err := range ck.Outputs(t.Context(), coldload.Options{}) {
			if err != nil {
				t.Fatal(err)
			}
			want, ok := whole.Lookup(out.Name)
			if !ok || seen[out.Name] || !bytes.Equal(out.Bytes, want.Bytes) {
				t.Errorf("%s: twice, unknown or other bytes", out.Name)
			}
			seen[out.Name] = true
			if err := out.Release(); err != nil {
				t.Error(err)
			}
		}
		if len(seen) != len(whole.Outputs()) {
			t.Errorf("%d outputs, want %d", len(seen), len(whole.Outputs()))
		}
		n := 0
		for out, err := range ck.Outputs(t.Context(), coldload.Options{}) {
			if err != nil {
				t.Fatal(err)
			}
			if err := out.Release(); err != nil {
				t.Error(err)
			}
			if n++; n == 3 {
				break
			}
		}
		for _, err := range ck.Outputs(t.Context(), coldload.Options{Layout: "nonsense"}) {
			if !errors.Is(err, coldload.ErrOptions) {
				t.Errorf("error %v", err)
			}
		}
	}
}

// TestLoadInsideOutputs: the body of the loop may load from the same Checkpoint, however small the budget is.
func TestLoadInsideOutputs(t *testing.T) {
	const name = "gptq_moe_4b_g128_sharded"
	ck := openFixture(t, name, coldload.Options{Budget: 256 << 10})
	n := 0
	for out, err := range ck.Outputs(t.Context(), coldload.Options{}) {
		if err != nil {
			t.Fatal(err)
		}
		m, err := ck.Linear(t.Context(), "model.layers.0.self_attn.qkv_proj", coldload.Options{})
		if err != nil {
			t.Fatal(err)
		}
		inner := 0
		for x, err := range ck.Outputs(t.Context(), coldload.Options{}) {
			if err != nil {
				t.Fatal(err)
			}
			inner++
			if err := x.Release(); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(m.Close(), out.Release()); err != nil || inner == 0 {
			t.Errorf("%d outputs inside, error %v", inner, err)
		}
		n++
	}
	if n == 0 {
		t.Error("no outputs")
	}
}

// TestOutputsFail: the error of the load ends the loop, once, after what was complete.
func TestOutputsFail(t *testing.T) {
	m := o(ckpt.GPTQOptions{})
	dir := ckpt.New(t).Shard(single, ckpt.Replace(m, f16Scales(m, 200, 0x7E00))).JSON("config.json", config("llama", nil)).Write()
	ck := openPath(t, dir, coldload.Options{})
	var last error
	for out, err := range ck.Outputs(t.Context(), coldload.Options{}) {
		if last != nil {
			t.Error("the loop goes on after an error")
		}
		if last = err; err == nil {
			if err := out.Release(); err != nil {
				t.Error(err)
			}
		}
	}
	if data, ok := errors.AsType[*stages.DataError](last); !ok || data.Tensor != oProj+".scales" {
		t.Errorf("error %v", last)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	for _, err := range ck.Outputs(ctx, coldload.Options{}) {
		if !errors.Is(err, stop) {
			t.Errorf("error %v, want the cause", err)
		}
	}
	if _, err := ck.Linear(t.Context(), oProj, coldload.Options{}); !strings.Contains(fmt.Sprint(err), "not finite") {
		t.Errorf("the module by itself: %v", err)
	}
}

// TestOpenPacked: a packed folder gives its outputs on demand too, as they are; what it does not have is refused.
func TestOpenPacked(t *testing.T) {
	const name = "gptq_moe_4b_g128_sharded"
	dir := filepath.Join(t.TempDir(), "packed")
	if _, err := coldload.Pack(t.Context(), fixturePath(name), dir, coldload.Options{}, coldload.PackOptions{}); err != nil {
		t.Fatal(err)
	}
	whole, _ := loadHost(t, fixturePath(name), coldload.Options{})
	ck := openPath(t, dir, coldload.Options{})
	for module := range modulesOf(whole.Outputs()) {
		m, err := loadModule(t.Context(), ck, module, coldload.Options{Layout: stages.LayoutMarlin})
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Parts()) == 0 {
			t.Errorf("%s has no parts", module)
		}
		for out, x := range m.All() {
			if want, ok := whole.Lookup(out); !ok || want.Layout != x.Layout || !bytes.Equal(want.Bytes, x.Bytes) {
				t.Errorf("%s: not what a load of the original makes of it", out)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	refused := func(what string, err error, says string) {
		t.Helper()
		if r, ok := errors.AsType[*stages.RefusedError](err); !ok || !strings.Contains(r.Error(), says) {
			t.Errorf("%s: %v, want a refusal with %q", what, err, says)
		}
	}
	_, err := ck.Linear(t.Context(), "model.layers.0.self_attn.q_proj", coldload.Options{})
	refused("a member", err, "no such module in the packed folder")
	_, err = ck.Linear(t.Context(), "model.layers.0.self_attn.qkv_proj", coldload.Options{Layout: stages.LayoutRaw})
	refused("another layout", err, "packed with another layout")
	_, err = ck.Linear(t.Context(), "model.layers.0.self_attn.qkv_proj", coldload.Options{ActOrder: true})
	refused("another order", err, "packed with another order of input features")
	_, err = ck.Experts(t.Context(), "model.layers.0.mlp.experts.{e}", []string{"down_proj"}, 3, coldload.Options{})
	refused("another number of experts", err, "not a stack of so many experts")
	_, err = ck.GPTQ("model.layers.0.self_attn.q_proj")
	refused("the raw members", err, "packed folder")
}

// TestBudgetsOfLoads: a load that names a budget keeps to it; what names none shares the Checkpoint's.
func TestBudgetsOfLoads(t *testing.T) {
	ck := openPath(t, big(t), coldload.Options{Budget: 10 << 20})
	for _, x := range []struct{ asked, most int64 }{{0, 10 << 20}, {5 << 20, 5 << 20}, {20 << 20, 20 << 20}} {
		sink := discard.New()
		res, err := ck.LoadAll(t.Context(), sink, coldload.Options{Budget: x.asked})
		if err != nil {
			t.Fatal(err)
		}
		if res.BudgetPeak > x.most || res.BudgetPeak == 0 {
			t.Errorf("asked for %d: the Batches cost %d, want at most %d", x.asked, res.BudgetPeak, x.most)
		}
	}
	var refused *stages.RefusedError
	if _, err := ck.Plan(coldload.Options{Budget: 1000}, nil); !errors.As(err, &refused) || !hasFault(refused, stages.CodeBudget, []string{"at most 1000 bytes"}) {
		t.Errorf("a small budget: %v", err)
	}
	if _, err := ck.Plan(coldload.Options{Budget: -1}, nil); !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("a negative budget: %v", err)
	}
	shared := pipeline.NewBudget(6 << 20)
	if _, err := ck.LoadAll(t.Context(), discard.New(), coldload.Options{SharedBudget: shared}); err != nil || shared.Peak() == 0 {
		t.Errorf("a budget from outside: %v, peak %d", err, shared.Peak())
	}
	if _, err := coldload.Open(t.Context(), big(t), coldload.Options{Rules: []stages.Rule{nil}}); !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("a nil rule: %v", err)
	}
}

// TestAfterClose: what is asked of a closed Checkpoint is one clear error, and never the bytes of whatever took the place of its mapping.
func TestAfterClose(t *testing.T) {
	const scalar, module = "model.norm.weight", "model.layers.0.self_attn.qkv_proj"
	ctx := t.Context()
	ck := openFixture(t, "gptq_moe_4b_g128_sharded", coldload.Options{})
	if _, err := ck.Bytes(scalar); err != nil {
		t.Fatal(err)
	}
	if err := ck.Close(); err != nil {
		t.Fatal(err)
	}
	other := openFixture(t, "plain_bf16_sharded", coldload.Options{})
	if _, err := other.Bytes(scalar); err != nil {
		t.Fatal(err)
	}
	sink := &countingSink{Sink: discard.New()}
	for what, call := range map[string]func() error{
		"Bytes":    func() error { _, err := ck.Bytes(scalar); return err },
		"ReadInto": func() error { return ck.ReadInto(ctx, scalar, make([]byte, 512)) },
		"Float32":  func() error { _, err := ck.Float32(scalar); return err },
		"Int32":    func() error { _, err := ck.Int32(scalar); return err },
		"Load":     func() error { _, err := ck.Load(ctx, scalar, safetensors.F16); return err },
		"GPTQ":     func() error { _, err := ck.GPTQ("model.layers.0.self_attn.q_proj"); return err },
		"Plan":     func() error { _, err := ck.Plan(coldload.Options{}, nil); return err },
		"LoadAll":  func() error { _, err := ck.LoadAll(ctx, sink, coldload.Options{}); return err },
		"Linear":   func() error { _, err := ck.Linear(ctx, module, coldload.Options{}); return err },
		"Experts": func() error {
			_, err := ck.Experts(ctx, "model.layers.0.mlp.experts.{e}", []string{"down_proj"}, 4, coldload.Options{})
			return err
		},
		"Outputs": func() (err error) {
			for _, e := range ck.Outputs(ctx, coldload.Options{}) {
				err = errors.Join(err, e)
			}
			return err
		},
	} {
		if err := call(); !errors.Is(err, os.ErrClosed) || !strings.Contains(err.Error(), "checkpoint ") {
			t.Errorf("%s: %v, want that the checkpoint is closed", what, err)
		}
	}
	if sink.closes != 1 {
		t.Errorf("the sink was closed %d times", sink.closes)
	}
	if err := ck.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

// countingSink counts what ends it.
type countingSink struct {
	stages.Sink

	commits, closes int
}

func (s *countingSink) Commit(ctx context.Context) error {
	s.commits++
	return s.Sink.Commit(ctx)
}

func (s *countingSink) Close() error {
	s.closes++
	return s.Sink.Close()
}
