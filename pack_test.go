package coldload_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/file"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// packTo packs into a new folder.
func packTo(t *testing.T, path string, opt coldload.Options, popt coldload.PackOptions) (string, *coldload.PackResult) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "packed")
	res, err := coldload.Pack(t.Context(), path, dir, opt, popt)
	if err != nil {
		t.Fatal(err)
	}
	return dir, res
}

// mustVerify wants no difference.
func mustVerify(t *testing.T, dir, against string) {
	t.Helper()
	res, err := coldload.Verify(t.Context(), dir, coldload.VerifyOptions{Against: against})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range res.Differences {
		t.Errorf("verify: %s", d)
	}
	if res.Verdict.Sentence == "" {
		t.Error("verify has no verdict")
	}
	if res.Outputs == 0 || against != "" && res.Recomputed != res.Outputs {
		t.Errorf("%d outputs were hashed, %d computed again", res.Outputs, res.Recomputed)
	}
}

func sameTree(t *testing.T, got, want map[string]string) {
	t.Helper()
	names := maps.Clone(got)
	maps.Copy(names, want)
	for name := range names {
		g, okG := got[name]
		w, okW := want[name]
		if okG != okW || g != w {
			t.Errorf("%s differs: there %v with %d bytes, want %v with %d bytes", name, okG, len(g), okW, len(w))
		}
	}
}

// sameOutputs wants two results to be equal in everything.
func sameOutputs(t *testing.T, got, want *host.Memory) {
	t.Helper()
	if len(got.Outputs()) != len(want.Outputs()) {
		t.Errorf("%d outputs, want %d", len(got.Outputs()), len(want.Outputs()))
	}
	for i := range want.Outputs() {
		w := &want.Outputs()[i]
		at := slices.IndexFunc(got.Outputs(), func(o stages.Output) bool { return o.Name == w.Name })
		if at < 0 {
			t.Errorf("%s is missing", w.Name)
			continue
		}
		if g := &got.Outputs()[at]; g.DType != w.DType || !slices.Equal(g.Shape, w.Shape) || g.Layout != w.Layout || g.Kind != w.Kind {
			t.Errorf("%s: %s %v %s %s, want %s %v %s %s", w.Name, g.DType, g.Shape, g.Layout, g.Kind, w.DType, w.Shape, w.Layout, w.Kind)
		}
		g, _ := got.Lookup(w.Name)
		b, _ := want.Lookup(w.Name)
		if !bytes.Equal(g.Bytes, b.Bytes) {
			t.Errorf("%s: other bytes", w.Name)
		}
	}
}

// packable are the checkpoints and options that packing is tried with.
func packable(t *testing.T) map[string]struct {
	path string
	opt  coldload.Options
} {
	t.Helper()
	type one = struct {
		path string
		opt  coldload.Options
	}
	micro := filepath.Join(t.TempDir(), "micro")
	if _, err := synth.Write(t.Context(), micro, synth.Options{Model: "micro"}); err != nil {
		t.Fatal(err)
	}
	gptq, plain := fixturePath("gptq_moe_4b_g128_sharded"), fixturePath("plain_bf16_sharded")
	return map[string]one{
		"gptq":           {gptq, coldload.Options{}},
		"gptq bf16":      {gptq, coldload.Options{DType: safetensors.BF16}},
		"gptq raw":       {gptq, coldload.Options{Layout: stages.LayoutRaw}},
		"gptq exllama":   {gptq, coldload.Options{Layout: stages.LayoutExllama}},
		"gptq dequant":   {gptq, coldload.Options{Layout: stages.LayoutDequant}},
		"act-order":      {fixturePath("gptq_dense_4b_g128_desc_act_bias"), coldload.Options{}},
		"8 bits":         {fixturePath("gptq_dense_8b_g128"), coldload.Options{DType: safetensors.BF16}},
		"asymmetric":     {fixturePath("gptq_dense_4b_g32_asym_v2"), coldload.Options{Layout: stages.LayoutExllama}},
		"zero points":    {fixturePath("gptq_dense_4b_g32_asym_v2"), coldload.Options{DType: safetensors.BF16}},
		"awq":            {fixturePath("awq_moe_4b_g64"), coldload.Options{DType: safetensors.F16}},
		"awq raw":        {fixturePath("awq_moe_4b_g64"), coldload.Options{Layout: stages.LayoutRaw}},
		"gptq unfused":   {gptq, coldload.Options{NoFuse: true}},
		"gptq some":      {gptq, coldload.Options{Include: []string{"*.experts.*", "*norm*"}, Exclude: []string{"*.down_proj.*"}}},
		"plain":          {plain, coldload.Options{}},
		"plain f16":      {plain, coldload.Options{DType: safetensors.F16}},
		"plain raw, f32": {plain, coldload.Options{Layout: stages.LayoutRaw, DType: safetensors.F32}},
		"synth":          {micro, coldload.Options{}},
	}
}

