package coldload_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// expertLayer is the experts of one layer, that checkpoints hold one by one or in one tensor.
type expertLayer struct {
	scope            string // "model.layers.0.mlp.experts"
	e, hidden, inner int
	dtype            stages.DType
	block            int // side of the blocks that share an F32 scale; 0 for none
	interleaved      bool
	bias             bool // needs interleaved: single experts have none
	model            string
	text             bool // the config has a text_config
}

// matrix is the weight [n, k] of one member of one expert.
func (x *expertLayer) matrix(e int, member string, n, k int) []byte {
	b := make([]byte, n*k*x.dtype.Bits()/8)
	synth.Random(x.dtype, uint64(e*3+len(member)+int(member[0]))).Fill(b, 0)
	return b
}

// scales are those of the blocks of [n, k].
func (x *expertLayer) scales(e int, member string, n, k int) []byte {
	rows, cols := (n+x.block-1)/x.block, (k+x.block-1)/x.block
	b := make([]byte, 0, 4*rows*cols)
	for i := range rows * cols {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(1+e*31+len(member)*7+i)/4096))
	}
	return b
}

func (x *expertLayer) config() map[string]any {
	c := map[string]any{"hidden_size": x.hidden, "num_experts": x.e}
	if x.text {
		c = map[string]any{"text_config": c}
	}
	c["model_type"], c["torch_dtype"] = x.model, "bfloat16"
	if x.block > 0 {
		c["quantization_config"] = map[string]any{"quant_method": "fp8", "weight_block_size": []int{x.block, x.block}}
	}
	return c
}

// write makes the checkpoint of some tensors.
func (x *expertLayer) write(tb testing.TB, tensors ckpt.List) string {
	tb.Helper()
	return ckpt.New(tb).Shard("model.safetensors", append(tensors, ckpt.Dense("model.norm.weight", safetensors.BF16, 1, 8))).JSON("config.json", x.config()).Write()
}

// single are the tensors of experts one by one. joinedScales puts their scales into one tensor for all.
func (x *expertLayer) single(joinedScales bool) (list ckpt.List) {
	for e := range x.e {
		for _, m := range []string{"gate_proj", "up_proj", "down_proj"} {
			n, k := x.inner, x.hidden
			if m == "down_proj" {
				n, k = k, n
			}
			name := fmt.Sprintf("%s.%d.%s.weight", x.scope, e, m)
			list = append(list, ckpt.T{Name: name, DType: x.dtype, Shape: dims(n, k), Data: x.matrix(e, m, n, k)})
			if x.block > 0 && !joinedScales {
				shape := dims((n+x.block-1)/x.block, (k+x.block-1)/x.block)
				list = append(list, ckpt.T{Name: name + "_scale_inv", DType: safetensors.F32, Shape: shape, Data: x.scales(e, m, n, k)})
			}
		}
	}
	if joinedScales {
		list = append(list, x.joined(false)[1], x.joined(false)[3])
	}
	return list
}

// joined are the tensors that hold all experts.
func (x *expertLayer) joined(turned bool) (list ckpt.List) {
	for _, t := range []struct {
		name    string
		members []string
		n, k    int
	}{{"gate_up_proj", []string{"gate_proj", "up_proj"}, x.inner, x.hidden}, {"down_proj", []string{"down_proj"}, x.hidden, x.inner}} {
		var weights, scales []byte
		n := t.n * len(t.members)
		for e := range x.e {
			w, s := x.expert(e, t.members, t.n, t.k)
			if turned {
				w = transposed(w, n, t.k, x.dtype.Bits()/8)
				if x.block > 0 {
					s = transposed(s, n/x.block, t.k/x.block, 4)
				}
			}
			weights, scales = append(weights, w...), append(scales, s...)
		}
		shape := dims(x.e, n, t.k)
		if turned {
			shape = dims(x.e, t.k, n)
		}
		list = append(list, ckpt.T{Name: x.scope + "." + t.name, DType: x.dtype, Shape: shape, Data: weights})
		if x.block > 0 {
			shape = dims(x.e, int(shape[1])/x.block, int(shape[2])/x.block)
			list = append(list, ckpt.T{Name: x.scope + "." + t.name + "_scale_inv", DType: safetensors.F32, Shape: shape, Data: scales})
		}
		if x.bias {
			list = append(list, ckpt.Dense(x.scope+"."+t.name+"_bias", safetensors.BF16, uint64(n), int64(x.e), int64(n)))
		}
	}
	return list
}

