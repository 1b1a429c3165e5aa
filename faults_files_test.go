package coldload_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const (
	shard1 = "model-00001-of-00002.safetensors"
	shard2 = "model-00002-of-00002.safetensors"
	single = "model.safetensors"
	index  = "model.safetensors.index.json"
)

func u8(name, data string) ckpt.T {
	return ckpt.T{Name: name, DType: safetensors.U8, Shape: []int64{int64(len(data))}, Data: []byte(data)}
}

// pair is a good checkpoint of two Shards, without an index.
func pair(b *ckpt.Builder) {
	b.Shard(shard1, u8("a", "one"), u8("b", "two")).Shard(shard2, u8("c", "three"))
}

// pairWith is the pair with this weight_map: the good one, changed.
func pairWith(change func(m map[string]string)) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) {
		pair(b)
		m := b.WeightMap()
		change(m)
		b.Index(m)
	})
}

// mapped is a build with "a" mapped to this file.
func mapped(file string) func(b *ckpt.Builder) string {
	return pairWith(func(m map[string]string) { m["a"] = file })
}

// raw is a build of one file with this header.
func rawHeader(header, data string) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) { b.RawShard(single, header, []byte(data)) })
}

// rawFile is a build of one file with these bytes.
func rawFile(data []byte) func(b *ckpt.Builder) string {
	return only(func(b *ckpt.Builder) { b.File(single, data) })
}

// withLength is the start of a file that says how long its header is.
func withLength(n uint64, rest string) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, n), rest...)
}