// TestPack: what is packed verifies, and loads as the original does.
func TestPack(t *testing.T) {
	for name, c := range packable(t) {
		t.Run(name, func(t *testing.T) {
			want, _ := loadHost(t, c.path, c.opt)
			dir, res := packTo(t, c.path, c.opt, coldload.PackOptions{ShardSize: 100_000})
			if res.AlreadyComplete || res.Resumed != 0 || res.Kept != 0 || res.BytesOut() == 0 {
				t.Errorf("result %+v", res)
			}
			mustVerify(t, dir, "")
			mustVerify(t, dir, c.path)
			got, _ := loadHost(t, dir, coldload.Options{})
			sameOutputs(t, got, want)
			if shards, err := filepath.Glob(filepath.Join(dir, "model-*-of-*.safetensors")); err != nil || len(shards) < 2 {
				t.Errorf("shards %q", shards)
			}

			// The same options are taken; the same folder is no work; packing what is packed changes nothing but the shards.
			same := c.opt
			same.Include, same.Exclude = nil, nil
			got, _ = loadHost(t, dir, same)
			sameOutputs(t, got, want)
			again, err := coldload.Pack(t.Context(), c.path, dir, c.opt, coldload.PackOptions{ShardSize: 100_000})
			if err != nil || !again.AlreadyComplete {
				t.Errorf("again: %v, %+v", err, again)
			}
			second, _ := packTo(t, dir, coldload.Options{}, coldload.PackOptions{})
			mustVerify(t, second, "")
			mustVerify(t, second, dir)
			got, _ = loadHost(t, second, coldload.Options{})
			sameOutputs(t, got, want)
			config, err := os.ReadFile(filepath.Join(dir, "config.json"))
			if err != nil || ckpt.Tree(t, second)["config.json"] != string(config) {
				t.Errorf("config.json changed when packed again: %v", err)
			}
		})
	}
}

// TestPackIsDeterministic: equal inputs and options give equal folders.
func TestPackIsDeterministic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	if _, err := synth.Write(t.Context(), path, synth.Options{Model: "micro"}); err != nil {
		t.Fatal(err)
	}
	popt := coldload.PackOptions{ShardSize: 1 << 20, PlainDigests: true}
	first, _ := packTo(t, path, coldload.Options{VerifySource: true}, popt)
	want := ckpt.Tree(t, first)
	for label, opt := range variants() {
		t.Run(label, func(t *testing.T) {
			opt.Budget, opt.VerifySource = max(opt.Budget, 8<<20), true
			dir, _ := packTo(t, path, opt, popt)
			sameTree(t, ckpt.Tree(t, dir), want)
		})
	}
	t.Run("another place", func(t *testing.T) {
		moved := filepath.Join(t.TempDir(), "moved")
		if err := os.CopyFS(moved, os.DirFS(path)); err != nil {
			t.Fatal(err)
		}
		dir, _ := packTo(t, moved, coldload.Options{VerifySource: true}, popt)
		sameTree(t, ckpt.Tree(t, dir), want)
	})
}

// TestPackHashesApart: every Slab is hashed in the stage before the upload, which follows the phases in the result.
func TestPackHashesApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	if _, err := synth.Write(t.Context(), path, synth.Options{Model: "micro"}); err != nil {
		t.Fatal(err)
	}
	_, res := packTo(t, path, coldload.Options{}, coldload.PackOptions{})
	upload, last := res.Phases[stages.PhaseUpload], res.Phases[len(res.Phases)-1]
	if last.Name != "digest" || last.Items != upload.Items || last.BytesIn != res.BytesOut() || last.Items == 0 || last.Busy == 0 {
		t.Errorf("hashed %+v, uploaded %+v", last, upload)
	}
}