// expert is the weight and the scales of members joined.
func (x *expertLayer) expert(e int, members []string, n, k int) (w, s []byte) {
	for _, m := range members {
		w = append(w, x.matrix(e, m, n, k)...)
		if x.block > 0 {
			s = append(s, x.scales(e, m, n, k)...)
		}
	}
	if !x.interleaved || len(members) == 1 {
		return w, s
	}
	row := k * x.dtype.Bits() / 8
	var mixed []byte
	for i := range n {
		mixed = append(append(mixed, w[i*row:(i+1)*row]...), w[(n+i)*row:(n+i+1)*row]...)
	}
	return mixed, s
}

func transposed(b []byte, rows, cols, size int) []byte {
	out := make([]byte, len(b))
	for r := range rows {
		for c := range cols {
			copy(out[(c*rows+r)*size:], b[(r*cols+c)*size:(r*cols+c+1)*size])
		}
	}
	return out
}

func dims(n ...int) (out []int64) {
	for _, n := range n {
		out = append(out, int64(n))
	}
	return out
}

// sameMemory compares everything that two loads made. rename maps the names of the second.
func sameMemory(t *testing.T, want, got *host.Memory, rename ...string) {
	t.Helper()
	names := strings.NewReplacer(rename...)
	n := 0
	for name, g := range got.All() {
		w, ok := want.Lookup(names.Replace(name))
		switch {
		case !ok:
			t.Errorf("%s is too much", name)
		case w.DType != g.DType || !slices.Equal(w.Shape, g.Shape):
			t.Errorf("%s is %s%v, want %s%v", name, g.DType, g.Shape, w.DType, w.Shape)
		case !bytes.Equal(w.Bytes, g.Bytes):
			t.Errorf("%s has other bytes", name)
		}
		n++
	}
	if n != len(want.Outputs()) {
		t.Errorf("%d outputs, want %d", n, len(want.Outputs()))
	}
}

var expertLayouts = []struct {
	model  string
	scope  string
	turned bool
	text   bool
}{
	{"llama4", "language_model.model.layers.1.feed_forward.experts", true, true},
	{"qwen3_vl_moe", "model.language_model.layers.0.mlp.experts", true, true},
	{"qwen3_vl_moe", "model.language_model.layers.0.mlp.experts", false, true}, // unlike its releases, but the shapes are clear
	{"qwen3_5_moe", "model.language_model.layers.0.mlp.experts", false, true},
	{"novel", "model.layers.0.mlp.experts", true, false},
	{"novel", "model.layers.0.mlp.experts", false, false},
}