func TestShardFaults(t *testing.T) {
	refuses(t, []row{
		{
			name: "missing shard", code: stages.CodeMissingShard, says: []string{"model-00003-of-00003.safetensors", "missing"},
			build: mapped("model-00003-of-00003.safetensors"),
		},
		{
			name: "missing shard of a set without index", code: stages.CodeMissingShard, says: []string{shard2},
			build: only(func(b *ckpt.Builder) { b.Shard(shard1, u8("a", "one")) }),
		},
		{
			name: "shard is a folder", code: stages.CodeShard, says: []string{shard2, "a regular file", "a folder"},
			build: only(func(b *ckpt.Builder) {
				b.Shard(shard1, u8("a", "one")).File(shard2+"/x", nil).Index(map[string]string{"a": shard1, "c": shard2})
			}),
		},
		{
			name: "index is not JSON", code: stages.CodeIndex, says: []string{index, "byte"},
			build: only(func(b *ckpt.Builder) { pair(b); b.File(index, []byte(`{"weight_map":{"a":`)) }),
		},
		{
			name: "index without weight_map", code: stages.CodeIndex, says: []string{index, "weight_map"},
			build: only(func(b *ckpt.Builder) { pair(b); b.File(index, []byte(`{"metadata":{}}`)) }),
		},
		{
			name: "empty weight_map", code: stages.CodeIndex, says: []string{index, "weight_map is empty"},
			build: only(func(b *ckpt.Builder) { pair(b); b.Index(map[string]string{}) }),
		},
		{
			name: "index names a tensor twice", code: stages.CodeIndex, says: []string{index, "a", "twice"},
			build: only(func(b *ckpt.Builder) {
				pair(b)
				b.File(index, []byte(`{"weight_map":{"a":"`+shard1+`","b":"`+shard1+`","c":"`+shard2+`","\u0061":"`+shard1+`"}}`))
			}),
		},
		{
			name: "tensor in the index and in no header", code: stages.CodeMissing, says: []string{"ghost", "it in " + shard2, "it in no shard"},
			build: pairWith(func(m map[string]string) { m["ghost"] = shard2 }),
		},
		{
			name: "tensor in a header and not in the index", code: stages.CodeExtra, says: []string{shard1, "b", "not in the index"},
			build: pairWith(func(m map[string]string) { delete(m, "b") }),
		},
		{
			name: "tensor in another shard than the index says", code: stages.CodeWrongShard, says: []string{shard1, "a", "it in " + shard2, "it in " + shard1},
			build: mapped(shard2),
		},
		{
			name: "tensor in two shards, with an index", code: stages.CodeDuplicate, says: []string{"a", shard1, shard2},
			build: only(func(b *ckpt.Builder) {
				b.Shard(shard1, u8("a", "one")).Shard(shard2, u8("a", "two"), u8("c", "x")).Index(map[string]string{"a": shard1, "c": shard2})
			}),
		},
		{
			name: "tensor in two shards, without an index", code: stages.CodeDuplicate, says: []string{"a", "only in " + shard1, "also in " + shard2, "remove"},
			build: only(func(b *ckpt.Builder) { b.Shard(shard1, u8("a", "one")).Shard(shard2, u8("a", "two")) }),
		},
		{
			name: "single file that disagrees with the index", code: stages.CodeAmbiguous, says: []string{single, index, "a"},
			build: only(func(b *ckpt.Builder) { pair(b); b.AutoIndex().Shard(single, u8("a", "one"), u8("z", "two")) }),
		},
		{
			name: "single file that lacks tensors of the index", code: stages.CodeAmbiguous, says: []string{single, "1 tensors where the index has 3"},
			build: only(func(b *ckpt.Builder) { pair(b); b.AutoIndex().Shard(single, u8("a", "one")) }),
		},
		{
			name: "single file that is damaged beside an index", code: stages.CodeAmbiguous, says: []string{single, index},
			build: only(func(b *ckpt.Builder) { pair(b); b.AutoIndex().File(single, []byte("junk")) }),
		},
		{
			name: "single file and an index without its shards", code: stages.CodeAmbiguous, says: []string{single, index},
			build: only(func(b *ckpt.Builder) { b.Shard(single, u8("a", "one")).Index(map[string]string{"a": shard1}) }),
		},
		{
			name: "several files and nothing that joins them", code: stages.CodeAmbiguous, says: []string{"x.safetensors", "y.safetensors"},
			build: only(func(b *ckpt.Builder) { b.Shard("x.safetensors", u8("a", "one")).Shard("y.safetensors", u8("b", "two")) }),
		},
		{name: "empty folder", code: stages.CodeNotFound, says: []string{"empty"}, build: func(b *ckpt.Builder) string { return b.Write() }},
		{name: "no weights", code: stages.CodeNotFound, says: []string{"no weights", "README"}, build: only(func(b *ckpt.Builder) { b.File("README", nil) })},
		{name: "other weights", code: stages.CodeUnsupported, says: []string{"model.pt"}, build: only(func(b *ckpt.Builder) { b.File("model.pt", nil) })},
		{name: "config is not JSON", code: stages.CodeConfig, says: []string{"config.json", "not valid JSON", "byte"}, build: only(func(b *ckpt.Builder) {
			b.Shard(single, u8("a", "one")).File("config.json", []byte(`{"model_type": "llama",`))
		})},
		{name: "config is empty", code: stages.CodeConfig, says: []string{"config.json"}, build: only(func(b *ckpt.Builder) {
			b.Shard(single, u8("a", "one")).File("config.json", nil)
		})},
		{name: "config says a key twice", code: stages.CodeConfig, says: []string{"config.json", "model_type", "twice"}, build: only(func(b *ckpt.Builder) {
			b.Shard(single, u8("a", "one")).File("config.json", []byte(`{"model_type":"llama","model_type":"qwen2"}`))
		})},
		{name: "config is an array", code: stages.CodeConfig, says: []string{"config.json"}, build: only(func(b *ckpt.Builder) {
			b.Shard(single, u8("a", "one")).File("config.json", []byte(`[]`))
		})},
	})
}