// TestPackedConfig: config.json says what the weights are now.
func TestPackedConfig(t *testing.T) {
	config := func(path string, opt coldload.Options) (o map[string]any, files map[string]string) {
		dir, _ := packTo(t, path, opt, coldload.PackOptions{})
		files = ckpt.Tree(t, dir)
		if err := json.Unmarshal([]byte(files["config.json"]), &o); err != nil {
			t.Fatal(err)
		}
		return o, files
	}
	gptq, plain := fixturePath("gptq_moe_4b_g128_sharded"), fixturePath("plain_bf16_sharded")
	source := ckpt.Tree(t, gptq)

	o, files := config(gptq, coldload.Options{})
	q, _ := o["quantization_config"].(map[string]any)
	from, _ := q["source"].(map[string]any)
	if q["quant_method"] != "coldload" || q["coldload_layout"] != "marlin" || from["quant_method"] != "gptq" || from["bits"] != 4.0 {
		t.Errorf("quantization_config: %v", q)
	}
	if files["quantize_config.json"] != "" || files["source/quantize_config.json"] != source["quantize_config.json"] {
		t.Error("quantize_config.json was not moved as it is")
	}
	if o, _ = config(gptq, coldload.Options{DType: safetensors.F16}); o["dtype"] != "float16" {
		t.Errorf("dtype %v", o["dtype"])
	}
	_, files = config(gptq, coldload.Options{Layout: stages.LayoutRaw})
	if files["config.json"] != source["config.json"] || files["quantize_config.json"] != source["quantize_config.json"] {
		t.Error("raw changed a config")
	}
	o, files = config(gptq, coldload.Options{Layout: stages.LayoutDequant})
	if _, there := o["quantization_config"]; there || o["dtype"] != "bfloat16" || files["source/quantize_config.json"] != source["quantize_config.json"] {
		t.Errorf("dequantised: %v", o)
	}
	o, _ = config(gptq, coldload.Options{Layout: stages.LayoutDequant, DType: safetensors.F32})
	if o["dtype"] != "float32" {
		t.Errorf("dequantised to F32: %v", o["dtype"])
	}
	o, _ = config(gptq, coldload.Options{Layout: stages.LayoutExllama})
	if q, _ = o["quantization_config"].(map[string]any); q["coldload_layout"] != "exllama" {
		t.Errorf("exllama: %v", q)
	}
	unnamed := filepath.Join(t.TempDir(), "unnamed")
	if err := os.CopyFS(unnamed, os.DirFS(gptq)); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(source["config.json"], `"dtype": "bfloat16"`, `"some": "thing"`, 1)
	if err := os.WriteFile(filepath.Join(unnamed, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if o, _ = config(unnamed, coldload.Options{Layout: stages.LayoutDequant}); o["torch_dtype"] != "float16" {
		t.Errorf("dequantised to the dtype of the scales: %v", o["torch_dtype"])
	}
	if _, files = config(plain, coldload.Options{}); files["config.json"] != ckpt.Tree(t, plain)["config.json"] {
		t.Error("what is not quantised has another config")
	}
	if o, _ = config(plain, coldload.Options{DType: safetensors.F16}); o["dtype"] != "float16" && o["torch_dtype"] != "float16" {
		t.Errorf("cast: %v", o)
	}
}

// TestPackCarries: the checkpoint's other files go along, and what does not is told.
func TestPackCarries(t *testing.T) {
	b := ckpt.New(t).Shard("model.safetensors", ckpt.Dense("w", safetensors.BF16, 1, 64)).
		File("config.json", []byte(`{"model_type": "llama"}`)).File("tokenizer.json", []byte("tok")).File("README.md", []byte("# x")).
		File("onnx/model.json", []byte("1"))
	path := b.Write()
	dir, res := packTo(t, path, coldload.Options{}, coldload.PackOptions{})
	files := ckpt.Tree(t, dir)
	for name, want := range map[string]string{"config.json": `{"model_type": "llama"}`, "tokenizer.json": "tok", "README.md": "# x"} {
		if files[name] != want {
			t.Errorf("%s: %q", name, files[name])
		}
	}
	if len(files) != 6 || !slices.ContainsFunc(res.Notes, func(n string) bool { return strings.Contains(n, "onnx") }) {
		t.Errorf("files %q, notes %q", slices.Sorted(maps.Keys(files)), res.Notes)
	}
}

// TestPackedFolderRefuses: what a packed folder cannot give, and folders that are not whole.
func TestPackedFolderRefuses(t *testing.T) {
	gptq := fixturePath("gptq_moe_4b_g128_sharded")
	good, _ := packTo(t, gptq, coldload.Options{}, coldload.PackOptions{ShardSize: 300_000})
	for _, c := range []struct {
		name  string
		spoil func(dir string) (path string, err error)
		opt   coldload.Options
		code  stages.Code
		says  string
	}{
		{"another layout", nil, coldload.Options{Layout: stages.LayoutRaw}, stages.CodeLayout, "another layout"},
		{"another dtype", nil, coldload.Options{DType: safetensors.BF16}, stages.CodeLayout, "another dtype"},
		{"not fused", nil, coldload.Options{NoFuse: true}, stages.CodeLayout, "fusion"},
		{"no manifest", func(dir string) (string, error) { return dir, os.Remove(filepath.Join(dir, "coldload.json")) }, coldload.Options{}, stages.CodeMissing, "coldload.json is not there"},
		{"no manifest, no shard says so", func(dir string) (string, error) {
			return dir, errors.Join(os.Remove(filepath.Join(dir, "coldload.json")), unmark(dir))
		}, coldload.Options{}, stages.CodeMissing, "coldload.json is not there"},
		{"half written", func(dir string) (string, error) {
			return dir, errors.Join(os.Remove(filepath.Join(dir, "coldload.json")), os.Remove(filepath.Join(dir, "model.safetensors.index.json")), os.Remove(filepath.Join(dir, "config.json")))
		}, coldload.Options{}, stages.CodeMissing, "not complete"},
		{"one shard", func(dir string) (string, error) { return filepath.Join(dir, "model-00001-of-00004.safetensors"), nil }, coldload.Options{}, stages.CodeUnsupported, "one shard of a packed folder"},
		{"a flipped bit in the manifest", func(dir string) (string, error) { return dir, flip(filepath.Join(dir, "coldload.json"), 100) }, coldload.Options{}, "manifest", "coldload.json"},
		{"a manifest of another folder", func(dir string) (string, error) {
			other, _ := packTo(t, fixturePath("plain_bf16_sharded"), coldload.Options{}, coldload.PackOptions{})
			data, err := os.ReadFile(filepath.Join(other, "coldload.json"))
			return dir, errors.Join(err, os.WriteFile(filepath.Join(dir, "coldload.json"), data, 0o600))
		}, coldload.Options{}, "manifest", "is not in the manifest"},
		{"shards of another pack", func(dir string) (string, error) {
			other, _ := packTo(t, gptq, coldload.Options{DType: safetensors.BF16}, coldload.PackOptions{ShardSize: 300_000})
			data, err := os.ReadFile(filepath.Join(other, "coldload.json"))
			return dir, errors.Join(err, os.WriteFile(filepath.Join(dir, "coldload.json"), data, 0o600))
		}, coldload.Options{}, "manifest", "the header does not say what the manifest says"},
		{"a manifest that is a folder", func(dir string) (string, error) {
			name := filepath.Join(dir, "coldload.json")
			return dir, errors.Join(os.Remove(name), os.Mkdir(name, 0o755))
		}, coldload.Options{}, stages.CodeNotFound, "coldload.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := good
			if c.spoil != nil {
				path = filepath.Join(t.TempDir(), "spoilt")
				if err := os.CopyFS(path, os.DirFS(good)); err != nil {
					t.Fatal(err)
				}
				var err error
				if path, err = c.spoil(path); err != nil {
					t.Fatal(err)
				}
			}
			_, err := coldload.Load(t.Context(), path, host.New(host.Options{}), c.opt)
			refused, ok := errors.AsType[*stages.RefusedError](err)
			if !ok || !hasFault(refused, c.code, []string{c.says}) {
				t.Errorf("error %v, want a fault %q that says %q", err, c.code, c.says)
			}
		})
	}
}

// unmark takes the mark of packing out of every header, at equal length.
func unmark(dir string) error {
	shards, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	for _, name := range shards {
		data, rerr := os.ReadFile(name)
		err = errors.Join(err, rerr, os.WriteFile(name, bytes.Replace(data, []byte("coldload.layout"), []byte("another..layout"), 1), 0o600))
	}
	return err
}

func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	b[0] ^= 4
	_, werr := f.WriteAt(b[:], at)
	return errors.Join(err, werr, f.Close())
}

