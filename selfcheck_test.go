package coldload_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/examples/int8rows"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// flipper is a stage behind the last Op. It asks every Op's own check about words of what was written, once as they are and once with a bit that
// is wrong.
type flipper struct {
	mu      sync.Mutex
	rng     *rand.Rand
	checked map[string]int // words, by Op
	without map[string]bool
	faults  []string
}

// wordsOfAPart is how many words of a Part are looked at.
const wordsOfAPart = 40

func (*flipper) Name() string { return "flipper" }

func (f *flipper) Process(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range b.Parts {
		p := &b.Parts[i]
		if p.Slab == stages.NoSlab || p.Dst.Rows == 0 || p.Dst.RowBytes < 4 {
			continue
		}
		c, ok := p.Op.(stages.Checker)
		if !ok {
			f.without[p.Op.String()] = true
			continue
		}
		if p.Needs != stages.NoScan {
			continue // what a scan found the Op alone is told: tests of its own flip bits, and its own check runs in these loads too
		}
		j := &stages.Job{
			Dst: b.Written(p), Rows: int(p.Dst.Rows), RowBytes: int(p.Dst.RowBytes), Stride: int(p.Dst.Stride), Inputs: p.Inputs,
			Warn: func(string, ...any) {},
		}
		for k := range p.Inputs {
			j.Src = append(j.Src, b.Source(p, k))
		}
		for range wordsOfAPart {
			f.word(p.Op.String(), c, j)
		}
	}
	return b, nil
}

// word checks one word.
func (f *flipper) word(name string, c stages.Checker, j *stages.Job) {
	row, word := f.rng.IntN(j.Rows), f.rng.IntN(j.RowBytes/4)
	f.checked[name]++
	if err := c.CheckWord(j, row, word); err != nil {
		f.faults = append(f.faults, fmt.Sprintf("%s: row %d, word %d: %v", name, row, word, err))
	}
	at, bit := &j.Row(row)[4*word+f.rng.IntN(4)], byte(1)<<f.rng.IntN(8)
	*at ^= bit
	err := c.CheckWord(j, row, word)
	*at ^= bit
	if _, ok := errors.AsType[*stages.MismatchError](err); !ok {
		f.faults = append(f.faults, fmt.Sprintf("%s: row %d, word %d: a bit was flipped, and the check says %v", name, row, word, err))
	}
}

// oddCheckpoints are of formats that neither a fixture nor synth has, and of modules that fill no whole tiles.
func oddCheckpoints(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, version := range []string{"gemv", "gemv_fast"} {
		all["awq "+version] = awqCheckpoint(t, version, 64, awqModules(64))
	}
	for _, kind := range nvKinds {
		r := rand.New(rand.NewPCG(6, 12))
		all["padded nvfp4, "+kind.name] = written(t, nvOdd(r, kind, 1, 2).build(r, 1))
	}
	for name, weights := range map[string]map[string]any{"channel": nil, "tensor": {"strategy": "tensor"}} {
		var items ckpt.List
		for i, base := range []string{attn + "q_proj", attn + "k_proj", attn + "v_proj", mlp + "odd_proj"} {
			m := ckpt.GPTQ(base, 256-96*(i/3), 64+32*(i/3), 8, -1, ckpt.GPTQOptions{Seed: uint64(i), V2: true, Bias: true, NoGIdx: true})
			item := ckpt.Item(signedTwin{m})
			if weights != nil {
				item = oneScale{item}
			}
			items = append(items, item)
		}
		all["int8 of a "+name] = written(t, only(func(b *ckpt.Builder) {
			b.Shard(single, items).JSON("config.json", intConfig("llama", "int-quantized", weights))
		}))
	}
	return all
}