// TestPathsThatLeave: no file outside of the folder is opened.
func TestPathsThatLeave(t *testing.T) {
	outside := func(b *ckpt.Builder) string {
		secret := ckpt.New(t).Shard(shard2, u8("c", "three")).Write()
		b.Shard(shard1, u8("a", "one"), u8("b", "two")).Symlink(shard2, filepath.Join(secret, shard2))
		b.Index(map[string]string{"a": shard1, "b": shard1, "c": shard2})
		return ""
	}
	refuses(t, []row{
		{name: "parent", code: stages.CodeEscape, says: []string{index, "../x.safetensors"}, build: mapped("../x.safetensors")},
		{name: "absolute", code: stages.CodeEscape, says: []string{index, "/etc/passwd"}, build: mapped("/etc/passwd")},
		{name: "below", code: stages.CodeEscape, says: []string{index, "a/b.safetensors"}, build: mapped("a/b.safetensors")},
		{name: "dot dot", code: stages.CodeEscape, says: []string{index}, build: mapped("..")},
		{name: "backslash", code: stages.CodeEscape, says: []string{index}, build: mapped(`a\b.safetensors`)},
		{name: "empty", code: stages.CodeIndex, says: []string{index}, build: mapped("")},
		{name: "NUL", code: stages.CodeIndex, says: []string{index}, build: mapped("model\x00.safetensors")},
		{name: "link out of the folder", code: stages.CodeEscape, says: []string{shard2, "link"}, build: outside},
		{name: "relative link out of the folder", code: stages.CodeEscape, says: []string{single, "link"}, build: only(func(b *ckpt.Builder) {
			b.Symlink(single, "../../../../../../etc/passwd")
		})},
		{name: "link to nothing", code: stages.CodeMissingShard, says: []string{single, "link"}, build: only(func(b *ckpt.Builder) { b.Symlink(single, "gone") })},
		{name: "link with a name that is too long", code: stages.CodeShard, says: []string{single, "link", "leads nowhere"}, build: only(func(b *ckpt.Builder) {
			b.Symlink(single, strings.Repeat("x", 300))
		})},
		{name: "link through a file", code: stages.CodeShard, says: []string{single, "link", "leads nowhere"}, build: only(func(b *ckpt.Builder) {
			b.Shard("blob.safetensors", u8("a", "one")).Symlink(single, "blob.safetensors/x")
		})},
		{name: "link to itself", code: stages.CodeShard, says: []string{single, "link"}, build: only(func(b *ckpt.Builder) { b.Symlink(single, single) })},
	})
	loads(t, []row{{
		name: "link within the folder", build: only(func(b *ckpt.Builder) {
			b.Shard("blob.safetensors", u8("a", "one")).Symlink(single, "blob.safetensors")
		}),
		check: func(got loaded) { got.same("a", safetensors.U8, []int64{3}, []byte("one")) },
	}})
}

const good = `"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}`

