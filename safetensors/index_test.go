package safetensors_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

func mapOf(entries string) string {
	return `{"metadata":{"total_size":7},"weight_map":{` + entries + `}}`
}

var indexVerdicts = []verdict{
	{"plain", mapOf(`"a":"x.safetensors","b":"y.safetensors"`), 0, nil, nil},
	{"no tensors", mapOf(``), 0, nil, nil},
	{"white space around", " \n" + mapOf(`"a":"x"`) + "\n", 0, nil, nil},
	{"no metadata", `{"weight_map":{"a":"x"}}`, 0, nil, nil},
	{"metadata with more", `{"metadata":{"total_parameters":1,"x":{"y":[null]}},"weight_map":{"a":"x"}}`, 0, nil, nil},
	{"total_size is a float", `{"metadata":{"total_size":1.5e3},"weight_map":{"a":"x"}}`, 0, nil, nil},
	{"total_size is a string", `{"metadata":{"total_size":"1"},"weight_map":{"a":"x"}}`, 0, nil, nil},
	{"total_size twice", `{"metadata":{"total_size":1,"total_size":1},"weight_map":{"a":"x"}}`, 0, safetensors.ErrDuplicateField, nil},
	{"total_size is broken", `{"metadata":{"total_size":1.},"weight_map":{"a":"x"}}`, 0, safetensors.ErrSyntax, nil},
	{"metadata is null", `{"metadata":null,"weight_map":{"a":"x"}}`, 0, safetensors.ErrWrongType, nil},
	{"unknown key", `{"x":[1],"weight_map":{"a":"x"}}`, 0, nil, nil},
	{"unknown key twice", `{"x":1,"x":1,"weight_map":{"a":"x"}}`, 0, safetensors.ErrDuplicateField, nil},
	{"weight_map twice", `{"weight_map":{},"weight_map":{}}`, 0, safetensors.ErrDuplicateField, []string{`"weight_map"`}},
	{"weight_map twice, once escaped", `{"weight_map":{},"weight\u005fmap":{}}`, 0, safetensors.ErrDuplicateField, nil},
	{"metadata twice", `{"metadata":{},"metadata":{},"weight_map":{}}`, 0, safetensors.ErrDuplicateField, nil},
	{"no weight_map", `{"metadata":{}}`, 0, safetensors.ErrNoWeightMap, nil},
	{"weight_map in another case", `{"Weight_Map":{}}`, 0, safetensors.ErrNoWeightMap, nil},
	{"weight_map is an array", `{"weight_map":[]}`, 0, safetensors.ErrWrongType, nil},
	{"array", `[]`, 0, safetensors.ErrWrongType, nil},
	{"no bytes", ``, 0, safetensors.ErrSyntax, []string{"end of text"}},
	{"byte order mark", "\ufeff" + mapOf(``), 0, safetensors.ErrSyntax, nil},
	{"second value", mapOf(``) + `{}`, 0, safetensors.ErrTrailingJSON, nil},
	{"trailing NUL", mapOf(``) + "\x00", 0, safetensors.ErrTrailingJSON, nil},
	{"too deep", `{"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, 0, safetensors.ErrDepth, nil},
	{"invalid UTF-8", mapOf("\"a\xff\":\"x\""), 0, safetensors.ErrUTF8, nil},
	{"tensor twice", mapOf(`"a":"x","a":"x"`), 0, safetensors.ErrDuplicateEntry, []string{`"a"`, "byte 52:", "byte 44"}},
	{"tensor twice, once escaped", mapOf(`"a":"x","\u0061":"y"`), 0, safetensors.ErrDuplicateEntry, nil},
	{"empty tensor name", mapOf(`"":"x"`), 0, safetensors.ErrName, nil},
	{"control in a tensor name", mapOf(`"a\u0000":"x"`), 0, safetensors.ErrName, nil},
	{"__metadata__ as a tensor", mapOf(`"__metadata__":"x"`), 0, safetensors.ErrName, nil},
	{"file is a number", mapOf(`"a":1`), 0, safetensors.ErrWrongType, []string{`"a"`, "a file name"}},
	{"file is null", mapOf(`"a":null`), 0, safetensors.ErrWrongType, nil},
	{"file is empty", mapOf(`"a":""`), 0, safetensors.ErrShardName, []string{`"a"`}},
	{"file in the parent", mapOf(`"a":"../x"`), 0, safetensors.ErrShardName, []string{`"../x"`, "separators"}},
	{"file in a folder", mapOf(`"a":"d/x"`), 0, safetensors.ErrShardName, nil},
	{"file with backslash", mapOf(`"a":"d\\x"`), 0, safetensors.ErrShardName, nil},
	{"file with escaped slash", mapOf(`"a":"d\/x"`), 0, safetensors.ErrShardName, nil},
	{"file is absolute", mapOf(`"a":"/x"`), 0, safetensors.ErrShardName, nil},
	{"file with a drive", mapOf(`"a":"C:x"`), 0, safetensors.ErrShardName, []string{"drive"}},
	{"file is this folder", mapOf(`"a":"."`), 0, safetensors.ErrShardName, nil},
	{"file is the parent folder", mapOf(`"a":".."`), 0, safetensors.ErrShardName, nil},
	{"file with dots", mapOf(`"a":"x..y","b":"..."`), 0, nil, nil},
	{"file with NUL", mapOf(`"a":"x\u0000"`), 0, safetensors.ErrShardName, []string{"control"}},
	{"file with newline", mapOf(`"a":"x\n"`), 0, safetensors.ErrShardName, nil},
	{"file of 255 bytes", mapOf(`"a":"` + strings.Repeat("x", 255) + `"`), 0, nil, nil},
	{"file of 256 bytes", mapOf(`"a":"` + strings.Repeat("x", 256) + `"`), 0, safetensors.ErrShardName, nil},
}

func TestIndexVerdicts(t *testing.T) {
	for _, v := range indexVerdicts {
		t.Run(v.name, func(t *testing.T) {
			_, err := safetensors.ParseIndex([]byte(v.text), safetensors.WithName("model.safetensors"))
			checkVerdict(t, v, err)
		})
	}
}

func TestIndex(t *testing.T) {
	ix, err := safetensors.ParseIndex([]byte(mapOf(`"t2":"y","t1":"x","t\u0033":"y"`)))
	if err != nil {
		t.Fatal(err)
	}
	if got := ix.Files(); !slices.Equal(got, []string{"x", "y"}) || ix.Len() != 3 {
		t.Errorf("Files %q, Len %d", got, ix.Len())
	}
	var got []string
	for name, file := range ix.All() {
		got = append(got, name+"="+file)
	}
	if want := []string{"t2=y", "t1=x", "t3=y"}; !slices.Equal(got, want) {
		t.Errorf("All %q", got)
	}
	for range ix.All() {
		break
	}
	if file, ok := ix.Lookup("t3"); file != "y" || !ok {
		t.Errorf("Lookup %q %v", file, ok)
	}
	if file, ok := ix.Lookup("none"); file != "" || ok {
		t.Errorf("Lookup %q %v", file, ok)
	}
	if n, ok := ix.TotalSize(); n != 7 || !ok {
		t.Errorf("TotalSize %d %v", n, ok)
	}
	float, err := safetensors.ParseIndex([]byte(`{"metadata":{"total_size":7.0},"weight_map":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := float.TotalSize(); ok {
		t.Errorf("TotalSize %d of a float", n)
	}
}

func TestIndexLimits(t *testing.T) {
	text := mapOf(`"a":"x","bb":"y"`)
	for _, tc := range []struct {
		name   string
		limits safetensors.Limits
		rule   error
	}{
		{"exactly", safetensors.Limits{MaxIndexBytes: int64(len(text)), MaxTensors: 2, MaxNameBytes: 2, MaxShards: 2}, nil},
		{"bytes", safetensors.Limits{MaxIndexBytes: int64(len(text)) - 1}, safetensors.ErrIndexTooLarge},
		{"tensors", safetensors.Limits{MaxTensors: 1}, safetensors.ErrTooManyTensors},
		{"name", safetensors.Limits{MaxNameBytes: 1}, safetensors.ErrNameTooLong},
		{"shards", safetensors.Limits{MaxShards: 1}, safetensors.ErrTooManyShards},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := safetensors.ParseIndex([]byte(text), safetensors.WithLimits(tc.limits)); !errors.Is(err, tc.rule) {
				t.Errorf("got %v, want %v", err, tc.rule)
			}
		})
	}
}