// TestJoinedExpertsStayAsTheyAre: all experts in one tensor keep their name and their orientation in every layout, cast when that is asked for. Asked
// for as modules, they are what single ones become.
func TestJoinedExpertsStayAsTheyAre(t *testing.T) {
	for _, l := range expertLayouts {
		x := expertLayer{scope: l.scope, e: 3, hidden: 96, inner: 40, dtype: safetensors.BF16, model: l.model, text: l.text}
		single, joined := x.write(t, x.single(false)), x.write(t, x.joined(l.turned))
		for label, opt := range variants() {
			for _, dtype := range []stages.DType{safetensors.Invalid, safetensors.F16, safetensors.F32} {
				t.Run(fmt.Sprintf("%s/%v/%s/%s", l.model, l.turned, label, dtype), func(t *testing.T) {
					opt.DType, opt.Layout = dtype, stages.LayoutDequant
					want, _ := loadHost(t, single, opt)
					got, _ := loadHost(t, joined, opt)
					sameTurned(t, want, got, x, l.turned)
				})
			}
		}
		for _, dtype := range []stages.DType{safetensors.Invalid, safetensors.F32} {
			t.Run(fmt.Sprintf("%s/%v/on demand/%s", l.model, l.turned, dtype), func(t *testing.T) { joinedOnDemand(t, single, joined, l.scope, x.e, dtype) })
		}
		for _, layout := range []stages.Layout{stages.LayoutRaw, stages.LayoutMarlin} {
			for _, noFuse := range []bool{false, true} {
				got, _ := loadHost(t, joined, coldload.Options{Layout: layout, NoFuse: noFuse})
				keptAsTheyAre(t, got, x.joined(l.turned))
			}
		}
	}
}

// keptAsTheyAre compares Outputs with the tensors of the same names.
func keptAsTheyAre(t *testing.T, got *host.Memory, tensors ckpt.List) {
	t.Helper()
	for _, item := range tensors {
		for _, w := range item.Tensors() {
			want := w.Data
			if want == nil {
				want = make([]byte, int(w.Shape[0]*w.Shape[1])*w.DType.Bits()/8)
				w.Fill.Fill(want, 0)
			}
			if g, ok := got.Lookup(w.Name); !ok || g.DType != w.DType || !bytes.Equal(g.Bytes, want) || !slices.Equal(g.Shape, w.Shape) {
				t.Errorf("%s is not as it was", w.Name)
			}
		}
	}
}

// sameTurned compares the experts of got, which are named as their tensors are and turned if they are input-major, with those of want.
func sameTurned(t *testing.T, want, got *host.Memory, x expertLayer, turned bool) {
	t.Helper()
	if len(got.Outputs()) != len(want.Outputs()) {
		t.Errorf("%d outputs, want %d", len(got.Outputs()), len(want.Outputs()))
	}
	for _, name := range []string{"gate_up_proj", "down_proj"} {
		w, _ := want.Lookup(x.scope + "." + name + ".weight")
		g, ok := got.Lookup(x.scope + "." + name)
		shape, data := w.Shape, w.Bytes
		if turned {
			shape, data = dims(x.e, int(w.Shape[2]), int(w.Shape[1])), nil
			for e := range x.e {
				size := len(w.Bytes) / x.e
				data = append(data, transposed(w.Bytes[e*size:(e+1)*size], int(w.Shape[1]), int(w.Shape[2]), w.DType.Bits()/8)...)
			}
		}
		if !ok || g.DType != w.DType || !slices.Equal(g.Shape, shape) || !bytes.Equal(g.Bytes, data) {
			t.Errorf("%s: %v %s%v, want %s%v, or other bytes", name, ok, g.DType, g.Shape, w.DType, shape)
		}
	}
}