// TestHeaderFaults runs the rules of the file format through the whole program.
func TestHeaderFaults(t *testing.T) {
	h := func(name, header, data string, says ...string) row {
		return row{name: name, code: stages.CodeHeader, says: append(says, single), build: rawHeader(header, data)}
	}
	d := func(name, header, data string, says ...string) row {
		r := h(name, header, data, says...)
		r.code = stages.CodeDuplicate
		return r
	}
	f := func(name string, file []byte, says ...string) row {
		return row{name: name, code: stages.CodeHeader, says: append(says, single), build: rawFile(file)}
	}
	refuses(t, []row{
		f("empty file", nil, "too small"),
		f("seven bytes", make([]byte, 7), "too small", "found 7"),
		f("header of no bytes", make([]byte, 8), "header is empty"),
		f("header beyond the file", withLength(100, `{}`), "past the end", "100"),
		f("header beyond the cap", withLength(100_000_001, `{}`), "too large", "100000000", "100000001"),
		f("header of 2^64-1 bytes", withLength(1<<64-1, `{}`), "header"),
		f("header of 2^63 bytes", withLength(1<<63, `{}`), "header"),
		f("cut inside the length", withLength(2, "")[:5], "too small"),
		f("cut inside the JSON", withLength(60, `{"a":{"dtype":"U8","sh`), "past the end"),
		h("JSON that ends early", `{`+good, "four"),
		h("cut inside the data", `{`+good+`}`, "fo", "a", "end of the file"),
		h("no data at all", `{`+good+`}`, "", "a"),
		h("trailing bytes", `{`+good+`}`, "fourX", "after the last tensor"),
		h("first offset is not 0", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`, "eightbyt", "no tensor"),
		h("hole", `{`+good+`,"b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}}`, "four56", "no tensor"),
		h("overlap", `{`+good+`,"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}`, "five5", "overlap"),
		h("same bytes twice", `{`+good+`,"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "overlap"),
		h("offsets in the wrong order", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}`, "four", "a"),
		h("shape and size differ", `{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}`, "four", "a", "expected", "found"),
		h("no whole bytes", `{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}`, "xx", "whole number of bytes"),
		h("product overflows", `{"a":{"dtype":"U8","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,4]}}`, "four", "too large"),
		h("product overflows beside 0", `{"a":{"dtype":"U8","shape":[9223372036854775807,4,0],"data_offsets":[0,0]}}`, "", "too large"),
		h("rank of a million", `{"a":{"dtype":"U8","shape":[`+strings.Repeat("1,", 1_000_000)+`4],"data_offsets":[0,4]}}`, "four", "a", "too many dimensions", "at most 64"),
		h("bits overflow", `{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,4]}}`, "four", "too large"),
		h("offset above 2^63", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,18446744073709551615]}}`, "four", "a"),
		h("unknown dtype", `{"a":{"dtype":"I3","shape":[4],"data_offsets":[0,4]}}`, "four", "dtype", "I3"),

		// SAFETENSORS 5, in its order.
		h("leading space", ` {`+good+`}`, "four", "does not start with {"),
		h("byte order mark", "\ufeff{"+good+`}`, "four", "does not start with {"),
		h("tensor as array", `{"a":["U8",[4],[0,4]]}`, "four", "wrong type"),
		h("dtype as object", `{"a":{"dtype":{"U8":null},"shape":[4],"data_offsets":[0,4]}}`, "four", "wrong type"),
		h("metadata null", `{"__metadata__":null,`+good+`}`, "four", "wrong type"),
		h("metadata with a number", `{"__metadata__":{"x":1},`+good+`}`, "four", "wrong type"),
		d("tensor twice", `{`+good+`,`+good+`}`, "four", "a", "twice"),
		d("tensor twice through an escape", `{`+good+`,"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}}`, "four", "a", "twice"),
		h("field twice", `{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "twice"),
		h("metadata key twice", `{"__metadata__":{"x":"1","x":"1"},`+good+`}`, "four", "twice"),
		h("metadata twice", `{"__metadata__":{},"__metadata__":{},`+good+`}`, "four", "twice"),
		h("field in other case", `{"a":{"DType":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "missing"),
		h("number with a sign", `{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}`, "four", "plain decimal"),
		h("number with a plus", `{"a":{"dtype":"U8","shape":[+4],"data_offsets":[0,4]}}`, "four"),
		h("number with a fraction", `{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}`, "four", "plain decimal"),
		h("number with an exponent", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4e0]}}`, "four", "plain decimal"),
		h("empty name", `{"":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "name is not allowed"),
		h("name with NUL", `{"a\u0000":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "name is not allowed"),
		h("name with a control character", `{"a\n":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "name is not allowed"),
		h("name of 5000 bytes", `{"`+strings.Repeat("n", 5000)+`":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "name is too long"),
		h("trailing NUL", `{`+good+"}\x00", "four", "after the end of the JSON"),
		h("trailing junk", `{`+good+`} x`, "four", "after the end of the JSON"),
		h("second value", `{`+good+`}{}`, "four", "after the end of the JSON"),
		h("trailing bytes after no tensor", `{}`, "x", "after the last tensor"),
		h("too deep", `{"a":{"x":`+strings.Repeat("[", 70)+strings.Repeat("]", 70)+`,"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "deep"),
		h("half a surrogate pair", `{"\ud800":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four", "surrogate"),
		h("not UTF-8", "{\"\xff\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", "four", "UTF-8"),
		h("zero size inside another tensor", `{`+good+`,"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}`, "four", "overlap"),
	})
}

// TestCutAnywhere: whichever file of a checkpoint ends too early, and wherever, or goes on, it is refused, and the file is named.
func TestCutAnywhere(t *testing.T) {
	b := ckpt.New(t)
	pair(b)
	dir := b.AutoIndex().JSON("config.json", map[string]any{"model_type": "llama", "num_hidden_layers": 2}).Write()
	for _, name := range []string{shard1, shard2, index, "config.json"} {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		check := func(data []byte) {
			t.Helper()
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			err := openAndPlan(t, dir)
			if refused, ok := errors.AsType[*stages.RefusedError](err); !ok || !strings.Contains(refused.Error(), name) {
				t.Errorf("%s of %d bytes instead of %d: %v", name, len(data), len(whole), err)
			}
		}
		for n := range len(bytes.TrimSpace(whole)) {
			check(whole[:n])
		}
		check(append(whole, 'x'))
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := openAndPlan(t, dir); err != nil {
		t.Errorf("the whole files: %v", err)
	}
}

// TestOddFilesThatLoad has the other half of SAFETENSORS 5.
func TestOddFilesThatLoad(t *testing.T) {
	four := func(got loaded) {
		got.t.Helper()
		got.same("a", safetensors.U8, []int64{4}, []byte("four"))
	}
	long := strings.Repeat("very.long.", 400)
	loads(t, []row{
		{name: "plain", build: rawHeader(`{`+good+`}`, "four"), check: four},
		{name: "unknown field", build: rawHeader(`{"a":{"dtype":"U8","x":[{}],"shape":[4],"data_offsets":[0,4]}}`, "four"), check: func(got loaded) {
			four(got)
			notes(got.t, got.res.Notes, single, "x")
		}},
		{name: "trailing spaces", build: rawHeader(`{`+good+`}   `, "four"), check: four},
		{name: "unaligned data", build: rawHeader(`{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"F64","shape":[1],"data_offsets":[3,11]}}`, "abc12345678"), check: func(got loaded) {
			got.same("b", safetensors.F64, []int64{1}, []byte("12345678"))
		}},
		{name: "no tensors", build: rawHeader(`{}`, ""), check: func(got loaded) { got.names() }},
		{name: "metadata alone", build: rawHeader(`{"__metadata__":{}}`, ""), check: func(got loaded) { got.names() }},
		{name: "scalar", build: rawHeader(`{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, "four"), check: func(got loaded) {
			got.same("a", safetensors.F32, nil, []byte("four"))
		}},
		{name: "zero dims", build: rawHeader(`{`+good+`,"z":{"dtype":"U8","shape":[576460752303423488,0],"data_offsets":[4,4]},"y":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}`, "four"), check: func(got loaded) {
			four(got)
			got.same("z", safetensors.U8, []int64{1 << 59, 0}, nil)
			got.same("y", safetensors.U8, []int64{0}, nil)
		}},
		{name: "zero size only", build: rawHeader(`{"z":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, ""), check: func(got loaded) {
			got.same("z", safetensors.F32, []int64{0}, nil)
		}},
		{name: "names that look like paths", build: rawHeader(`{"../x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"/abs":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}`, "four"), check: func(got loaded) {
			got.same("../x", safetensors.U8, []int64{2}, []byte("fo"))
			got.same("/abs", safetensors.U8, []int64{2}, []byte("ur"))
		}},
		{name: "long name", build: rawHeader(`{"`+long+`":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four"), check: func(got loaded) {
			got.same(long, safetensors.U8, []int64{4}, []byte("four"))
		}},
		{name: "names that end like a format's", build: rawHeader(`{"qweight":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"scales":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}`, "four"), check: func(got loaded) {
			got.names("qweight", "scales")
		}},
		{name: "depth 64", build: rawHeader(`{"a":{"x":`+strings.Repeat("[", 62)+strings.Repeat("]", 62)+`,"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "four"), check: four},
		{name: "tensors out of order", build: rawHeader(`{"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},`+good+`}`, "fourBB"), check: func(got loaded) {
			four(got)
			got.same("b", safetensors.U8, []int64{2}, []byte("BB"))
		}},
		{name: "dtypes of 4 and 6 bits", build: rawHeader(`{"a":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},"b":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[2,5]}}`, "abcde"), check: func(got loaded) {
			got.same("b", safetensors.F6E2M3, []int64{4}, []byte("cde"))
		}},
		{name: "single file that agrees with the index", build: only(func(b *ckpt.Builder) {
			pair(b)
			b.AutoIndex().Shard(single, u8("c", "THREE"), u8("a", "ONE"), u8("b", "TWO"))
		}), check: func(got loaded) {
			got.same("a", safetensors.U8, []int64{3}, []byte("one")) // the index wins
			notes(got.t, got.res.Notes, single, index)
		}},
		{name: "set without an index", build: only(pair), check: func(got loaded) { got.names("a", "b", "c") }},
		{name: "named file", build: func(b *ckpt.Builder) string {
			pair(b)
			return filepath.Join(b.AutoIndex().Write(), shard2)
		}, check: func(got loaded) { got.names("c") }},
		{name: "no config", build: only(func(b *ckpt.Builder) { b.Shard(single, u8("a", "one")) }), check: func(got loaded) {
			notes(got.t, got.res.Notes, "no model_type")
		}},
	})
}

// TestFilesThatMustNotBeOpened: a special file is told by looking at it.
func TestFilesThatMustNotBeOpened(t *testing.T) {
	for name, build := range map[string]func(b *ckpt.Builder) string{
		"shard": func(b *ckpt.Builder) string {
			dir := b.Shard(shard1, u8("a", "one")).Index(map[string]string{"a": shard1, "c": shard2}).Write()
			mkfifo(t, filepath.Join(dir, shard2))
			return dir
		},
		"single": func(b *ckpt.Builder) string {
			dir := b.Write()
			mkfifo(t, filepath.Join(dir, single))
			return dir
		},
		"named": func(b *ckpt.Builder) string {
			path := filepath.Join(b.Write(), "pipe.safetensors")
			mkfifo(t, path)
			return path
		},
	} {
		refuses(t, []row{{name: name, code: stages.CodeShard, says: []string{".safetensors", "a regular file", "a named pipe"}, build: build}})
	}
	refuses(t, []row{{name: "config", code: stages.CodeConfig, says: []string{"config.json", "a named pipe"}, build: func(b *ckpt.Builder) string {
		dir := b.Shard(single, u8("a", "one")).Write()
		mkfifo(t, filepath.Join(dir, "config.json"))
		return dir
	}}})
}

// TestNotThere: what is no checkpoint at all.
func TestNotThere(t *testing.T) {
	refuses(t, []row{{name: "nothing", code: stages.CodeNotFound, says: nil, build: func(b *ckpt.Builder) string {
		return filepath.Join(b.Write(), "nothing")
	}}})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "weights.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refuses(t, []row{{name: "text", code: stages.CodeNotFound, says: []string{"weights.txt"}, build: func(*ckpt.Builder) string {
		return filepath.Join(dir, "weights.txt")
	}}})
}
