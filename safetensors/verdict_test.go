package safetensors_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

// verdict is one header with what must become of it: accepted when rule is nil, else refused by that rule with an error that has parts.
type verdict struct {
	name  string
	text  string
	data  int64
	rule  error
	parts []string
}

const (
	one  = `"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}`
	body = `{"dtype":"U8","shape":[4],"data_offsets":[0,4]}`
)

func tensor(name, dtype, shape, offsets string) string {
	return fmt.Sprintf(`"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%s]}`, name, dtype, shape, offsets)
}

func nested(depth int) string { // an unknown field whose value makes the text depth levels deep
	return `{"a":{"x":` + strings.Repeat("[", depth-2) + strings.Repeat("]", depth-2) + `,"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`
}

var textVerdicts = []verdict{
	{"plain", `{` + one + `}`, 4, nil, nil},
	{"no tensors", `{}`, 0, nil, nil},
	{"no tensors but data", `{}`, 1, safetensors.ErrTrailingBytes, []string{"byte 10:", "expected a file of 10 bytes, found 11"}},
	{"trailing spaces", `{` + one + `}   `, 4, nil, nil},
	{"white space between tokens", "{ \t\r\n\"a\" : {\n\"dtype\" : \"U8\" , \"shape\" : [ 4 ] , \"data_offsets\" : [ 0 , 4 ] } \n}", 4, nil, nil},
	{"trailing newline", `{` + one + "}\n", 4, safetensors.ErrTrailingJSON, []string{"byte 61:", `found "\n"`}},
	{"trailing NUL", `{` + one + "}\x00", 4, safetensors.ErrTrailingJSON, []string{`"\x00"`}},
	{"trailing junk", `{` + one + `} x`, 4, safetensors.ErrTrailingJSON, []string{"byte 62:", `"x"`}},
	{"second value", `{` + one + `}{}`, 4, safetensors.ErrTrailingJSON, nil},
	{"leading space", ` {` + one + `}`, 4, safetensors.ErrHeaderStart, []string{"byte 8:", `expected "{"`}},
	{"byte order mark", "\ufeff{" + one + `}`, 4, safetensors.ErrHeaderStart, nil},
	{"array", `[]`, 0, safetensors.ErrHeaderStart, nil},
	{"one byte", `{`, 0, safetensors.ErrSyntax, []string{"end of text"}},
	{"unclosed", `{` + one, 4, safetensors.ErrSyntax, []string{`expected "," or "}"`}},
	{"comma before brace", `{` + one + `,}`, 4, safetensors.ErrSyntax, []string{"expected a key"}},
	{"comma alone", `{,}`, 0, safetensors.ErrSyntax, nil},
	{"missing comma", `{` + one + tensor("b", "U8", "0", "4,4") + `}`, 4, safetensors.ErrSyntax, nil},
	{"missing colon", `{"a"` + body + `}`, 4, safetensors.ErrSyntax, []string{`expected ":"`}},
	{"single quotes", `{'a':` + body + `}`, 4, safetensors.ErrSyntax, nil},
	{"comment", `{/**/` + one + `}`, 4, safetensors.ErrSyntax, nil},
	{"key unclosed", `{"a`, 0, safetensors.ErrSyntax, []string{"the end of a string"}},
	{"raw newline in a name", "{\"a\nb\":" + body + `}`, 4, safetensors.ErrSyntax, []string{"control character"}},
	{"bad escape", `{"a\x":` + body + `}`, 4, safetensors.ErrSyntax, []string{"an escape"}},
	{"short escape", `{"a\u12`, 0, safetensors.ErrSyntax, nil},
	{"escape at the end", `{"a\`, 0, safetensors.ErrSyntax, []string{"end of text"}},
	{"bad hex", `{"\u00zz":` + body + `}`, 4, safetensors.ErrSyntax, []string{"four hexadecimal digits"}},
	{"invalid UTF-8", "{\"a\xff\":" + body + `}`, 4, safetensors.ErrUTF8, []string{"byte 11:"}},
	{"UTF-8 of a surrogate", "{\"a\xed\xa0\x80\":" + body + `}`, 4, safetensors.ErrUTF8, nil},
	{"overlong UTF-8", "{\"a\xc0\xaf\":" + body + `}`, 4, safetensors.ErrUTF8, nil},
	{"cut UTF-8", "{\"a\xe2\x82\":" + body + `}`, 4, safetensors.ErrUTF8, nil},
	{"lone high surrogate", `{"a\ud800":` + body + `}`, 4, safetensors.ErrSurrogate, []string{"byte 11:"}},
	{"lone low surrogate", `{"a\udc00":` + body + `}`, 4, safetensors.ErrSurrogate, nil},
	{"surrogates in the wrong order", `{"a\udc00\ud800":` + body + `}`, 4, safetensors.ErrSurrogate, nil},
	{"high surrogate and another escape", `{"a\ud800\u0041":` + body + `}`, 4, safetensors.ErrSurrogate, nil},
	{"invalid UTF-8 in a skipped value", "{\"a\":{\"x\":\"\xff\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, safetensors.ErrUTF8, nil},
	{"depth 64", nested(64), 4, nil, nil},
	{"depth 65", nested(65), 4, safetensors.ErrDepth, []string{"at most 64 levels", `"a"`}},
	{"a million brackets", `{"a":{"x":` + strings.Repeat("[", 1_000_000), 4, safetensors.ErrDepth, nil},
}

var fieldVerdicts = []verdict{
	{"tensor as array", `{"a":["U8",[4],[0,4]]}`, 4, safetensors.ErrWrongType, []string{`"a"`, "an object with dtype"}},
	{"tensor as null", `{"a":null}`, 0, safetensors.ErrWrongType, nil},
	{"tensor as number", `{"a":1}`, 0, safetensors.ErrWrongType, nil},
	{"tensor as nothing", `{"a":}`, 0, safetensors.ErrSyntax, nil},
	{"dtype as object", `{"a":{"dtype":{"U8":null},"shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrWrongType, []string{"a dtype name"}},
	{"unknown dtype", `{` + tensor("a", "F9", "4", "0,4") + `}`, 4, safetensors.ErrDType, []string{`"a"`, `"F9"`}},
	{"dtype in lower case", `{` + tensor("a", "u8", "4", "0,4") + `}`, 4, safetensors.ErrDType, nil},
	{"dtype with an escape", `{` + tensor("a", `\u00558`, "4", "0,4") + `}`, 4, nil, nil},
	{"long dtype", `{` + tensor("a", strings.Repeat("F", 1000), "4", "0,4") + `}`, 4, safetensors.ErrDType, []string{"..."}},
	{"long dtype, cut between characters", `{` + tensor("a", "F"+strings.Repeat("é", 500), "4", "0,4") + `}`, 4, safetensors.ErrDType, []string{`é..."`}},
	{"no dtype", `{"a":{"shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrMissingField, []string{"expected dtype"}},
	{"no shape", `{"a":{"dtype":"U8","data_offsets":[0,4]}}`, 4, safetensors.ErrMissingField, []string{"expected shape"}},
	{"no offsets", `{"a":{"dtype":"U8","shape":[4]}}`, 4, safetensors.ErrMissingField, []string{"expected data_offsets"}},
	{"empty tensor object", `{"a":{}}`, 0, safetensors.ErrMissingField, nil},
	{"field in another case", `{"a":{"DType":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrMissingField, nil},
	{"field with an escape", `{"a":{"\u0064type":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, nil, nil},
	{"field twice", `{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrDuplicateField, []string{`"a"`, `"dtype"`}},
	{"field twice, once escaped", `{"a":{"shape":[4],"\u0073hape":[4],"dtype":"U8","data_offsets":[0,4]}}`, 4, safetensors.ErrDuplicateField, nil},
	{"fields in any order", `{"a":{"data_offsets":[0,4],"shape":[4],"dtype":"U8"}}`, 4, nil, nil},
	{"unknown field", `{"a":{"x":[1.5e-3,{"y":null},true,false,"\n"],"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, nil, nil},
	{"unknown field twice", `{"a":{"x":1,"\u0078":2,"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrDuplicateField, nil},
	{"unknown fields that differ", `{"a":{"\u0078":1,"\u0079":2,"z\u0078":3,"xz":4,"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, nil, nil},
	{"16 unknown fields", extraFields(16), 4, nil, nil},
	{"17 unknown fields", extraFields(17), 4, safetensors.ErrTooManyFields, []string{"at most 16"}},
	{"unknown field, bad literal", `{"a":{"x":nul,"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrSyntax, []string{"expected null"}},
	{"unknown field, bad number", `{"a":{"x":01,"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrSyntax, []string{"a number"}},
	{"unknown field, mixed brackets", `{"a":{"x":[1},"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrSyntax, nil},
	{"unknown field, no value", `{"a":{"x":,"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrSyntax, []string{"a value"}},
	{"unknown field, object without key", `{"a":{"x":{1:2},"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, safetensors.ErrSyntax, nil},
}

func extraFields(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"x%d":0,`, i)
	}
	return `{"a":{` + b.String() + `"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`
}

var metadataVerdicts = []verdict{
	{"metadata", `{"__metadata__":{"format":"pt","":"","a\n":"\u0000"},` + one + `}`, 4, nil, nil},
	{"metadata last", `{` + one + `,"__metadata__":{}}`, 4, nil, nil},
	{"metadata null", `{"__metadata__":null,` + one + `}`, 4, safetensors.ErrWrongType, []string{`"__metadata__"`, "an object of strings", `"null,`}},
	{"metadata array", `{"__metadata__":[]}`, 0, safetensors.ErrWrongType, nil},
	{"metadata number", `{"__metadata__":{"a":1}}`, 0, safetensors.ErrWrongType, []string{"expected a string"}},
	{"metadata nested", `{"__metadata__":{"a":{}}}`, 0, safetensors.ErrWrongType, nil},
	{"metadata value null", `{"__metadata__":{"a":null}}`, 0, safetensors.ErrWrongType, nil},
	{"metadata key twice", `{"__metadata__":{"a":"1","b":"","a":"2"}}`, 0, safetensors.ErrDuplicateMetadata, []string{"byte 41:", `"a"`}},
	{"metadata key twice, once escaped", `{"__metadata__":{"a":"1","\u0061":"2"}}`, 0, safetensors.ErrDuplicateMetadata, nil},
	{"metadata twice", `{"__metadata__":{},"__metadata__":{}}`, 0, safetensors.ErrDuplicateMetadata, nil},
	{"metadata twice, once escaped", `{"__metadata__":{},"_\u005fmetadata__":{}}`, 0, safetensors.ErrDuplicateMetadata, nil},
	{"metadata as a tensor", `{"__metadata__":` + body + `}`, 4, safetensors.ErrWrongType, nil},
}

var nameVerdicts = []verdict{
	{"empty name", `{"":` + body + `}`, 4, safetensors.ErrName, []string{"not empty"}},
	{"NUL in a name", `{"a\u0000":` + body + `}`, 4, safetensors.ErrName, []string{"no control characters", `"a\x00"`}},
	{"escaped newline in a name", `{"a\n":` + body + `}`, 4, safetensors.ErrName, nil},
	{"DEL in a name", "{\"a\x7f\":" + body + `}`, 4, safetensors.ErrName, nil},
	{"C1 control in a name", "{\"a\u0085\":" + body + `}`, 4, safetensors.ErrName, nil},
	{"name like a path", `{"../../x":` + body + `}`, 4, nil, nil},
	{"name like an absolute path", `{"/abs":` + body + `}`, 4, nil, nil},
	{"name in any script", `{"слой.😀":` + body + `}`, 4, nil, nil},
	{"name with a pair of surrogates", `{"\ud83d\ude00":` + body + `}`, 4, nil, nil},
	{"name of 4096 bytes", `{"` + strings.Repeat("n", 4096) + `":` + body + `}`, 4, nil, nil},
	{"name of 4097 bytes", `{"` + strings.Repeat("n", 4097) + `":` + body + `}`, 4, safetensors.ErrNameTooLong, []string{"at most 4096 bytes, found 4097"}},
	{"name of a million escapes", `{"` + strings.Repeat(`\u0061`, 1_000_000) + `":` + body + `}`, 4, safetensors.ErrNameTooLong, nil},
	{"tensor twice", `{` + one + `,` + tensor("a", "U8", "4", "4,8") + `}`, 8, safetensors.ErrDuplicateTensor, []string{"byte 62:", `"a"`, "byte 10"}},
	{"tensor twice, same range", `{` + one + `,` + one + `}`, 4, safetensors.ErrDuplicateTensor, nil},
	{"tensor twice, once escaped", `{` + one + `,` + tensor(`\u0061`, "U8", "4", "4,8") + `}`, 8, safetensors.ErrDuplicateTensor, nil},
	{"tensor twice, pair and raw", `{` + tensor(`\ud83d\ude00`, "U8", "4", "0,4") + `,` + tensor("😀", "U8", "4", "4,8") + `}`, 8, safetensors.ErrDuplicateTensor, nil},
}

var numberVerdicts = []verdict{
	{"negative dim", `{` + tensor("a", "U8", "-4", "0,4") + `}`, 4, safetensors.ErrNumber, []string{`"a"`, "a dimension"}},
	{"plus sign", `{` + tensor("a", "U8", "+4", "0,4") + `}`, 4, safetensors.ErrNumber, nil},
	{"fraction", `{` + tensor("a", "U8", "4.0", "0,4") + `}`, 4, safetensors.ErrNumber, nil},
	{"exponent", `{` + tensor("a", "U8", "4e0", "0,4") + `}`, 4, safetensors.ErrNumber, nil},
	{"leading zero", `{` + tensor("a", "U8", "04", "0,4") + `}`, 4, safetensors.ErrNumber, nil},
	{"minus zero", `{` + tensor("a", "U8", "4", "-0,4") + `}`, 4, safetensors.ErrNumber, []string{"an offset"}},
	{"number as string", `{` + tensor("a", "U8", `"4"`, "0,4") + `}`, 4, safetensors.ErrWrongType, nil},
	{"nested shape", `{` + tensor("a", "U8", "[4]", "0,4") + `}`, 4, safetensors.ErrWrongType, nil},
	{"hexadecimal", `{` + tensor("a", "U8", "0x4", "0,4") + `}`, 4, safetensors.ErrSyntax, nil},
	{"dim of 2^63", `{` + tensor("a", "U8", "9223372036854775808", "0,4") + `}`, 4, safetensors.ErrOverflow, nil},
	{"dim of 2^64+4", `{` + tensor("a", "U8", "18446744073709551620", "0,4") + `}`, 4, safetensors.ErrOverflow, nil},
	{"shape is no array", `{"a":{"dtype":"U8","shape":4,"data_offsets":[0,4]}}`, 4, safetensors.ErrWrongType, nil},
	{"shape with a comma at the end", `{` + tensor("a", "U8", "4,", "0,4") + `}`, 4, safetensors.ErrSyntax, nil},
	{"three offsets", `{` + tensor("a", "U8", "4", "0,4,8") + `}`, 4, safetensors.ErrOffsets, nil},
	{"one offset", `{` + tensor("a", "U8", "4", "0") + `}`, 4, safetensors.ErrOffsets, nil},
	{"no offset", `{` + tensor("a", "U8", "4", "") + `}`, 4, safetensors.ErrOffsets, nil},
	{"offsets as object", `{"a":{"dtype":"U8","shape":[4],"data_offsets":{"0":4}}}`, 4, safetensors.ErrWrongType, nil},
	{"end before begin", `{` + tensor("a", "U8", "4", "4,0") + `}`, 4, safetensors.ErrOffsets, []string{"begin <= end", "[4,0]"}},
}

var sizeVerdicts = []verdict{
	{"scalar", `{` + tensor("a", "F32", "", "0,4") + `}`, 4, nil, nil},
	{"size too small", `{` + tensor("a", "F32", "4", "0,4") + `}`, 4, safetensors.ErrSizeMismatch, []string{"16 bytes for F32 [4]", "4 in [0,4]"}},
	{"size too large", `{` + tensor("a", "U8", "2", "0,4") + `}`, 4, safetensors.ErrSizeMismatch, nil},
	{"zero dim with bytes", `{` + tensor("a", "U8", "0,4", "0,4") + `}`, 4, safetensors.ErrSizeMismatch, nil},
	{"product overflows", `{` + tensor("a", "U8", "4294967296,4294967296", "0,0") + `}`, 0, safetensors.ErrOverflow, []string{"below 2^63"}},
	{"bits overflow", `{` + tensor("a", "F64", "144115188075855872", "0,0") + `}`, 0, safetensors.ErrOverflow, nil},
	{"bits just fit", `{` + tensor("a", "F64", "0,144115188075855871", "0,0") + `}`, 0, nil, nil},
	{"zero first, overflow behind", `{` + tensor("a", "U8", "0,9223372036854775807,4", "0,0") + `}`, 0, safetensors.ErrOverflow, nil},
	{"zero last, overflow before", `{` + tensor("a", "U8", "9223372036854775807,4,0", "0,0") + `}`, 0, safetensors.ErrOverflow, nil},
	{"F4 pair", `{` + tensor("a", "F4", "2", "0,1") + `}`, 1, nil, nil},
	{"F4 odd", `{` + tensor("a", "F4", "3", "0,2") + `}`, 2, safetensors.ErrMisaligned, []string{"F4 [3]"}},
	{"F6 of 4", `{` + tensor("a", "F6_E2M3", "2,2", "0,3") + `}`, 3, nil, nil},
	{"F6 of 2", `{` + tensor("a", "F6_E3M2", "2", "0,2") + `}`, 2, safetensors.ErrMisaligned, nil},
	{"F4 empty", `{` + tensor("a", "F4", "3,0", "0,0") + `}`, 0, nil, nil},
	{"rank 64", `{` + tensor("a", "U8", strings.Repeat("1,", 63)+"4", "0,4") + `}`, 4, nil, nil},
	{"rank 65", `{` + tensor("a", "U8", strings.Repeat("1,", 64)+"4", "0,4") + `}`, 4, safetensors.ErrRank, []string{"at most 64"}},
	{"many dims in a message", `{` + tensor("a", "U8", strings.Repeat("1,", 63)+"4", "0,5") + `}`, 5, safetensors.ErrSizeMismatch, []string{"and 56 more dimensions"}},
}

var coverVerdicts = []verdict{
	{"two in order", `{` + one + `,` + tensor("b", "U8", "4", "4,8") + `}`, 8, nil, nil},
	{"two in reverse", `{` + tensor("b", "U8", "4", "4,8") + `,` + one + `}`, 8, nil, nil},
	{"first not at 0", `{` + tensor("a", "U8", "4", "4,8") + `}`, 8, safetensors.ErrHole, []string{"byte 10:", "begin 0, the start of the data area", "[4,8]"}},
	{"hole", `{` + one + `,` + tensor("b", "U8", "4", "5,9") + `}`, 9, safetensors.ErrHole, []string{`"b"`, `begin 4, the end of "a"`}},
	{"overlap", `{` + one + `,` + tensor("b", "U8", "4", "3,7") + `}`, 7, safetensors.ErrOverlap, []string{`"b"`, "[3,7]"}},
	{"same range twice", `{` + one + `,` + tensor("b", "U8", "4", "0,4") + `}`, 4, safetensors.ErrOverlap, nil},
	{"inside another", `{` + one + `,` + tensor("b", "U8", "1", "1,2") + `}`, 4, safetensors.ErrOverlap, nil},
	{"empty at a boundary", `{` + one + `,` + tensor("z", "U8", "0", "4,4") + `,` + tensor("b", "U8", "4", "4,8") + `}`, 8, nil, nil},
	{"empty at a boundary, late in the text", `{` + one + `,` + tensor("b", "U8", "4", "4,8") + `,` + tensor("z", "U8", "0", "4,4") + `}`, 8, nil, nil},
	{"empty at the start, late in the text", `{` + one + `,` + tensor("z", "U8", "0", "0,0") + `}`, 4, nil, nil},
	{"empty in the middle", `{` + one + `,` + tensor("z", "U8", "0", "2,2") + `}`, 4, safetensors.ErrOverlap, nil},
	{"empty beyond the end", `{` + one + `,` + tensor("z", "U8", "0", "9,9") + `}`, 4, safetensors.ErrHole, nil},
	{"only an empty one", `{` + tensor("z", "U8", "0", "0,0") + `}`, 0, nil, nil},
	{"truncated", `{` + one + `}`, 3, safetensors.ErrTruncated, []string{`"a"`, "at least 4 bytes of data, found 3"}},
	{"truncated, first named", `{` + tensor("b", "U8", "4", "4,8") + `,` + one + `}`, 2, safetensors.ErrTruncated, []string{`"a"`}},
	{"trailing bytes", `{` + one + `}`, 5, safetensors.ErrTrailingBytes, []string{"byte 65:", "a file of 65 bytes, found 66"}},
	{"huge offsets", `{` + tensor("a", "U8", "1152921504606846975", "0,1152921504606846975") + `}`, 4, safetensors.ErrTruncated, nil},
}

func TestVerdicts(t *testing.T) {
	all := slices.Concat(textVerdicts, fieldVerdicts, metadataVerdicts, nameVerdicts, numberVerdicts, sizeVerdicts, coverVerdicts)
	for _, v := range all {
		t.Run(v.name, func(t *testing.T) {
			prefix, size := headerOf(v.text, v.data)
			h, err := safetensors.ParseHeader(prefix, size, safetensors.WithName("model.safetensors"))
			checkVerdict(t, v, err)
			if (h == nil) != (v.rule != nil) {
				t.Errorf("header %v with error %v", h, err)
			}
		})
	}
}

func checkVerdict(t *testing.T, v verdict, err error) {
	t.Helper()
	if v.rule == nil {
		if err != nil {
			t.Fatalf("refused: %v", err)
		}
		return
	}
	if !errors.Is(err, v.rule) {
		t.Fatalf("got error %v, want %v", err, v.rule)
	}
	fault, ok := errors.AsType[*safetensors.FormatError](err)
	if !ok {
		t.Fatalf("%T is no *FormatError", err)
	}
	message := err.Error()
	for _, part := range append([]string{"safetensors: model.safetensors: ", v.rule.Error()}, v.parts...) {
		if !strings.Contains(message, part) {
			t.Errorf("%q lacks %q", message, part)
		}
	}
	if fault.Offset < 0 || len(message) > 1000 {
		t.Errorf("offset %d, message of %d bytes", fault.Offset, len(message))
	}
}

func TestHeaderLength(t *testing.T) {
	length := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	for _, tc := range []struct {
		name string
		data []byte
		size int64
		rule error
		part string
	}{
		{"no bytes", nil, 0, safetensors.ErrFileTooSmall, "at least 8 bytes, found 0"},
		{"seven bytes", make([]byte, 7), 7, safetensors.ErrFileTooSmall, "found 7"},
		{"negative size", make([]byte, 8), -1, safetensors.ErrFileTooSmall, ""},
		{"header of 0 bytes", length(0), 8, safetensors.ErrHeaderEmpty, "byte 0"},
		{"header longer than the file", length(3), 10, safetensors.ErrHeaderTruncated, "at most 2 bytes in a file of 10, found 3"},
		{"2^64-1", length(1<<64 - 1), 1 << 62, safetensors.ErrHeaderTooLarge, "found 18446744073709551615"},
		{"2^63", length(1 << 63), 1 << 62, safetensors.ErrHeaderTooLarge, ""},
		{"one over the cap", length(100_000_001), 1 << 40, safetensors.ErrHeaderTooLarge, "at most 100000000 bytes, found 100000001"},
		{"the cap in a small file", length(100_000_000), 1000, safetensors.ErrHeaderTruncated, ""},
		{"prefix too short", append(length(100), '{'), 1000, safetensors.ErrHeaderTruncated, "108 bytes of the file, found 9"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := safetensors.ParseHeader(tc.data, tc.size)
			if !errors.Is(err, tc.rule) || !strings.Contains(err.Error(), tc.part) {
				t.Errorf("got %v, want %v with %q", err, tc.rule, tc.part)
			}
		})
	}
}

// TestLargestHeader is a header of exactly the size that the format allows.
func TestLargestHeader(t *testing.T) {
	if testing.Short() {
		t.Skip("needs 200 MB")
	}
	prefix, size := headerOf(`{`+one+`}`+strings.Repeat(" ", safetensors.MaxHeaderBytes-len(one)-2), 4)
	if _, err := safetensors.ParseHeader(prefix, size); err != nil {
		t.Fatal(err)
	}
}

func TestLimits(t *testing.T) {
	two := `{` + one + `,` + tensor("bb", "U8", "2,2", "4,8") + `}`
	prefix, size := headerOf(two, 8)
	n := int64(len(two))
	for _, tc := range []struct {
		name   string
		limits safetensors.Limits
		rule   error
	}{
		{"exactly", safetensors.Limits{MaxHeaderBytes: n, MaxTensors: 2, MaxRank: 2, MaxNameBytes: 2}, nil},
		{"header", safetensors.Limits{MaxHeaderBytes: n - 1}, safetensors.ErrHeaderTooLarge},
		{"tensors", safetensors.Limits{MaxTensors: 1}, safetensors.ErrTooManyTensors},
		{"rank", safetensors.Limits{MaxRank: 1}, safetensors.ErrRank},
		{"name", safetensors.Limits{MaxNameBytes: 1}, safetensors.ErrNameTooLong},
		{"above the ceilings", safetensors.Limits{MaxHeaderBytes: 1 << 62, MaxTensors: 1 << 40, MaxRank: 1 << 30, MaxNameBytes: 1 << 30}, nil},
		{"negative is the default", safetensors.Limits{MaxHeaderBytes: -1, MaxTensors: -1, MaxRank: -1, MaxNameBytes: -1}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := safetensors.ParseHeader(prefix, size, safetensors.WithLimits(tc.limits)); !errors.Is(err, tc.rule) {
				t.Errorf("got %v, want %v", err, tc.rule)
			}
		})
	}
}

// TestCeilings stores what the compact records must just hold.
func TestCeilings(t *testing.T) {
	limits := safetensors.WithLimits(safetensors.Limits{MaxRank: 1000, MaxNameBytes: 1 << 20})
	name := strings.Repeat("x", 1<<16-1)
	text := manyTensors(12, func(b *strings.Builder, i int) {
		b.WriteString(tensor(name[:len(name)-i], "U8", strings.Repeat("9223372036854775807,0,", 127)+"9", "0,0"))
	})
	prefix, size := headerOf(text, 0)
	if _, err := safetensors.ParseHeader(prefix, size, limits); !errors.Is(err, safetensors.ErrOverflow) {
		t.Fatal(err)
	}
	text = strings.ReplaceAll(text, "9223372036854775807,0,", "0,1152921504606846975,")
	text = strings.ReplaceAll(text, strings.Repeat("0,1152921504606846975,", 127), strings.Repeat("0,", 253)+"1152921504606846975,")
	text = strings.ReplaceAll(text, "1152921504606846975,9", "1152921504606846975,1")
	prefix, size = headerOf(text, 0)
	h, err := safetensors.ParseHeader(prefix, size, limits)
	if err != nil {
		t.Fatal(err)
	}
	for i := range h.Len() {
		got := h.Info(i)
		if got.Name != name[:len(name)-i] || len(got.Shape) != 255 || got.Shape[253] != 1152921504606846975 || got.Shape[254] != 1 {
			t.Errorf("tensor %d: name of %d bytes, shape %v", i, len(got.Name), got.Shape)
		}
	}
}

func TestTrailingBytesAllowed(t *testing.T) {
	prefix, size := headerOf(`{`+one+`}`, 104)
	h, err := safetensors.ParseHeader(prefix, size, safetensors.WithTrailingBytes())
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Notes(); !slices.Equal(got, []string{"100 bytes after the last tensor ignored"}) {
		t.Errorf("notes %q", got)
	}
	prefix, size = headerOf(`{`+one+`}`, 3)
	if _, err := safetensors.ParseHeader(prefix, size, safetensors.WithTrailingBytes()); !errors.Is(err, safetensors.ErrTruncated) {
		t.Errorf("lenient about more than trailing bytes: %v", err)
	}
}

func TestNotes(t *testing.T) {
	text := manyTensors(100, func(b *strings.Builder, i int) {
		fmt.Fprintf(b, `"t%d":{"x\u0001":0,"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, i)
	})
	notes := mustParse(t, text, 0).Notes()
	if len(notes) != 65 || notes[0] != `tensor "t0": unknown field "x\\u0001" ignored` || notes[64] != "36 more notes left out" {
		t.Errorf("%d notes: %q", len(notes), notes)
	}
}

func TestAccessors(t *testing.T) {
	text := `{"__metadata__":{"k":"v","\ud83d\ude00":"\"\\\/\b\f\n\r\t\u00e9"},` +
		tensor(`b\u002f`, "BF16", "2,300,0", "4,4") + `,` + tensor("a", "F32", "", "0,4") + `}`
	h := mustParse(t, text, 4)
	if h.Len() != 2 || h.DataOffset() != int64(len(text)+8) || h.FileSize() != int64(len(text)+12) {
		t.Errorf("Len %d, DataOffset %d, FileSize %d", h.Len(), h.DataOffset(), h.FileSize())
	}
	if got := slices.Collect(h.Names()); !slices.Equal(got, []string{"b/", "a"}) {
		t.Errorf("Names %q", got)
	}
	if got := maps.Collect(h.Metadata()); len(got) != 2 || got["k"] != "v" || got["😀"] != "\"\\/\b\f\n\r\té" {
		t.Errorf("Metadata %q", got)
	}
	if v, ok := h.MetadataValue("k"); !ok || v != "v" {
		t.Errorf("MetadataValue %q %v", v, ok)
	}
	if v, ok := h.MetadataValue("none"); ok {
		t.Errorf("MetadataValue %q", v)
	}
	i, ok := h.Lookup("b/")
	begin, end := h.Extent(i)
	if !ok || i != 0 || h.DType(i) != safetensors.BF16 || h.Rank(i) != 3 || begin != 4 || end != 4 {
		t.Errorf("tensor %d %v: %v rank %d [%d,%d]", i, ok, h.DType(i), h.Rank(i), begin, end)
	}
	if got := h.AppendShape([]int64{7}, 0); !slices.Equal(got, []int64{7, 2, 300, 0}) {
		t.Errorf("AppendShape %v", got)
	}
	if _, ok := h.Lookup("c"); ok {
		t.Error("Lookup found what is not there")
	}
	for name, info := range h.All() {
		if name != info.Name || info.Size() != info.End-info.Begin {
			t.Errorf("%q: %+v", name, info)
		}
		if want := map[string]int64{"a": 1, "b/": 0}[name]; info.Elements() != want {
			t.Errorf("%q has %d elements", name, info.Elements())
		}
		break
	}
	empty := mustParse(t, `{}`, 0)
	if _, ok := empty.MetadataValue("k"); ok {
		t.Error("metadata in an empty header")
	}
	if _, ok := empty.Lookup("a"); ok {
		t.Error("a tensor in an empty header")
	}
}

func TestAccessorsDoNotAllocate(t *testing.T) {
	text, data := experts(1000)
	h := mustParse(t, text, data)
	shape := make([]int64, 0, 8)
	allocs := testing.AllocsPerRun(10, func() {
		for i := range h.Len() {
			if n, ok := h.Lookup(h.Name(i)); !ok || n != i || !h.DType(i).Valid() {
				t.Error(h.Name(i))
			}
			shape = h.AppendShape(shape[:0], i)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func TestDType(t *testing.T) {
	widths := map[int]string{
		4: "F4", 6: "F6_E2M3 F6_E3M2", 8: "BOOL U8 I8 F8_E5M2 F8_E4M3 F8_E8M0 F8_E4M3FNUZ F8_E5M2FNUZ",
		16: "I16 U16 F16 BF16", 32: "I32 U32 F32", 64: "I64 U64 F64 C64",
	}
	count := 0
	for bits, names := range widths {
		for name := range strings.FieldsSeq(names) {
			count++
			d, ok := safetensors.ParseDType(name)
			if !ok || d.Bits() != bits || d.String() != name || !d.Valid() {
				t.Errorf("%s: %v, %d bits", name, d, d.Bits())
			}
			text, err := d.MarshalText()
			var back safetensors.DType
			if err != nil || back.UnmarshalText(text) != nil || back != d {
				t.Errorf("%s: text %q, %v", name, text, err)
			}
			if n, err := d.Size(8); err != nil || n != int64(bits) {
				t.Errorf("%s: Size %d, %v", name, n, err)
			}
		}
	}
	if count != 22 {
		t.Errorf("%d types", count)
	}
	bad := safetensors.DType(99)
	if _, err := bad.MarshalText(); !errors.Is(err, safetensors.ErrDType) || bad.Valid() || bad.Bits() != 0 || bad.String() != "DType(99)" {
		t.Errorf("%v: %v", bad, err)
	}
	if err := bad.UnmarshalText([]byte("f32")); !errors.Is(err, safetensors.ErrDType) {
		t.Error(err)
	}
	if _, err := safetensors.F4.Size(3); !errors.Is(err, safetensors.ErrMisaligned) {
		t.Error(err)
	}
	for _, n := range []int64{-1, 1 << 57} {
		if _, err := safetensors.F64.Size(n); !errors.Is(err, safetensors.ErrOverflow) {
			t.Error(n, err)
		}
	}
}

func TestElements(t *testing.T) {
	for _, tc := range []struct {
		shape []int64
		want  int64
		rule  error
	}{
		{nil, 1, nil},
		{[]int64{2, 3}, 6, nil},
		{[]int64{2, 0}, 0, nil},
		{[]int64{-1}, 0, safetensors.ErrOverflow},
		{[]int64{1 << 62, 0, 4}, 0, safetensors.ErrOverflow},
	} {
		if n, err := safetensors.Elements(tc.shape); n != tc.want || !errors.Is(err, tc.rule) {
			t.Errorf("%v: %d, %v", tc.shape, n, err)
		}
	}
}
