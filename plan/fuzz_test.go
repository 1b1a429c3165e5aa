package plan_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// FuzzPlan makes plans of any tensors, with any config: lines of a name, a dtype and dimensions. A plan is refused with faults, or every Part of it
// reads inside of the tensors that it names and writes inside of its Slab.
func FuzzPlan(f *testing.F) {
	f.Add("a.weight BF16 4 8\nb.bias F32 3", `{"model_type":"llama"}`, uint16(0))
	for _, bits := range []int{2, 3, 4, 8} {
		f.Add(quantisedLines("qweight", "scales", "qzeros", "g_idx"), fmt.Sprintf(`{"quantization_config":{"quant_method":"gptq","bits":%d,"group_size":128,"desc_act":true}}`, bits), uint16(7*bits))
	}
	dirs, err := filepath.Glob(filepath.Join("..", "testdata", "fixtures", "*", "checkpoint"))
	if err != nil || len(dirs) == 0 {
		f.Fatal(dirs, err)
	}
	for i, dir := range dirs {
		config, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(fixtureLines(f, dir), string(config), uint16(i))
	}
	f.Fuzz(func(t *testing.T, lines, config string, options uint16) {
		cat := catalogOfLines(lines)
		if cat == nil {
			return
		}
		dir := t.TempDir()
		for name, text := range map[string]string{"config.json": config, "model.safetensors": "\x02\x00\x00\x00\x00\x00\x00\x00{}"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ck, err := discover.Discover(t.Context(), dir, discover.Options{})
		if err != nil {
			return
		}
		defer func() {
			if err := ck.Close(); err != nil {
				t.Error(err)
			}
		}()
		p, err := plan.Make(plan.Input{Catalog: cat, Model: ck.Config, Quant: ck.Quant}, fuzzOptions(options))
		if err == nil {
			insideOf(t, p, cat)
			return
		}
		refused, ok := errors.AsType[*stages.RefusedError](err)
		if !ok || len(refused.Faults) == 0 || p == nil {
			t.Fatalf("%T: %v, plan %v", err, err, p != nil)
		}
		for _, f := range refused.Faults {
			if f.Code == "" || f.Problem == "" {
				t.Errorf("fault %+v", f)
			}
		}
	})
}

// quantisedLines are the tensors of a fused attention and an expert.
func quantisedLines(names ...string) string {
	var b strings.Builder
	for _, module := range []string{"model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.0.mlp.experts.0.gate_proj", "model.layers.0.mlp.experts.0.up_proj"} {
		for i, name := range names {
			fmt.Fprintf(&b, "%s.%s %s\n", module, name, []string{"I32 32 64", "F16 2 64", "I32 2 8", "I32 256"}[i])
		}
	}
	return b.String()
}

// fixtureLines are the tensors of a fixture.
func fixtureLines(tb testing.TB, dir string) string {
	tb.Helper()
	shards, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		tb.Fatal(err)
	}
	var b strings.Builder
	for _, path := range shards {
		f, err := safetensors.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		h := f.Header()
		for i := range h.Len() {
			info := h.Info(i)
			fmt.Fprintf(&b, "%s %s %s\n", info.Name, info.DType, strings.Trim(fmt.Sprint(info.Shape), "[]"))
		}
		if err := f.Close(); err != nil {
			tb.Fatal(err)
		}
	}
	return b.String()
}

// catalogOfLines reads lines; nil when they are no tensors that the index stage would let pass.
func catalogOfLines(lines string) *catalog {
	const mostTensors, mostBytes = 400, 1 << 50
	var list []stages.Tensor
	seen, total := map[string]bool{}, int64(0)
	for in := bufio.NewScanner(strings.NewReader(lines)); in.Scan(); {
		words := strings.Fields(in.Text())
		if len(words) < 2 || seen[words[0]] {
			continue
		}
		d, ok := safetensors.ParseDType(words[1])
		if !ok {
			continue
		}
		x := stages.Tensor{Name: words[0], DType: d, Shape: []int64{}}
		for _, w := range words[2:] {
			n, err := strconv.ParseInt(w, 10, 64)
			if err != nil || n < 0 || len(x.Shape) > 8 {
				return nil
			}
			x.Shape = append(x.Shape, n)
		}
		n, err := safetensors.Elements(x.Shape)
		if err == nil {
			n, err = d.Size(n)
		}
		if total += n; err != nil || total > mostBytes || total < 0 || len(list) == mostTensors {
			return nil
		}
		seen[x.Name] = true
		list = append(list, x)
	}
	return newCatalog(list)
}

// fuzzOptions are those that n stands for.
func fuzzOptions(n uint16) plan.Options {
	layouts := []stages.Layout{"", stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw}
	dtypes := []stages.DType{safetensors.Invalid, safetensors.F16, safetensors.BF16, safetensors.F32}
	return plan.Options{
		Layout: layouts[n%5], DType: dtypes[n/5%4], NoFuse: n/20%2 == 1, ActOrder: n/40%2 == 1, Strict: n/80%2 == 1,
		Budget: []int64{0, 1, 1 << 20, 1 << 40}[n/160%4],
	}
}

// insideOf looks at every Part of the first Batches.
func insideOf(t *testing.T, p *plan.Plan, cat *catalog) {
	t.Helper()
	count := 0
	for b := range p.Batches() {
		if count++; count > 2000 {
			return
		}
		for i := range b.Parts {
			part := &b.Parts[i]
			for _, in := range part.Inputs {
				name, _, _ := strings.Cut(in.Tensor, " (expert ") // a part of a tensor that has those of all experts
				at, ok := cat.Lookup(name)
				if e := in.Extent; !ok || e.Off < cat.Extent(at).Off || e.Off+e.Len > cat.Extent(at).End() || in.Range < 0 || in.Range >= len(b.Ranges) {
					t.Fatalf("%s reads %+v of %s", part.Op, e, in.Tensor)
				}
			}
			if part.Slab == stages.NoSlab {
				continue
			}
			d := part.Dst
			if size := b.Slabs[part.Slab].Len; d.Off < 0 || d.Rows > 0 && d.Off+(d.Rows-1)*d.Stride+d.RowBytes > size || d.Rows > 1 && d.Stride < d.RowBytes {
				t.Fatalf("%s writes %+v of %d bytes", part.Op, d, size)
			}
		}
	}
}