// TestPackTellsCheckpointsApart: two checkpoints with equal headers are not the same work.
func TestPackTellsCheckpointsApart(t *testing.T) {
	write := func(seed uint64) string {
		path := filepath.Join(t.TempDir(), "checkpoint")
		if _, err := synth.Write(t.Context(), path, synth.Options{Model: "micro", Seed: seed}); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b := write(1), write(2)
	dir, _ := packTo(t, a, coldload.Options{}, coldload.PackOptions{})
	if _, err := coldload.Pack(t.Context(), b, dir, coldload.Options{}, coldload.PackOptions{}); !errors.Is(err, file.ErrTargetExists) {
		t.Errorf("another checkpoint: %v", err)
	}
	if _, err := coldload.Pack(t.Context(), a, dir, coldload.Options{DType: safetensors.BF16}, coldload.PackOptions{}); !errors.Is(err, file.ErrTarget) {
		t.Errorf("other options: %v", err)
	}
	mustVerify(t, dir, a)
	res, err := coldload.Pack(t.Context(), b, dir, coldload.Options{}, coldload.PackOptions{Overwrite: true})
	if err != nil || res.AlreadyComplete {
		t.Errorf("overwrite: %v", err)
	}
	mustVerify(t, dir, b)
	v, err := coldload.Verify(t.Context(), dir, coldload.VerifyOptions{Against: a})
	if err != nil || len(v.Differences) == 0 || v.Differences[0].Kind != "differs" || v.Differences[0].Output == "" {
		t.Errorf("against another checkpoint: %v, %v", err, v.Differences)
	}
	if v, err = coldload.Verify(t.Context(), dir, coldload.VerifyOptions{Against: fixturePath("plain_bf16_sharded")}); err != nil {
		t.Fatal(err)
	}
	kinds := map[string]bool{}
	for _, d := range v.Differences {
		kinds[string(d.Kind)] = true
	}
	if !kinds["missing"] || !kinds["extra"] || len(v.Notes) == 0 {
		t.Errorf("against another model: %v, notes %q", kinds, v.Notes)
	}
}

// stopAt ends a pack when so much is written.
func stopAt(t *testing.T, path, dir string, opt coldload.Options, part float64) *coldload.PackResult {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opt.Progress = func(p coldload.Progress) {
		if float64(p.Written) >= part*float64(p.Total) {
			cancel()
		}
	}
	res, err := coldload.Pack(ctx, path, dir, opt, coldload.PackOptions{ShardSize: 4 << 20})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want the end of the context", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the target is there")
	}
	return res
}

