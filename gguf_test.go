package coldload_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

const ggufFixtures = "testdata/gguf"

// ggufExpected is what llama.cpp's own package says of a tensor.
type ggufExpected struct {
	Type   string  `json:"type"`
	Shape  []int64 `json:"shape"`
	Bytes  string  `json:"bytes"`
	Values string  `json:"values"`
}

func readGGUFExpected(t *testing.T) (all map[string]map[string]ggufExpected) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(ggufFixtures, "expected.json"))
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// ggufPaths are the fixtures by name: what to load.
var ggufPaths = map[string]string{
	"mix": filepath.Join(ggufFixtures, "mix.gguf"),
	"set": filepath.Join(ggufFixtures, "set-00001-of-00003.gguf"),
}

// TestFixtureGGUF: every way, budget and number of workers gives the values that llama.cpp's own package computes, and raw its bytes.
func TestFixtureGGUF(t *testing.T) {
	for name, tensors := range readGGUFExpected(t) {
		ways := maps.Clone(ways)
		ways["Open, module by module"] = ggufLinear
		for way, load := range ways {
			for _, workers := range []int{1, 2, 8} {
				for _, io := range []file.Mode{file.ModeMmap, file.ModePread, file.ModeDirect} {
					opt := coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32, IO: io, Workers: coldload.Workers{Decode: workers, Fetch: workers}}
					if workers == 2 {
						opt.Budget = 64 << 10
					}
					t.Run(fmt.Sprintf("%s, %s, %d workers, %s", name, way, workers, io), func(t *testing.T) {
						checkGGUFValues(t, load(t, ggufPaths[name], opt), tensors)
						opt.Layout, opt.DType = stages.LayoutRaw, safetensors.Invalid
						checkGGUFBytes(t, load(t, ggufPaths[name], opt), tensors)
					})
				}
			}
		}
	}
}