// joinedOnDemand loads gate and up, and down, by themselves: they are what single experts become.
func joinedOnDemand(t *testing.T, single, path, scope string, e int, dtype stages.DType) {
	t.Helper()
	const layout = stages.LayoutDequant // which takes any dtype
	whole, _ := loadHost(t, single, coldload.Options{DType: dtype, Layout: layout})
	ck := openPath(t, path, coldload.Options{})
	for name, members := range map[string][]string{"gate_up_proj": {"gate_proj", "up_proj"}, "down_proj": {"down_proj"}} {
		want, _ := whole.Lookup(scope + "." + name + ".weight")
		same := func(m *coldload.Module, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := m.Part("weight"); !ok || !bytes.Equal(want.Bytes, got.Bytes) || !slices.Equal(got.Shape, want.Shape) || m.Experts != e ||
				m.N != want.Shape[1] || m.K != want.Shape[2] {
				t.Errorf("%s: %+v", name, m)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
		same(ck.Experts(t.Context(), scope+".{e}", members, e, coldload.Options{NoFuse: true, DType: dtype, Layout: layout}))
		same(ck.Linear(t.Context(), scope+"."+name, coldload.Options{DType: dtype, Layout: layout}))
		if _, err := ck.Experts(t.Context(), scope+".{e}", members, e+1, coldload.Options{}); err == nil {
			t.Errorf("%s: one expert more than there are", name)
		}
	}
}

// TestGPTOSSExpertsKeepTheirOrder: gate and up stay interleaved, biases go with them.
func TestGPTOSSExpertsKeepTheirOrder(t *testing.T) {
	x := expertLayer{
		scope: "model.layers.0.mlp.experts", e: 2, hidden: 64, inner: 64, dtype: safetensors.BF16, model: "gpt_oss", interleaved: true, bias: true,
	}
	path := x.write(t, x.joined(true))
	got, _ := loadHost(t, path, coldload.Options{})
	keptAsTheyAre(t, got, x.joined(true))
	ck := openPath(t, path, coldload.Options{})
	for _, w := range []struct {
		name    string
		members []string
		n, k    int
	}{{"gate_up_proj", []string{"gate_proj", "up_proj"}, x.inner, x.hidden}, {"down_proj", []string{"down_proj"}, x.hidden, x.inner}} {
		var want []byte
		for e := range x.e {
			b, _ := x.expert(e, w.members, w.n, w.k)
			want = append(want, b...)
		}
		n := w.n * len(w.members)
		m, err := ck.Experts(t.Context(), x.scope+".{e}", w.members, x.e, coldload.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if g, ok := m.Part("weight"); !ok || !bytes.Equal(g.Bytes, want) || !slices.Equal(g.Shape, dims(x.e, n, w.k)) {
			t.Errorf("%s: %v", w.name, g.Shape)
		}
		kept, _ := got.Lookup(x.scope + "." + w.name + "_bias")
		if g, ok := m.Part("bias"); !ok || !bytes.Equal(g.Bytes, kept.Bytes) || !slices.Equal(g.Shape, dims(x.e, n)) {
			t.Errorf("bias of %s: %v", w.name, g.Shape)
		}
	}
}

// TestJoinedExpertsThatDoNotTell: who asks for modules is told why there are none; a family that says how they lie decides. Loaded as a whole, they
// are kept all the same.
func TestJoinedExpertsThatDoNotTell(t *testing.T) {
	for _, c := range []struct {
		model         string
		hidden, inner int
		turned        bool
		fault         string
	}{
		{model: "novel", hidden: 64, inner: 32, turned: true, fault: "do not tell whether rows are inputs"},
		{model: "novel", hidden: 64, inner: 64, turned: true, fault: "do not tell whether rows are inputs"},
		{model: "novel", hidden: 0, inner: 24, turned: true, fault: "does not say the hidden size"},
		{model: "llama4", hidden: 64, inner: 32, turned: true},
		{model: "llama4", hidden: 64, inner: 64, turned: true},
		{model: "qwen3_5_moe", hidden: 64, inner: 32},
		{model: "qwen3_vl_moe", hidden: 64, inner: 32, turned: false, fault: "do not tell whether rows are inputs"},
	} {
		t.Run(fmt.Sprintf("%s %d %d", c.model, c.hidden, c.inner), func(t *testing.T) {
			x := expertLayer{scope: "model.layers.0.mlp.experts", e: 2, hidden: max(c.hidden, 64), inner: c.inner, dtype: safetensors.BF16, model: c.model}
			tensors := x.joined(c.turned)
			single := x.write(t, x.single(false))
			x.hidden = c.hidden
			joined := x.write(t, tensors)
			got, _ := loadHost(t, joined, coldload.Options{})
			keptAsTheyAre(t, got, tensors)
			if c.fault == "" {
				joinedOnDemand(t, single, joined, x.scope, x.e, safetensors.Invalid)
				return
			}
			_, err := openPath(t, joined, coldload.Options{}).Experts(t.Context(), x.scope+".{e}", []string{"down_proj"}, 2, coldload.Options{})
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestJoinedExpertsFaults: what does not go together is refused, though it would be kept as it is.
func TestJoinedExpertsFaults(t *testing.T) {
	x := expertLayer{scope: "model.layers.0.mlp.experts", e: 2, hidden: 64, inner: 48, dtype: safetensors.BF16, model: "llama4"}
	tensor := func(name string, shape ...int64) ckpt.T {
		return ckpt.Dense(x.scope+"."+name, safetensors.BF16, 1, shape...)
	}
	gateUp, down := tensor("gate_up_proj", 2, 64, 96), tensor("down_proj", 2, 48, 64)
	for _, c := range []struct {
		name, model, says string
		tensors           ckpt.List
	}{
		{"good", "llama4", "", ckpt.List{gateUp, down}},
		{"good, with biases", "llama4", "", ckpt.List{gateUp, down, tensor("gate_up_proj_bias", 2, 96), tensor("down_proj_bias", 2, 64)}},
		{"down is missing", "llama4", "the other of gate_up_proj and down_proj is not there", ckpt.List{gateUp}},
		{"gate and up are missing", "llama4", "the other of gate_up_proj and down_proj is not there", ckpt.List{down}},
		{"down is no stack", "llama4", "or is no [E, n, k]", ckpt.List{gateUp, tensor("down_proj", 48, 64)}},
		{"too many experts", "llama4", "not as many experts as the config says", ckpt.List{tensor("gate_up_proj", 3, 64, 96), tensor("down_proj", 3, 48, 64)}},
		{"too many experts, unknown family", "novel", "not as many experts as the config says", ckpt.List{tensor("gate_up_proj", 3, 64, 96), tensor("down_proj", 3, 48, 64)}},
		{"another number in down", "llama4", "another number of experts than", ckpt.List{gateUp, tensor("down_proj", 3, 48, 64)}},
		{"another size inside", "llama4", "do not go together", ckpt.List{gateUp, tensor("down_proj", 2, 40, 64)}},
		{"another hidden size", "llama4", "of hidden size 64", ckpt.List{tensor("gate_up_proj", 2, 72, 96), tensor("down_proj", 2, 48, 72)}},
		{"bias of the wrong length", "llama4", "is no bias of all experts", ckpt.List{gateUp, down, tensor("gate_up_proj_bias", 2, 64)}},
		{"bias of the wrong experts", "llama4", "is no bias of all experts", ckpt.List{gateUp, down, tensor("down_proj_bias", 3, 64)}},
		{"names alone", "novel", "", ckpt.List{gateUp, tensor("down_proj", 2, 40, 64)}},
		{"one of the names alone", "novel", "", ckpt.List{gateUp}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x.model = c.model
			path := x.write(t, c.tensors)
			for _, noFuse := range []bool{false, true} {
				p, err := openPath(t, path, coldload.Options{}).Plan(coldload.Options{NoFuse: noFuse}, nil)
				switch {
				case c.says == "" && err != nil, c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says) || len(p.Faults) != 1):
					t.Errorf("got %v", err)
				case c.name == "names alone" && !strings.Contains(strings.Join(p.Notes, "\n"), "the shapes are not"):
					t.Errorf("notes %q", p.Notes)
				}
			}
		})
	}
}

// TestJoinedExpertsOfManyBytes: an expert that is too large for one Slab is read in one piece where the budget allows it, else in stripes.
func TestJoinedExpertsOfManyBytes(t *testing.T) {
	if testing.Short() {
		t.Skip("100 MB")
	}
	x := expertLayer{scope: "model.layers.0.mlp.experts", e: 1, hidden: 128, inner: 135168, dtype: safetensors.BF16, model: "llama4"}
	ck := openPath(t, x.write(t, x.joined(true)), coldload.Options{})
	want := append(x.matrix(0, "gate_proj", x.inner, x.hidden), x.matrix(0, "up_proj", x.inner, x.hidden)...)
	for _, budget := range []int64{0, 64 << 20} {
		m, err := ck.Experts(t.Context(), x.scope+".{e}", []string{"gate_proj", "up_proj"}, 1, coldload.Options{Budget: budget})
		if err != nil {
			t.Fatal(err)
		}
		if whole := m.Result.Plan.Summary.LargestBatch > 64<<20; whole != (budget == 0) {
			t.Errorf("budget %d: the largest Batch costs %d", budget, m.Result.Plan.Summary.LargestBatch)
		}
		if g, _ := m.Part("weight"); !bytes.Equal(g.Bytes, want) {
			t.Error("other bytes")
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestJoinedFP8: F8 weights of all experts in one tensor, and their scales, are those of single experts in every layout; raw and dequantised
// Outputs keep the names of the checkpoint.
func TestJoinedFP8(t *testing.T) {
	x := expertLayer{scope: "model.layers.0.mlp.experts", e: 3, hidden: 384, inner: 128, dtype: safetensors.F8E4M3, block: 128, model: "qwen3_moe"}
	single, scales, joined := x.write(t, x.single(false)), x.write(t, x.single(true)), x.write(t, x.joined(false))
	for _, layout := range []stages.Layout{stages.LayoutMarlin, stages.LayoutRaw, stages.LayoutDequant} {
		for label, opt := range variants() {
			t.Run(fmt.Sprintf("%s/%s", layout, label), func(t *testing.T) {
				opt.Layout = layout
				want, _ := loadHost(t, single, opt)
				half, _ := loadHost(t, scales, opt)
				sameMemory(t, want, half)
				got, _ := loadHost(t, joined, opt)
				if layout == stages.LayoutMarlin {
					sameMemory(t, want, got)
				} else {
					sameMemory(t, want, got, "_proj_scale_inv", "_proj.weight_scale_inv", "_proj", "_proj.weight")
				}
			})
		}
	}
	ck := openPath(t, joined, coldload.Options{})
	want, _ := loadHost(t, single, coldload.Options{})
	m, err := ck.Experts(t.Context(), x.scope+".{e}", []string{"gate_proj", "up_proj"}, 3, coldload.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, part := range []string{"qweight", "scales"} {
		w, _ := want.Lookup(x.scope + ".gate_up_proj." + part)
		if g, ok := m.Part(part); !ok || !bytes.Equal(g.Bytes, w.Bytes) {
			t.Errorf("%s on demand", part)
		}
	}
	joinedOnDemand(t, single, joined, x.scope, x.e, safetensors.BF16)
}

// TestJoinedFP8Half: tools leave a stack that is no whole blocks as it is, beside an FP8 one and scales that mean nothing. Each is loaded by its
// own dtype, and both are modules for who asks.
func TestJoinedFP8Half(t *testing.T) {
	x := expertLayer{scope: "model.layers.0.mlp.experts", e: 2, hidden: 384, inner: 128, dtype: safetensors.F8E4M3, block: 128, model: "novel"}
	plain := x
	plain.dtype, plain.block = safetensors.BF16, 0
	quantised, dense := x.joined(false), plain.joined(false)
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			opt.Strict = true
			want, _ := loadHost(t, x.write(t, quantised), opt)
			path := x.write(t, ckpt.List{quantised[0], quantised[1], dense[1], quantised[3]})
			got, _ := loadHost(t, path, opt)
			keptAsTheyAre(t, got, ckpt.List{dense[1]})
			for _, part := range []string{"qweight", "scales"} {
				w, _ := want.Lookup(x.scope + ".gate_up_proj." + part)
				if g, ok := got.Lookup(x.scope + ".gate_up_proj." + part); !ok || !bytes.Equal(g.Bytes, w.Bytes) {
					t.Errorf("%s of the quantised stack", part)
				}
			}
			if _, ok := got.Lookup(x.scope + ".down_proj_scale_inv"); ok {
				t.Error("the scale beside the dense stack was loaded")
			}
		})
	}
	path := x.write(t, ckpt.List{dense[0], quantised[2], quantised[3]})
	ck := openPath(t, path, coldload.Options{})
	for member, n := range map[string][]string{"gate_up_proj": {"gate_proj", "up_proj"}, "down_proj": {"down_proj"}} {
		m, err := ck.Experts(t.Context(), x.scope+".{e}", n, x.e, coldload.Options{Layout: stages.LayoutDequant})
		if err != nil {
			t.Fatal(member, err)
		}
		if _, ok := m.Part("weight"); !ok {
			t.Errorf("%s: %v", member, m.Parts())
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	one := plain
	one.e = 1
	_, err := openPath(t, x.write(t, ckpt.List{quantised[0], quantised[1], one.joined(false)[1]}), coldload.Options{}).Plan(coldload.Options{}, nil)
	if err == nil || !strings.Contains(err.Error(), "has another number of experts than "+x.scope+".gate_up_proj") {
		t.Errorf("stacks of different lengths: %v", err)
	}
}

// TestPackedExperts: a packed folder gives the experts that it holds under a checkpoint's own names as the checkpoint does.
func TestPackedExperts(t *testing.T) {
	x := expertLayer{
		scope: "model.layers.0.mlp.experts", e: 2, hidden: 64, inner: 64, dtype: safetensors.BF16, model: "gpt_oss", interleaved: true, bias: true,
	}
	oss := ckpt.New(t).Shard(single, ossExperts()...).JSON("config.json", map[string]any{
		"model_type": "gpt_oss", "dtype": "bfloat16", "quantization_config": map[string]any{"quant_method": "mxfp4"},
	}).Write()
	for name, test := range map[string]struct {
		path, scope string
		layout      stages.Layout
		parts       []string
	}{
		"dense":       {x.write(t, x.joined(true)), x.scope, "", []string{"weight", "bias"}},
		"dequantised": {oss, strings.TrimSuffix(expertsAt, "."), stages.LayoutDequant, []string{"weight"}},
		"raw":         {oss, strings.TrimSuffix(expertsAt, "."), stages.LayoutRaw, []string{"_blocks", "_scales"}},
	} {
		t.Run(name, func(t *testing.T) {
			opt := coldload.Options{Layout: test.layout}
			dir, _ := packTo(t, test.path, opt, coldload.PackOptions{})
			from, packed := openPath(t, test.path, opt), openPath(t, dir, coldload.Options{})
			for _, members := range [][]string{{"gate_proj", "up_proj"}, {"down_proj"}} {
				want, err := from.Experts(t.Context(), test.scope+".{e}", members, 2, opt)
				if err != nil {
					t.Fatal(err)
				}
				defer want.Close()
				got, err := packed.Experts(t.Context(), test.scope+".{e}", members, 2, coldload.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer got.Close()
				if got.Experts != 2 || len(got.Parts()) != len(want.Parts()) {
					t.Errorf("%v: %d experts, %v, want %v", members, got.Experts, got.Parts(), want.Parts())
				}
				for _, part := range test.parts {
					w, wok := want.Part(part)
					if g, ok := got.Part(part); !ok || !wok || !bytes.Equal(g.Bytes, w.Bytes) || !slices.Equal(g.Shape, w.Shape) || g.DType != w.DType {
						t.Errorf("%v: %s is not what the checkpoint gives (%v, %v)", members, part, ok, wok)
					}
				}
				if _, err := packed.Experts(t.Context(), test.scope+".{e}", members, 3, coldload.Options{}); err == nil {
					t.Error("one expert more than there are")
				}
			}
		})
	}
}

// TestJoinedFP8InputMajor: dequantised, they are the model's own tensors; no kernel's layout holds them.
func TestJoinedFP8InputMajor(t *testing.T) {
	x := expertLayer{scope: "model.layers.0.mlp.experts", e: 2, hidden: 384, inner: 128, dtype: safetensors.F8E4M3, block: 128, model: "qwen3_vl_moe"}
	single, joined := x.write(t, x.single(false)), x.write(t, x.joined(true))
	opt := coldload.Options{Layout: stages.LayoutDequant}
	want, _ := loadHost(t, single, opt)
	got, _ := loadHost(t, joined, opt)
	for _, name := range []string{"gate_up_proj", "down_proj"} {
		w, _ := want.Lookup(x.scope + "." + name + ".weight")
		g, ok := got.Lookup(x.scope + "." + name)
		n, k := int(w.Shape[1]), int(w.Shape[2])
		if !ok || !slices.Equal(g.Shape, dims(x.e, k, n)) {
			t.Fatalf("%s: %v", name, g.Shape)
		}
		for e := range x.e {
			size := 2 * n * k
			if !bytes.Equal(g.Bytes[e*size:(e+1)*size], transposed(w.Bytes[e*size:(e+1)*size], n, k, 2)) {
				t.Errorf("%s: expert %d has other weights", name, e)
			}
		}
	}
	p, err := openPath(t, joined, coldload.Options{}).Plan(coldload.Options{}, nil)
	if err != nil || len(p.Summary.Kept) != 1 || !strings.Contains(p.Summary.Kept[0].Reason, "input-major") {
		t.Errorf("%v %+v", err, p.Summary.Kept)
	}
	raw, _ := loadHost(t, joined, coldload.Options{})
	for _, item := range x.joined(true) {
		for _, w := range item.Tensors() {
			if g, ok := raw.Lookup(w.Name); !ok || !bytes.Equal(g.Bytes, w.Data) || !slices.Equal(g.Shape, w.Shape) {
				t.Errorf("%s is not as it was", w.Name)
			}
		}
	}
}

// TestJoinedFP8Faults: what cannot be told apart is refused by name.
func TestJoinedFP8Faults(t *testing.T) {
	x := expertLayer{scope: "model.layers.0.mlp.experts", e: 2, hidden: 384, inner: 128, dtype: safetensors.F8E4M3, block: 128, model: "novel"}
	joined := x.joined(false)
	odd := x
	odd.inner = 96
	one := x
	one.e = 1
	few := one.joined(false)[1]
	third := ckpt.T{Name: x.scope + ".2.up_proj.weight", DType: x.dtype, Shape: dims(128, 384)}
	wrong := ckpt.T{Name: x.scope + ".gate_up_proj_scale_inv", DType: safetensors.F32, Shape: dims(2, 3, 3)}
	for want, tensors := range map[string]ckpt.List{
		"holds all experts of a layer, but the other of":          joined[:2],
		"weight_scale_inv of its module is missing":               {joined[0], joined[2], joined[3]},
		"nor all experts of one":                                  {joined[1]},
		"which end inside a block":                                append(odd.single(false), ckpt.T{Name: x.scope + ".gate_up_proj_scale_inv", DType: safetensors.F32, Shape: dims(2, 2, 3)}),
		"has 2 experts, not number 2":                             append(x.single(true), third),
		"says scales of blocks of 128 x 128 over [256, 384]":      {joined[0], wrong, joined[2], joined[3]},
		"has another number of experts than " + x.scope + ".gate": {joined[0], few, joined[2], joined[3]},
	} {
		t.Run(want, func(t *testing.T) {
			if want == "which end inside a block" {
				tensors = ckpt.List{ckpt.Without(tensors, "weight_scale_inv")}
			}
			_, err := openPath(t, x.write(t, tensors), coldload.Options{}).Plan(coldload.Options{}, nil)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		})
	}
}