// TestPackResumes: a pack that was stopped at 70 % goes on, reads at most 45 % again, and makes the same folder.
func TestPackResumes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	if _, err := synth.Write(t.Context(), path, synth.Options{Model: "tiny-moe", Layers: 2, ShardSize: 32 << 20}); err != nil {
		t.Fatal(err)
	}
	opt := coldload.Options{Budget: 32 << 20}
	undisturbed, _ := packTo(t, path, opt, coldload.PackOptions{ShardSize: 4 << 20})
	want := ckpt.Tree(t, undisturbed)
	dir := filepath.Join(t.TempDir(), "packed")
	kept := stopAt(t, path, dir, opt, 0.7).Kept
	res, err := coldload.Pack(t.Context(), path, dir, opt, coldload.PackOptions{ShardSize: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	read := res.Phases[stages.PhaseFetch].BytesIn
	if res.Resumed != kept || kept == 0 || float64(read) > 0.45*float64(res.Plan.Summary.BytesIn) {
		t.Errorf("%d bytes were kept, %d taken over, %d of %d read again", kept, res.Resumed, read, res.Plan.Summary.BytesIn)
	}
	sameTree(t, ckpt.Tree(t, dir), want)
	mustVerify(t, dir, path)

	t.Run("sources that changed", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "packed")
		stopAt(t, path, dir, opt, 0.5)
		shards, err := filepath.Glob(filepath.Join(path, "*.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(shards[0], time.Time{}, time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		res, err := coldload.Pack(t.Context(), path, dir, opt, coldload.PackOptions{ShardSize: 4 << 20})
		if err != nil || res.Resumed != 0 {
			t.Errorf("%v; %d bytes taken over from files that may be others", err, res.Resumed)
		}
		if !slices.ContainsFunc(res.Notes, func(n string) bool { return strings.Contains(n, "starting afresh") }) {
			t.Errorf("notes %q", res.Notes)
		}
		sameTree(t, ckpt.Tree(t, dir), want)
	})
}

// TestVerifySource: the SHA-256 of source files in the manifest, and a download that is not what the hub has.
func TestVerifySource(t *testing.T) {
	cache := t.TempDir()
	src := fixturePath("plain_bf16_sharded")
	const commit = "0123456789abcdef0123456789abcdef01234567"
	repo := filepath.Join(cache, "models--org--name")
	snapshot := filepath.Join(repo, "snapshots", commit)
	for _, d := range []string{snapshot, filepath.Join(repo, "blobs"), filepath.Join(repo, "refs")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sums := map[string]string{}
	for name, data := range ckpt.Tree(t, src) {
		sum := sha256.Sum256([]byte(data))
		sums[name] = hex.EncodeToString(sum[:])
		blob := filepath.Join(repo, "blobs", sums[name])
		if err := errors.Join(os.WriteFile(blob, []byte(data), 0o600), os.Symlink("../../blobs/"+sums[name], filepath.Join(snapshot, name))); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(repo, "refs", "main"), []byte(commit), 0o600); err != nil {
		t.Fatal(err)
	}
	var hashed, total int64
	opt := coldload.Options{HubCache: cache, VerifySource: true, Hashed: func(d, n int64) { hashed, total = max(hashed, d), n }}
	dir, res := packTo(t, "org/name", opt, coldload.PackOptions{})
	var manifest struct {
		Sources []struct{ Name, ETag, SHA256 string }
	}
	if err := json.Unmarshal([]byte(ckpt.Tree(t, dir)["coldload.json"]), &manifest); err != nil {
		t.Fatal(err)
	}
	for _, s := range manifest.Sources {
		if s.SHA256 != sums[s.Name] || s.ETag != sums[s.Name] {
			t.Errorf("%s: sha256 %s, etag %s, want %s", s.Name, s.SHA256, s.ETag, sums[s.Name])
		}
	}
	if last := res.Phases[stages.PhaseCommit+1]; len(manifest.Sources) == 0 || hashed != total || total == 0 || last.Name != "verify source" || last.BytesIn != total {
		t.Errorf("%d sources, %d of %d bytes hashed, phase %+v", len(manifest.Sources), hashed, total, last)
	}

	loaded, err := coldload.Load(t.Context(), "org/name", discard.New(), opt)
	if err != nil || loaded.Phases[stages.PhaseCommit+1].BytesIn != total {
		t.Errorf("load: %v, phases %+v", err, loaded.Phases)
	}

	name := manifest.Sources[0].Name
	if err := flip(filepath.Join(snapshot, name), 5000); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(t.TempDir(), "bad")
	sink := host.New(host.Options{})
	_, packErr := coldload.Pack(t.Context(), "org/name", bad, opt, coldload.PackOptions{})
	_, loadErr := coldload.Load(t.Context(), "org/name", sink, opt)
	for _, err := range []error{packErr, loadErr} {
		data, ok := errors.AsType[*stages.DataError](err)
		if !ok || data.File != name || !strings.Contains(err.Error(), "is not the file that was downloaded") {
			t.Errorf("error %v", err)
		}
	}
	if sink.Memory() != nil {
		t.Error("there is a result")
	}
	if left, _ := os.ReadDir(filepath.Dir(bad)); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// TestPackStages: a stage of one's own changes what is packed, and nobody else can compute it again.
func TestPackStages(t *testing.T) {
	src := fixturePath("plain_bf16_sharded")
	opt := coldload.Options{Stages: []coldload.Insert{{After: stages.PhaseRepack, Stage: zeros{}}}}
	dir, _ := packTo(t, src, opt, coldload.PackOptions{})
	mustVerify(t, dir, "")
	mem, _ := loadHost(t, dir, coldload.Options{})
	for name, tensor := range mem.All() {
		if len(bytes.Trim(tensor.Bytes, "\x00")) > 0 {
			t.Errorf("%s was not changed", name)
		}
	}
	if _, err := coldload.Verify(t.Context(), dir, coldload.VerifyOptions{Against: src}); !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("against without the stage: %v", err)
	}
	res, err := coldload.Verify(t.Context(), dir, coldload.VerifyOptions{Against: src, Load: opt})
	if err != nil || len(res.Differences) > 0 || res.Recomputed == 0 {
		t.Errorf("against with the stage: %v, %v", err, res.Differences)
	}
}

// zeros is a stage that clears every Output.
type zeros struct{}

func (zeros) Name() string { return "zeros" }

func (zeros) Process(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
	for _, d := range b.Dst {
		clear(d)
	}
	return b, nil
}

// TestIncludeExclude: what is left out is neither read nor made, and nothing left is an error.
func TestIncludeExclude(t *testing.T) {
	src := fixturePath("gptq_moe_4b_g128_sharded")
	all, _ := loadHost(t, src, coldload.Options{})
	for _, c := range []struct {
		include, exclude []string
		wants            func(name string) bool
	}{
		{[]string{"*.experts.*"}, nil, func(n string) bool { return strings.Contains(n, ".experts.") }},
		{nil, []string{"*.experts.*", "*norm*"}, func(n string) bool { return !strings.Contains(n, ".experts.") && !strings.Contains(n, "norm") }},
		{[]string{"model.embed_tokens.weight", "*.scales"}, []string{"*qkv*"}, func(n string) bool {
			return n == "model.embed_tokens.weight" || strings.HasSuffix(n, ".scales") && !strings.Contains(n, "qkv")
		}},
		{[]string{"*"}, nil, func(string) bool { return true }},
	} {
		t.Run(fmt.Sprint(c.include, c.exclude), func(t *testing.T) {
			mem, res := loadHost(t, src, coldload.Options{Include: c.include, Exclude: c.exclude})
			left := 0
			for _, o := range all.Outputs() {
				got, ok := mem.Lookup(o.Name)
				want, _ := all.Lookup(o.Name)
				if ok != c.wants(o.Name) || ok && !bytes.Equal(got.Bytes, want.Bytes) {
					t.Errorf("%s: there %v", o.Name, ok)
				}
				if !ok {
					left++
				}
			}
			s := res.Plan.Summary
			if s.LeftOut != left || left > 0 && res.Phases[stages.PhaseFetch].BytesIn >= s.BytesIn {
				t.Errorf("%d left out, want %d; %d of %d bytes read", s.LeftOut, left, res.Phases[stages.PhaseFetch].BytesIn, s.BytesIn)
			}
		})
	}
	for _, opt := range []coldload.Options{{Include: []string{"nothing"}}, {Exclude: []string{"*"}}, {Include: []string{"[a"}}} {
		if _, err := coldload.Load(t.Context(), src, host.New(host.Options{}), opt); !errors.Is(err, coldload.ErrOptions) {
			t.Errorf("%q, %q: %v", opt.Include, opt.Exclude, err)
		}
	}
}

// TestPackAgainLooksAtWhatIsThere: a damaged packed folder is not packed again, since the new manifest would vouch for the damage.
func TestPackAgainLooksAtWhatIsThere(t *testing.T) {
	dir, _ := packTo(t, fixturePath("plain_bf16_sharded"), coldload.Options{}, coldload.PackOptions{})
	shards, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(shards[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := flip(shards[0], st.Size()-3); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "again")
	_, err = coldload.Pack(t.Context(), dir, to, coldload.Options{}, coldload.PackOptions{})
	data, ok := errors.AsType[*stages.DataError](err)
	if !ok || data.File != filepath.Base(shards[0]) || data.Tensor == "" || !strings.Contains(err.Error(), "not as it was packed") {
		t.Errorf("error %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(to)); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
}

// TestPackNothing: a checkpoint without tensors is not worth a folder.
func TestPackNothing(t *testing.T) {
	path := ckpt.New(t).RawShard("model.safetensors", `{}`, nil).Write()
	_, err := coldload.Pack(t.Context(), path, filepath.Join(t.TempDir(), "x"), coldload.Options{}, coldload.PackOptions{})
	if refused, ok := errors.AsType[*stages.RefusedError](err); !ok || !strings.Contains(refused.Error(), "nothing to pack") {
		t.Errorf("error %v", err)
	}
}

// TestPackedFolderInTheHub: a packed folder that was uploaded and downloaded again is links in a cache. It loads and verifies by its name and
// by its path, and a link out of the cache does neither.
func TestPackedFolderInTheHub(t *testing.T) {
	dir, _ := packTo(t, fixturePath("gptq_moe_4b_g128_sharded"), coldload.Options{}, coldload.PackOptions{ShardSize: 300_000})
	cache := t.TempDir()
	const commit = "0123456789abcdef0123456789abcdef01234567"
	repo := filepath.Join(cache, "models--org--packed")
	snapshot := filepath.Join(repo, "snapshots", commit)
	for name, data := range ckpt.Tree(t, dir) {
		sum := sha256.Sum256([]byte(data))
		blob := filepath.Join(repo, "blobs", hex.EncodeToString(sum[:]))
		link := filepath.Join(snapshot, name)
		target, err := filepath.Rel(filepath.Dir(link), blob)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(blob), 0o755), os.MkdirAll(filepath.Dir(link), 0o755),
			os.WriteFile(blob, []byte(data), 0o600), os.Symlink(target, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(repo, "refs"), 0o755), os.WriteFile(filepath.Join(repo, "refs", "main"), []byte(commit), 0o600)); err != nil {
		t.Fatal(err)
	}
	want, _ := loadHost(t, dir, coldload.Options{})
	for _, name := range []string{"org/packed", snapshot} {
		opt := coldload.Options{HubCache: cache}
		got, _ := loadHost(t, name, opt)
		sameOutputs(t, got, want)
		res, err := coldload.Verify(t.Context(), name, coldload.VerifyOptions{Load: opt})
		if err != nil || len(res.Differences) > 0 || res.Outputs != len(want.Outputs()) {
			t.Errorf("%s: %v, %v", name, err, res.Differences)
		}
	}
	outside := filepath.Join(t.TempDir(), "config.json")
	config := filepath.Join(snapshot, "config.json")
	if err := errors.Join(os.WriteFile(outside, []byte(ckpt.Tree(t, dir)["config.json"]), 0o600), os.Remove(config), os.Symlink(outside, config)); err != nil {
		t.Fatal(err)
	}
	res, err := coldload.Verify(t.Context(), snapshot, coldload.VerifyOptions{})
	if err != nil || len(res.Differences) != 1 || res.Differences[0].File != "config.json" || !strings.Contains(res.Differences[0].Detail, "leaves the trusted folder") {
		t.Errorf("a link out of the cache: %v, %v", err, res.Differences)
	}
}

// TestVerifyDoesNotBlock: a pipe in place of any file is told, not waited for.
func TestVerifyDoesNotBlock(t *testing.T) {
	good, _ := packTo(t, fixturePath("plain_bf16_sharded"), coldload.Options{}, coldload.PackOptions{})
	for name := range ckpt.Tree(t, good) {
		dir := filepath.Join(t.TempDir(), "spoilt")
		path := filepath.Join(dir, name)
		if err := errors.Join(os.CopyFS(dir, os.DirFS(good)), os.Remove(path), syscall.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		res, err := coldload.Verify(ctx, dir, coldload.VerifyOptions{})
		cancel()
		if err != nil || !slices.ContainsFunc(res.Differences, func(d coldload.Difference) bool { return d.File == name && d.Kind == "damaged" }) {
			t.Errorf("%s: %v, %v", name, err, res.Differences)
		}
	}
}