// ggufLinear asks for every weight by itself, and for the other tensors.
func ggufLinear(t *testing.T, path string, opt coldload.Options) outputs {
	t.Helper()
	ck := openPath(t, path, opt)
	c := collected{}
	p, err := ck.Plan(opt, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range p.Outputs {
		base, isWeight := strings.CutSuffix(o.Name, ".weight")
		if !isWeight || len(o.Shape) < 2 {
			x, err := ck.Load(t.Context(), o.Name, opt.DType)
			if err != nil {
				t.Fatal(err)
			}
			c.take(t, o.Name, host.Tensor{DType: x.DType, Shape: x.Shape, Bytes: x.Bytes})
			continue
		}
		m, err := ck.Linear(t.Context(), base, opt)
		if err != nil {
			t.Fatal(err)
		}
		for name, x := range m.All() {
			if strings.HasSuffix(name, ".weight") { // a bias is a tensor of its own
				c.take(t, name, x)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	return c
}

func checkGGUFValues(t *testing.T, mem outputs, tensors map[string]ggufExpected) {
	t.Helper()
	n := 0
	for name, x := range mem.All() {
		n++
		want := tensors[name]
		if x.DType != safetensors.F32 || !slices.Equal(x.Shape, want.Shape) || sha(x.Bytes) != want.Values {
			t.Errorf("%s: %s %v is not what %s stands for", name, x.DType, x.Shape, want.Type)
		}
	}
	if n != len(tensors) {
		t.Errorf("%d outputs, want %d", n, len(tensors))
	}
}

func checkGGUFBytes(t *testing.T, mem outputs, tensors map[string]ggufExpected) {
	t.Helper()
	n := 0
	for name, x := range mem.All() {
		n++
		want := tensors[name]
		typ, ok := gguf.ParseType(want.Type)
		elements, size := typ.Block()
		shape := slices.Clone(want.Shape)
		if elements > 1 {
			shape[len(shape)-1] = shape[len(shape)-1] / elements * size
		}
		if !ok || (x.DType == safetensors.U8) != (elements > 1) || !slices.Equal(x.Shape, shape) || sha(x.Bytes) != want.Bytes {
			t.Errorf("%s: %s %v are not the bytes of %s %v", name, x.DType, x.Shape, want.Type, want.Shape)
		}
	}
	if n != len(tensors) {
		t.Errorf("%d outputs, want %d", n, len(tensors))
	}
}

// TestGGUFPlan: what the plan says of the fixtures.
func TestGGUFPlan(t *testing.T) {
	ck := openPath(t, ggufPaths["mix"], coldload.Options{})
	if q := ck.QuantConfig(); q == nil || q.Method != "gguf" {
		t.Errorf("quantisation %+v", q)
	}
	if x, ok := ck.Tensor("blk.0.ffn_gate_exps.weight"); !ok || x.Layout != "gguf_mxfp4" || x.DType != safetensors.U8 || !slices.Equal(x.Shape, []int64{2, 4, 136}) {
		t.Errorf("%+v", x)
	}
	for _, layout := range []stages.Layout{stages.LayoutRaw, stages.LayoutMarlin, stages.LayoutExllama} {
		p, err := ck.Plan(coldload.Options{Layout: layout}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s := p.Summary; s.Family != "llama.cpp" || s.Format != "gguf" || len(s.Kept) != map[bool]int{true: 0, false: 1}[layout == stages.LayoutRaw] {
			t.Errorf("%s: family %q, format %q, kept %v", layout, s.Family, s.Format, s.Kept)
		}
		for _, o := range p.Outputs {
			typ, blocks := o.Layout.BlockType()
			if (o.DType == safetensors.U8) != blocks || blocks && !slices.Contains(optest.GGUFTypes, typ) {
				t.Errorf("%s: %s in layout %q", o.Name, o.DType, o.Layout)
			}
		}
		notes(t, p.Notes, "names are those of llama.cpp", "attn_q and attn_k")
	}
	if _, err := ck.Plan(coldload.Options{Layout: stages.LayoutMarlin, Strict: true}, nil); err == nil || !strings.Contains(err.Error(), "no GGUF blocks") {
		t.Errorf("strict: %v", err)
	}
	p, err := ck.Plan(coldload.Options{Layout: stages.LayoutDequant}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range p.Outputs {
		want := map[string]stages.DType{
			"blk.0.ffn_gate_exps.weight": safetensors.BF16, "blk.0.attn_q.weight": safetensors.F16, "blk.0.attn_norm.weight": safetensors.F32,
		}
		if d, ok := want[o.Name]; ok && d != o.DType || o.Layout != stages.LayoutRaw {
			t.Errorf("%s: %s in layout %s, want %s", o.Name, o.DType, o.Layout, d)
		}
	}
}

// TestGGUFRule: a rule may ask for another dtype of dequantised blocks, and not of raw ones.
func TestGGUFRule(t *testing.T) {
	rule := ruleFunc(func(o stages.Output) stages.Rewrite {
		if o.Name == "blk.0.attn_v.weight" {
			return stages.Rewrite{DType: safetensors.F32, Name: "v"}
		}
		return stages.Rewrite{}
	})
	mem, _ := loadHost(t, ggufPaths["mix"], coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.BF16, Rules: []stages.Rule{rule}})
	want := readGGUFExpected(t)["mix"]["blk.0.attn_v.weight"]
	if x, ok := mem.Lookup("v"); !ok || x.DType != safetensors.F32 || sha(x.Bytes) != want.Values {
		t.Errorf("%+v", x.Shape)
	}
	_, err := coldload.Load(t.Context(), ggufPaths["mix"], host.New(host.Options{}), coldload.Options{Layout: stages.LayoutRaw, Rules: []stages.Rule{rule}})
	if _, ok := errors.AsType[*stages.RefusedError](err); !ok {
		t.Errorf("raw: %v", err)
	}
}

// TestGGUFPack: a packed folder of raw blocks says what they are, keeps the metadata, and verifies; and so does one that is packed from it.
func TestGGUFPack(t *testing.T) {
	for _, layout := range []stages.Layout{stages.LayoutRaw, stages.LayoutMarlin, stages.LayoutDequant} {
		dir := filepath.Join(t.TempDir(), "packed")
		if _, err := coldload.Pack(t.Context(), ggufPaths["set"], dir, coldload.Options{Layout: layout, VerifySource: true}, coldload.PackOptions{}); err != nil {
			t.Fatal(err)
		}
		res, err := coldload.Verify(t.Context(), dir, coldload.VerifyOptions{Against: ggufPaths["set"]})
		if err != nil || len(res.Differences) > 0 {
			t.Errorf("%s: %v, %+v", layout, err, res)
		}
		f, err := gguf.Open(filepath.Join(dir, "source", "metadata.gguf"))
		if err != nil {
			t.Fatal(err)
		}
		arch, _ := f.Header().Value("general.architecture")
		tokens, _ := f.Header().Value("tokenizer.ggml.tokens")
		if s, _ := arch.Text(); s != "llama" || tokens.Len != 3 || f.Header().Len() != 0 || f.Close() != nil {
			t.Errorf("metadata of %q with %d tokens", s, tokens.Len)
		}
		ck := openPath(t, dir, coldload.Options{})
		p, err := ck.Plan(coldload.Options{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		blocks := 0
		for _, o := range p.Outputs {
			if _, ok := o.Layout.BlockType(); ok {
				blocks++
			}
		}
		if want := map[bool]int{true: 0, false: 3}[layout == stages.LayoutDequant]; blocks != want {
			t.Errorf("%s: %d outputs of blocks, want %d", layout, blocks, want)
		}
		again := filepath.Join(t.TempDir(), "again")
		if _, err := coldload.Pack(t.Context(), dir, again, coldload.Options{}, coldload.PackOptions{}); err != nil {
			t.Errorf("%s: packed again: %v", layout, err)
		}
	}
}

// ggufFile is a GGUF file with the given tensors, of zeros where data has nothing for them.
func ggufFile(tb testing.TB, meta []gguf.KeyValue, data map[string][]byte, specs ...gguf.Spec) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := gguf.NewWriter(&buf, meta, specs, gguf.WriterOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	for _, s := range specs {
		n, _ := s.Size()
		b := data[s.Name]
		if b == nil {
			b = make([]byte, n)
		}
		if err := w.WriteTensor(s.Name, b); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// ggufPart is file no of a set of count with one tensor.
func ggufPart(tb testing.TB, no, count, tensors int) []byte {
	tb.Helper()
	return ggufFile(tb, []gguf.KeyValue{
		{Key: "split.no", Value: uint16(no)}, {Key: "split.count", Value: uint16(count)}, {Key: "split.tensors.count", Value: int32(tensors)},
	}, nil, gguf.Spec{Name: fmt.Sprintf("t%d.weight", no), Type: gguf.F32, Shape: []int64{1}})
}

// TestRefusedGGUF: every fault names the file or the tensor, and nothing is read.
func TestRefusedGGUF(t *testing.T) {
	one := func(typ gguf.Type, name string, shape ...int64) func(b *ckpt.Builder) string {
		return only(func(b *ckpt.Builder) {
			b.File("m.gguf", ggufFile(t, nil, nil, gguf.Spec{Name: name, Type: typ, Shape: shape}))
		})
	}
	var rows []row
	for id := range uint32(42) {
		typ := gguf.Type(id)
		if elements, _ := typ.Block(); elements > 1 && !slices.Contains(optest.GGUFTypes, typ) {
			rows = append(rows, row{
				name: "type " + typ.String(), build: one(typ, "blk.0.attn_q.weight", 2, 256), code: stages.CodeUnsupported,
				says: []string{"m.gguf", "blk.0.attn_q", typ.String(), "not supported yet", "Q4_K, Q6_K, MXFP4", "Q4_K_M"}, opt: coldload.Options{Layout: stages.LayoutRaw},
			})
		}
	}
	if len(rows) < 18 {
		t.Errorf("%d types are refused", len(rows))
	}
	good := ggufFile(t, nil, nil, gguf.Spec{Name: "a.weight", Type: gguf.Q4_0, Shape: []int64{2, 32}})
	with := func(change func(b []byte) []byte) func(b *ckpt.Builder) string {
		return only(func(b *ckpt.Builder) { b.File("m.gguf", change(bytes.Clone(good))) })
	}
	rows = append(rows,
		row{name: "blocks that are no weight", build: one(gguf.Q4_0, "a.bias", 32), code: stages.CodeUnsupported, says: []string{"a.bias", "ends in .weight"}},
		row{name: "empty file", build: only(func(b *ckpt.Builder) { b.File("m.gguf", nil) }), code: stages.CodeHeader, says: []string{"m.gguf", "too early"}},
		row{name: "truncated", build: with(func(b []byte) []byte { return b[:len(b)-40] }), code: stages.CodeHeader, says: []string{"m.gguf", "a.weight", "36 bytes"}},
		row{name: "trailing bytes", build: with(func(b []byte) []byte { return append(b, make([]byte, 64)...) }), code: stages.CodeHeader, says: []string{"after the last tensor"}},
		row{name: "version 1", build: with(func(b []byte) []byte { b[4] = 1; return b }), code: stages.CodeUnsupported, says: []string{"version is not read", "found 1", "llama.cpp"}},
		row{
			name: "big-endian", build: with(func(b []byte) []byte { copy(b[4:8], []byte{0, 0, 0, 3}); return b }), code: stages.CodeUnsupported,
			says: []string{"big-endian"},
		},
		row{name: "safetensors by another name", build: with(func([]byte) []byte { return []byte("\x02\x00\x00\x00\x00\x00\x00\x00{}") }), code: stages.CodeHeader, says: []string{"GGUF"}},
		row{
			name: "set with a wrong number", build: only(func(b *ckpt.Builder) {
				b.File("m-00001-of-00002.gguf", ggufPart(t, 0, 2, 2)).File("m-00002-of-00002.gguf", ggufPart(t, 1, 3, 2))
			}), code: stages.CodeWrongShard, says: []string{"m-00002-of-00002.gguf", "file 2 of 2", "file 2 of 3"},
		},
		row{
			name: "set in another order", build: only(func(b *ckpt.Builder) {
				b.File("m-00001-of-00002.gguf", ggufPart(t, 1, 2, 2)).File("m-00002-of-00002.gguf", ggufPart(t, 0, 2, 2))
			}), code: stages.CodeWrongShard, says: []string{"m-00001-of-00002.gguf", "file 1 of 2", "file 2 of 2"},
		},
		row{
			name: "set that lacks tensors", build: only(func(b *ckpt.Builder) {
				b.File("m-00001-of-00002.gguf", ggufPart(t, 0, 2, 3)).File("m-00002-of-00002.gguf", ggufPart(t, 1, 2, 3))
			}), code: stages.CodeMissing, says: []string{"split.tensors.count", "expected 3, found 2"},
		},
		row{
			name: "set that has a tensor twice", build: only(func(b *ckpt.Builder) {
				b.File("m-00001-of-00002.gguf", ggufPart(t, 0, 2, 2)).File("m-00002-of-00002.gguf", bytes.Replace(ggufPart(t, 1, 2, 2), []byte("t1.weight"), []byte("t0.weight"), 1))
			}), code: stages.CodeDuplicate, says: []string{"t0.weight", "m-00002-of-00002.gguf"},
		},
		row{
			name: "file of a set under a name of its own", build: only(func(b *ckpt.Builder) { b.File("m.gguf", ggufPart(t, 0, 2, 2)) }),
			code: stages.CodeMissingShard, says: []string{"m.gguf", "file 1 of 2", "NAME-00001-of-0000N.gguf"},
		},
		row{name: "file of a set is missing", build: only(func(b *ckpt.Builder) { b.File("m-00002-of-00002.gguf", ggufPart(t, 1, 2, 2)) }), code: stages.CodeMissingShard, says: []string{"m-00001-of-00002.gguf"}},
		row{
			name: "other number of experts", build: only(func(b *ckpt.Builder) {
				meta := []gguf.KeyValue{{Key: "general.architecture", Value: "x"}, {Key: "x.expert_count", Value: uint32(4)}}
				b.File("m.gguf", ggufFile(t, meta, nil, gguf.Spec{Name: "blk.0.ffn_up_exps.weight", Type: gguf.Q4_0, Shape: []int64{3, 2, 32}}))
			}), code: stages.CodeConfig, says: []string{"blk.0.ffn_up_exps", "expert_count", "[4, ", "[3, 2, 18]"},
		},
		row{
			name: "plain experts of another number", build: only(func(b *ckpt.Builder) {
				meta := []gguf.KeyValue{{Key: "general.architecture", Value: "x"}, {Key: "x.expert_count", Value: uint32(4)}}
				b.File("m.gguf", ggufFile(t, meta, nil, gguf.Spec{Name: "blk.0.ffn_up_exps.weight", Type: gguf.F16, Shape: []int64{2, 32}}))
			}), code: stages.CodeConfig, says: []string{"blk.0.ffn_up_exps", "expert_count", "[2, 32]"},
		},
		row{
			name: "strict", build: one(gguf.Q4_0, "a.weight", 2, 32), opt: coldload.Options{Layout: stages.LayoutMarlin, Strict: true}, code: stages.CodeLayout,
			says: []string{"no GGUF blocks"},
		},
	)
	refuses(t, rows)
}

// TestBrokenGGUF: what only the bytes show ends the load, and names the tensor.
func TestBrokenGGUF(t *testing.T) {
	block := func(typ gguf.Type, at int, v byte) func(b *ckpt.Builder) string {
		elements, size := typ.Block()
		data := make([]byte, 2*size)
		data[int(size)+at] = v
		return only(func(b *ckpt.Builder) {
			b.File("m.gguf", ggufFile(t, nil, map[string][]byte{"a.weight": data}, gguf.Spec{Name: "a.weight", Type: typ, Shape: []int64{2, elements}}))
		})
	}
	opt := coldload.Options{Layout: stages.LayoutDequant}
	breaks(t, []row{
		{name: "Q4_0", build: block(gguf.Q4_0, 1, 0x7C), opt: opt, says: []string{"m.gguf", "a.weight", "Q4_0 scale that is not finite", "+Inf"}},
		{name: "Q8_0", build: block(gguf.Q8_0, 1, 0x7E), opt: opt, says: []string{"a.weight", "NaN"}},
		{name: "Q4_K d", build: block(gguf.Q4K, 1, 0xFC), opt: opt, says: []string{"a.weight", "-Inf"}},
		{name: "Q4_K dmin", build: block(gguf.Q4K, 3, 0x7C), opt: opt, says: []string{"a.weight", "Q4_K scale"}},
		{name: "Q6_K", build: block(gguf.Q6K, 209, 0x7C), opt: opt, says: []string{"a.weight", "Q6_K scale"}},
		{name: "MXFP4", build: block(gguf.MXFP4, 0, 0xFF), opt: opt, says: []string{"a.weight", "MXFP4 scale", "0xFF"}},
	})
}

// TestGoodGGUF: what is read beside other files, and how models are chosen.
func TestGoodGGUF(t *testing.T) {
	small := ggufFile(t, nil, nil, gguf.Spec{Name: "a.weight", Type: gguf.F32, Shape: []int64{1}}, gguf.Spec{Name: "ids", Type: gguf.I32, Shape: []int64{2}})
	loads(t, []row{
		{
			name: "beside safetensors", build: only(func(b *ckpt.Builder) {
				b.File("m.gguf", small).Shard("model.safetensors", ckpt.Dense("x", safetensors.F32, 1, 2))
			}), check: func(got loaded) {
				got.names("x")
				notes(got.t, got.res.Notes, "1 .gguf files are not read")
			},
		},
		{
			name: "named beside others", build: func(b *ckpt.Builder) string {
				return filepath.Join(b.File("m.gguf", small).File("other.gguf", nil).File("config.json", []byte("{")).Shard("model.safetensors", ckpt.Dense("x", safetensors.F32, 1, 2)).Write(), "m.gguf")
			}, check: func(got loaded) {
				got.names("a.weight", "ids")
				got.same("ids", safetensors.I32, []int64{2}, make([]byte, 8))
				notes(got.t, got.res.Notes, "1 other .gguf files")
				notes(got.t, got.res.Notes, "config.json is not used")
			},
		},
		{
			name: "set", build: only(func(b *ckpt.Builder) {
				b.File("m-00001-of-00002.gguf", ggufPart(t, 0, 2, 2)).File("m-00002-of-00002.gguf", ggufPart(t, 1, 2, 2))
			}), check: func(got loaded) { got.names("t0.weight", "t1.weight") },
		},
	})
}

// TestSynthGGUF: the mixes of llama.cpp, in one file and in a set, load under small budgets as the formulas say.
func TestSynthGGUF(t *testing.T) {
	for _, format := range []synth.Format{synth.FormatGGUF, synth.FormatGGUFQ4_0, synth.FormatGGUFMXFP4} {
		for _, size := range []int64{0, 200_000} {
			dir := filepath.Join(t.TempDir(), "ck")
			r, err := synth.Write(t.Context(), dir, synth.Options{Model: "micro", Format: format, ShardSize: size})
			if err != nil || (r.Shards > 1) != (size > 0) {
				t.Fatalf("%s: %d shards (%v)", format, r.Shards, err)
			}
			want := ggufReference(t, dir, safetensors.BF16)
			mem, _ := loadHost(t, dir, coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.BF16, Budget: 1 << 20})
			compareGGUF(t, mem, want)
		}
	}
}

// ggufReference computes every Output of a folder, element by element: values of blocks and of floating-point numbers in dtype.
func ggufReference(t T, dir string, dtype stages.DType) map[string]host.Tensor {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.gguf"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files (%v)", err)
	}
	all := map[string]host.Tensor{}
	for _, name := range names {
		f, err := gguf.Open(name)
		if err != nil {
			t.Fatalf("%v", err)
		}
		for name, x := range f.All() {
			data := make([]byte, x.Size())
			if err := f.ReadInto(name, data); err != nil {
				t.Fatalf("%v", err)
			}
			all[name] = host.Tensor{DType: dtype, Shape: x.Shape, Bytes: ggufFloats(x.Type, data, dtype)}
		}
		if err := f.Close(); err != nil {
			t.Errorf("%v", err)
		}
	}
	return all
}

// T is what testing.T and rapid.T have in common.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// ggufFloats are the values of a tensor, rounded one by one.
func ggufFloats(typ gguf.Type, data []byte, to stages.DType) (out []byte) {
	elements, size := typ.Block()
	for ; len(data) > 0; data = data[size:] {
		for e := range int(elements) {
			var v float32
			switch typ {
			case gguf.F32:
				v = math.Float32frombits(binary.LittleEndian.Uint32(data))
			case gguf.F16:
				v = convert.F16ToF32(binary.LittleEndian.Uint16(data))
			case gguf.BF16:
				v = convert.BF16ToF32(binary.LittleEndian.Uint16(data))
			default:
				v = optest.GGUFValue(typ, data[:size], e)
			}
			switch to {
			case safetensors.F32:
				out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
			case safetensors.F16:
				out = binary.LittleEndian.AppendUint16(out, convert.F32ToF16(v))
			default:
				out = binary.LittleEndian.AppendUint16(out, convert.F32ToBF16(v))
			}
		}
	}
	return out
}

func compareGGUF(t T, mem outputs, want map[string]host.Tensor) {
	t.Helper()
	n := 0
	for name, x := range mem.All() {
		n++
		w := want[name]
		if x.DType != w.DType || !slices.Equal(x.Shape, w.Shape) || !bytes.Equal(x.Bytes, w.Bytes) {
			t.Errorf("%s: %s %v differs from the reference, %s %v", name, x.DType, x.Shape, w.DType, w.Shape)
		}
	}
	if n != len(want) {
		t.Errorf("%d outputs, want %d", n, len(want))
	}
}

// TestRandomGGUF: random tensors of all types and shapes, in one file or several, under random options and by all ways.
func TestRandomGGUF(t *testing.T) {
	types := append([]gguf.Type{gguf.F32, gguf.F16, gguf.BF16}, optest.GGUFTypes...)
	rapid.Check(t, func(rt *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		files := rapid.IntRange(1, 3).Draw(rt, "files")
		perFile := rapid.IntRange(0, 4).Draw(rt, "tensors")
		dir := t.TempDir()
		for f := range files {
			var specs []gguf.Spec
			data := map[string][]byte{}
			for i := range perFile {
				typ := rapid.SampledFrom(types).Draw(rt, "type")
				elements, size := typ.Block()
				s := gguf.Spec{Name: fmt.Sprintf("blk.%d.%d.weight", f, i), Type: typ}
				for range rapid.IntRange(0, 3).Draw(rt, "rank") {
					s.Shape = append(s.Shape, rapid.Int64Range(1, 4).Draw(rt, "dim"))
				}
				s.Shape = append(s.Shape, elements*rapid.Int64Range(1, 3).Draw(rt, "blocks"))
				n, _ := s.Size()
				if data[s.Name] = make([]byte, n); elements > 1 {
					data[s.Name] = optest.GGUFBlocks(r, typ, int(n/size))
				}
				specs = append(specs, s)
			}
			meta := []gguf.KeyValue{{Key: "general.alignment", Value: uint32(8 << rapid.IntRange(0, 4).Draw(rt, "alignment"))}}
			name := "m.gguf"
			if files > 1 {
				name = fmt.Sprintf("m-%05d-of-%05d.gguf", f+1, files)
				meta = append(meta, gguf.KeyValue{Key: "split.no", Value: uint16(f)}, gguf.KeyValue{Key: "split.count", Value: uint16(files)},
					gguf.KeyValue{Key: "split.tensors.count", Value: int32(files * perFile)})
			}
			if err := os.WriteFile(filepath.Join(dir, name), ggufFile(t, meta, data, specs...), 0o600); err != nil {
				rt.Fatal(err)
			}
		}
		opt := drawHow(rt, coldload.Options{
			Layout: stages.LayoutDequant, DType: rapid.SampledFrom([]stages.DType{safetensors.F32, safetensors.F16, safetensors.BF16}).Draw(rt, "dtype"),
		})
		want := &rndWant{outs: map[string]rndOut{}}
		for name, x := range ggufReference(rt, dir, opt.DType) {
			want.outs[name] = rndOut{x.DType, x.Shape, stages.LayoutRaw, x.Bytes}
		}
		way := "memory" // when there is nothing to pack
		if perFile > 0 {
			drawChoice(rt, &opt, want)
			way = drawWay(rt)
		}
		(&rndCase{dir, opt, way, want}).run(rt)
	})
}

// TestGGUFMissingFileAlone: what is missing of a set says nothing against the files that are there.
func TestGGUFMissingFileAlone(t *testing.T) {
	_, _, err := tryLoad(t, row{build: only(func(b *ckpt.Builder) {
		b.File("m-00001-of-00003.gguf", ggufPart(t, 0, 3, 3)).File("m-00003-of-00003.gguf", ggufPart(t, 2, 3, 3))
	})})
	refused, ok := errors.AsType[*stages.RefusedError](err)
	if !ok || len(refused.Faults) != 1 || refused.Faults[0].Code != stages.CodeMissingShard || refused.Faults[0].File != "m-00002-of-00003.gguf" {
		t.Errorf("got %v", err)
	}
}