// synthesised is a checkpoint of the micro model, unless o names another.
func synthesised(t *testing.T, o synth.Options) string {
	t.Helper()
	o.Model = cmp.Or(o.Model, "micro")
	dir := filepath.Join(t.TempDir(), "ck")
	if _, err := synth.Write(t.Context(), dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSelfCheckSeesEveryBit: every Op that writes can be compared with its source; the check agrees with what the Op wrote, and with nothing else.
func TestSelfCheckSeesEveryBit(t *testing.T) {
	checkpoints := map[string]string{}
	fixtures, err := filepath.Glob(filepath.Join("testdata", "fixtures", "*", "checkpoint"))
	if err != nil || len(fixtures) == 0 {
		t.Fatal(fixtures, err)
	}
	for _, dir := range fixtures {
		checkpoints[filepath.Base(filepath.Dir(dir))] = dir
	}
	for name, o := range map[string]synth.Options{
		"gptq 2": {Bits: 2}, "gptq 3": {Bits: 3}, "gptq 8": {Bits: 8}, "gptq act-order": {DescAct: true}, "gptq 8 act-order": {Bits: 8, DescAct: true},
		"rows act-order":   {Format: synth.FormatCompressed, DescAct: true, Group: 32},
		"rows 8 act-order": {Format: synth.FormatCompressed, Bits: 8, DescAct: true, Group: 32}, "rows 8": {Format: synth.FormatCompressed, Bits: 8},
		"rows of zero points": {Format: synth.FormatCompressed, Asym: true}, "gptq of zero points": {Asym: true},
		"fp8 of a tensor": {Format: synth.FormatFP8Tensor}, "fp8 of channels": {Format: synth.FormatFP8Channel}, "mxfp4": {Format: synth.FormatMXFP4Pack}, "nvfp4": {Format: synth.FormatNVFP4}, "nvfp4 divisors": {Format: synth.FormatNVFP4Compressed},
		"experts input-major": {Model: "llama-4-scout", Layers: 1, Narrow: true, Format: synth.FormatNone},
		"experts in one":      {Model: "qwen3.5-35b-a3b", Layers: 1, Narrow: true, Format: synth.FormatNone},
	} {
		checkpoints[name] = synthesised(t, o)
	}
	for _, format := range synth.Formats() {
		o := synth.Options{Format: format}
		if format == synth.FormatMXFP4 {
			o.Model = "micro-gpt-oss"
		}
		checkpoints["synth "+string(format)] = synthesised(t, o)
	}
	for name, path := range ggufPaths {
		checkpoints["gguf "+name] = path
	}
	maps.Copy(checkpoints, oddCheckpoints(t))
	checked, without := map[string]int{}, map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(checkpoints)) {
		for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw} {
			for _, dtype := range []stages.DType{safetensors.Invalid, safetensors.BF16, safetensors.F16, safetensors.F32} {
				f := &flipper{rng: rand.New(rand.NewPCG(1, 2)), checked: checked, without: without}
				_, err := coldload.Load(t.Context(), checkpoints[name], discard.New(), coldload.Options{
					Layout: layout, DType: dtype, Stages: []coldload.Insert{{After: stages.PhaseRepack, Stage: f}},
				})
				if _, refused := errors.AsType[*stages.RefusedError](err); err != nil && !refused && !errors.Is(err, coldload.ErrOptions) {
					t.Errorf("%s, %s, %s: %v", name, layout, dtype, err)
				}
				if len(f.faults) > 0 {
					t.Errorf("%s, %s, %s: %d faults: %s", name, layout, dtype, len(f.faults), strings.Join(f.faults[:min(3, len(f.faults))], "\n\t"))
				}
			}
		}
	}
	for _, op := range slices.Sorted(maps.Keys(checked)) {
		t.Logf("%6d words of: %s", checked[op], op)
	}
	for _, op := range slices.Sorted(maps.Keys(without)) {
		t.Errorf("is no Checker: %s", op)
	}
	if len(checked) < 30 {
		t.Errorf("only %d Ops were seen", len(checked))
	}
}

// forgetful is int8rows with an Op that writes nothing but ones, and whose check says so.
type forgetful struct{ int8rows.Format }

func (f forgetful) Open(q *discover.QuantConfig) (plan.Reader, []stages.Fault) {
	r, faults := f.Format.Open(q)
	return forgetfulReader{r}, faults
}

type forgetfulReader struct{ plan.Reader }

func (forgetfulReader) Compile(_ *plan.Group, b *plan.Builder) string {
	b.Tall(plan.Tall{Suffix: "weight", Parts: []int{0, 1}, DType: safetensors.F32, Op: onesOp{}})
	return ""
}

type onesOp struct{}

func (onesOp) Phase() stages.Phase { return stages.PhaseDecode }
func (onesOp) String() string      { return "write ones" }

func (onesOp) Run(j *stages.Job) error {
	for r := range j.Rows {
		for i := range j.Row(r) {
			j.Row(r)[i] = 1
		}
	}
	return nil
}

func (onesOp) CheckWord(*stages.Job, int, int) error {
	return &stages.MismatchError{What: "a weight", Want: "2", Got: "1"}
}

// TestSelfCheckEndsTheLoad: what it finds ends a load and a pack with the places named and what to do; nothing is committed.
func TestSelfCheckEndsTheLoad(t *testing.T) {
	const module = "model.layers.0.mlp.down_proj"
	path := written(t, only(func(b *ckpt.Builder) {
		b.Shard(single,
			&ckpt.T{Name: module + ".codes", DType: safetensors.I8, Shape: []int64{2, 4}},
			&ckpt.T{Name: module + ".row_scale", DType: safetensors.F32, Shape: []int64{2}},
		).JSON("config.json", map[string]any{"model_type": "llama", "quantization_config": map[string]any{"quant_method": "int8rows"}})
	}))
	opt := coldload.Options{Formats: []plan.Format{forgetful{}}}
	wanted := func(err error) {
		t.Helper()
		if _, ok := errors.AsType[*stages.MismatchError](err); !ok {
			t.Fatalf("got %v", err)
		}
		for _, says := range []string{
			"self-check", single, module + ".codes", "output " + module + ".weight, byte ", "a weight is 1", "must be 2", "report it", "--no-self-check",
		} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%v does not say %q", err, says)
			}
		}
	}
	sink := host.New(host.Options{})
	_, err := coldload.Load(t.Context(), path, sink, opt)
	wanted(err)
	if sink.Memory() != nil {
		t.Error("the sink has a result")
	}
	out := filepath.Join(t.TempDir(), "out")
	_, err = coldload.Pack(t.Context(), path, out, opt, coldload.PackOptions{})
	wanted(err)
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is there: %v", err)
	}
	opt.NoSelfCheck = true
	if _, err := coldload.Pack(t.Context(), path, out, opt, coldload.PackOptions{}); err != nil {
		t.Errorf("switched off: %v", err)
	}
}
