package gguf_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/gguf"
)

func TestRead(t *testing.T) {
	data := plain()
	for name, r := range map[string]io.ReaderAt{"whole": bytes.NewReader(data), "EOF with the last byte": eager{data}} {
		f, err := gguf.NewReader(r, int64(len(data)), gguf.WithName("m.gguf"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		h := f.Header()
		if h.Version() != 3 || h.Alignment() != 64 || h.Len() != 2 || h.DataOffset()%64 != 0 || h.FileSize() != int64(len(data)) || h.Split() != (gguf.Split{}) {
			t.Errorf("%s: version %d, alignment %d, %d tensors, data at %d", name, h.Version(), h.Alignment(), h.Len(), h.DataOffset())
		}
		experts, err := f.Info("blk.0.ffn_gate_exps.weight")
		if err != nil || experts.Type != gguf.Q4K || !slices.Equal(experts.Shape, []int64{2, 3, 256}) || experts.Size() != 2*3*144 {
			t.Errorf("%s: %+v (%v)", name, experts, err)
		}
		norm := make([]byte, 20)
		if err := f.ReadInto("output_norm.weight", norm); err != nil || !bytes.Equal(norm, bytes.Repeat([]byte{0x5A}, 20)) {
			t.Errorf("%s: read % x (%v)", name, norm, err)
		}
		if err := f.ReadInto("output_norm.weight", norm[:19]); !errors.Is(err, gguf.ErrBufferSize) {
			t.Errorf("%s: %v, want ErrBufferSize", name, err)
		}
		if _, err := f.Section("nothing"); !errors.Is(err, gguf.ErrNotFound) {
			t.Errorf("%s: %v, want ErrNotFound", name, err)
		}
		if s, err := f.Section("output_norm.weight"); err != nil || s.Size() != 20 {
			t.Errorf("%s: section of %v (%v)", name, s, err)
		}
		if got := slices.Collect(h.Names()); !slices.Equal(got, []string{"blk.0.ffn_gate_exps.weight", "output_norm.weight"}) {
			t.Errorf("%s: %q", name, got)
		}
		checkValues(t, f)
		if f.Name() != "m.gguf" || f.Close() != nil {
			t.Errorf("%s: name %q", name, f.Name())
		}
	}
}

// eager says io.EOF together with the last byte, as an io.ReaderAt may.
type eager struct{ b []byte }

func (e eager) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, e.b[off:])
	if int(off)+n == len(e.b) {
		return n, io.EOF
	}
	return n, nil
}

func checkValues(t *testing.T, f *gguf.File) {
	t.Helper()
	h := f.Header()
	ints := map[string]int64{"u8": 200, "i8": -1, "u16": 65535, "i16": -2, "i32": -3, "u64": 1 << 40, "i64": -4, "general.alignment": 64}
	all := maps.Collect(h.Metadata())
	if len(all) != 16 {
		t.Errorf("%d keys", len(all))
	}
	for key, v := range all {
		n, isInt := v.Int()
		x, isFloat := v.Float()
		_, isBool := v.Bool()
		s, isText := v.Text()
		want, ok := ints[key]
		if isInt != ok || n != want && ok {
			t.Errorf("%s: %d %v, want %d", key, n, isInt, want)
		}
		if isFloat != strings.HasPrefix(key, "f") || isFloat && x != 1.5 {
			t.Errorf("%s: %g %v", key, x, isFloat)
		}
		if isBool != (key == "yes") || isText != (key == "general.architecture") || isText && s != "qwen3moe" {
			t.Errorf("%s: bool %v, text %q", key, isBool, s)
		}
	}
	if yes, _ := all["yes"].Bool(); !yes {
		t.Error("yes is false")
	}
	tokens := all["tokens"]
	if tokens.Type != gguf.Array || tokens.Elem != gguf.String || tokens.Len != 3 || all["nested"].Elem != gguf.Array {
		t.Errorf("tokens %+v", tokens)
	}
	stored, err := io.ReadAll(f.Value(all["long"]))
	if err != nil || len(stored) != 8+70_000 || !bytes.HasSuffix(stored, []byte("xxx")) {
		t.Errorf("%d bytes of a long text (%v)", len(stored), err)
	}
	if _, ok := h.Value("nothing"); ok {
		t.Error("a key that is not there")
	}
}

// evil is a file that breaks one rule.
type evil struct {
	name string
	file []byte
	size int64 // 0 means all of file
	want error
	says string
}

func evils() []evil {
	one := func() *raw { return start(1, 0) }
	kv := func() *raw { return start(0, 1) }
	const huge = math.MaxUint64
	after := func(b []byte, cut int) []byte { return b[:len(b)-cut] }
	f32 := func(offset uint64, dims ...uint64) []byte {
		return one().tensor("a", gguf.F32, offset, dims...).data(32, 32)
	}
	big := func(version uint32) []byte {
		return append([]byte("GGUF"), byte(version>>24), byte(version>>16), byte(version>>8), byte(version), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	two := func(a, b uint64, data int) []byte {
		return start(2, 0).tensor("a", gguf.F32, a, 8).tensor("b", gguf.F32, b, 8).data(32, data)
	}
	align := func(n uint32) []byte { return kv().key("general.alignment", gguf.Uint32).u32(n).data(8, 0) }
	nest := kv().key("k", gguf.Array)
	for range 5 {
		nest.u32(uint32(gguf.Array)).u64(1)
	}
	split := func(no, count, tensors uint32) []byte {
		return start(0, 3).key("split.no", gguf.Uint32).u32(no).key("split.count", gguf.Uint32).u32(count).key("split.tensors.count", gguf.Uint32).u32(tensors).data(32, 0)
	}
	return []evil{
		{name: "empty", file: nil, want: gguf.ErrTruncated},
		{name: "three bytes", file: []byte("GGU"), want: gguf.ErrTruncated},
		{name: "other magic", file: []byte("GGML\x03\x00\x00\x00"), want: gguf.ErrMagic, says: "GGML"},
		{name: "safetensors", file: []byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"), want: gguf.ErrMagic},
		{name: "magic alone", file: []byte("GGUF"), want: gguf.ErrTruncated},
		{name: "version 1", file: (&raw{b: []byte("GGUF")}).u32(1).u32(0).u32(0).bytes(), want: gguf.ErrVersion, says: "found 1"},
		{name: "version 0", file: (&raw{b: []byte("GGUF")}).u32(0).u64(0).u64(0).bytes(), want: gguf.ErrVersion},
		{name: "version 4", file: (&raw{b: []byte("GGUF")}).u32(4).u64(0).u64(0).bytes(), want: gguf.ErrVersion, says: "found 4"},
		{name: "big-endian 3", file: big(3), want: gguf.ErrBigEndian, says: "version 3 with the high byte first"},
		{name: "big-endian 2", file: big(2), want: gguf.ErrBigEndian},
		{name: "no counts", file: (&raw{b: []byte("GGUF")}).u32(3).u64(0).bytes(), want: gguf.ErrTruncated},
		{name: "tensors without end", file: start(huge, 0).data(32, 0), want: gguf.ErrTooManyTensors},
		{name: "more tensors than bytes", file: start(2, 0).data(32, 32), want: gguf.ErrTruncated, says: "room for 2 entries"},
		{name: "keys without end", file: start(0, huge).data(32, 0), want: gguf.ErrTooManyKeys},
		{name: "more keys than bytes", file: start(0, 3).data(32, 8), want: gguf.ErrTruncated},
		{name: "key longer than the file", file: kv().u64(1<<62).data(32, 32), want: gguf.ErrTruncated},
		{name: "key without bytes", file: kv().str("").u32(0).u8(0).data(32, 32), want: gguf.ErrKey},
		{name: "key too long", file: kv().str(strings.Repeat("k", 70_000)).u32(0).u8(0).data(32, 0), want: gguf.ErrKey},
		{name: "key with NUL", file: kv().key("a\x00b", gguf.Uint8).u8(0).data(32, 0), want: gguf.ErrKey, says: "control"},
		{name: "key that is no UTF-8", file: kv().key("\xff", gguf.Uint8).u8(0).data(32, 0), want: gguf.ErrKey, says: "UTF-8"},
		{name: "key twice", file: start(0, 2).key("k", gguf.Uint8).u8(0).key("k", gguf.Uint8).u8(0).data(32, 0), want: gguf.ErrDuplicateKey, says: `"k"`},
		{name: "value of type 13", file: kv().str("k").u32(13).data(32, 32), want: gguf.ErrValueType, says: "found 13"},
		{name: "value is missing", file: kv().key("k", gguf.Uint64).u32(0).bytes(), want: gguf.ErrTruncated},
		{name: "bool of 2", file: kv().key("k", gguf.Bool).u8(2).data(32, 0), want: gguf.ErrBool},
		{name: "bool of 2 in an array", file: kv().key("k", gguf.Array).u32(uint32(gguf.Bool)).u64(2).u8(1).u8(2).data(32, 0), want: gguf.ErrBool},
		{name: "string longer than the file", file: kv().key("k", gguf.String).u64(huge).data(32, 32), want: gguf.ErrTruncated},
		{name: "array longer than the file", file: kv().key("k", gguf.Array).u32(uint32(gguf.Float64)).u64(1<<61).data(32, 32), want: gguf.ErrArray},
		{name: "array of strings longer than the file", file: kv().key("k", gguf.Array).u32(uint32(gguf.String)).u64(1<<40).data(32, 32), want: gguf.ErrArray},
		{name: "array of arrays longer than the file", file: kv().key("k", gguf.Array).u32(uint32(gguf.Array)).u64(huge).data(32, 32), want: gguf.ErrArray},
		{name: "string in an array longer than the file", file: kv().key("k", gguf.Array).u32(uint32(gguf.String)).u64(2).str("a").u64(1<<50).data(32, 32), want: gguf.ErrTruncated},
		{name: "array of an unknown type", file: kv().key("k", gguf.Array).u32(99).u64(0).data(32, 0), want: gguf.ErrValueType},
		{name: "arrays in arrays in arrays", file: nest.data(32, 64), want: gguf.ErrDepth},
		{name: "alignment 0", file: align(0), want: gguf.ErrAlignment},
		{name: "alignment 4", file: align(4), want: gguf.ErrAlignment, says: "found 4"},
		{name: "alignment 48", file: align(48), want: gguf.ErrAlignment},
		{name: "alignment without bounds", file: align(1 << 31), want: gguf.ErrAlignment},
		{name: "alignment as u64", file: kv().key("general.alignment", gguf.Uint64).u64(32).data(32, 0), want: gguf.ErrAlignment, says: "u64"},
		{name: "split without count", file: kv().key("split.no", gguf.Uint16).u8(0).u8(0).data(32, 0), want: gguf.ErrSplit},
		{name: "split number beyond the count", file: split(3, 3, 0), want: gguf.ErrSplit},
		{name: "split number without a count", file: split(1, 0, 0), want: gguf.ErrSplit},
		{name: "split number that is a text", file: kv().key("split.no", gguf.String).str("1").data(32, 0), want: gguf.ErrSplit},
		{name: "name without bytes", file: one().tensor("", gguf.F32, 0, 8).data(32, 32), want: gguf.ErrName},
		{name: "name too long", file: one().tensor(strings.Repeat("n", 1025), gguf.F32, 0, 8).data(32, 32), want: gguf.ErrName},
		{name: "name with NUL", file: one().tensor("a\x00", gguf.F32, 0, 8).data(32, 32), want: gguf.ErrName},
		{name: "name with a line end", file: one().tensor("a\n", gguf.F32, 0, 8).data(32, 32), want: gguf.ErrName},
		{name: "name that is no UTF-8", file: one().tensor("\xc0\x80", gguf.F32, 0, 8).data(32, 32), want: gguf.ErrName},
		{name: "tensor twice", file: start(2, 0).tensor("a", gguf.F32, 0, 8).tensor("a", gguf.F32, 32, 8).data(32, 64), want: gguf.ErrDuplicateTensor, says: `"a"`},
		{name: "no dims", file: one().tensor("a", gguf.F32, 0).data(32, 32), want: gguf.ErrRank},
		{name: "five dims", file: one().tensor("a", gguf.F32, 0, 8, 1, 1, 1, 1).data(32, 32), want: gguf.ErrRank, says: "found 5"},
		{name: "dims without end", file: one().str("a").u32(math.MaxUint32).data(32, 64), want: gguf.ErrRank},
		{name: "dim of zero", file: f32(0, 8, 0), want: gguf.ErrDim},
		{name: "dim of zero that hides an overflow", file: f32(0, 1<<40, 0, 1<<40), want: gguf.ErrDim},
		{name: "negative dim", file: f32(0, huge), want: gguf.ErrDim},
		{name: "dims that overflow", file: f32(0, 1<<32, 1<<32), want: gguf.ErrOverflow},
		{name: "dims that overflow to what fits", file: f32(0, 1<<33, 1<<31, 2), want: gguf.ErrOverflow},
		{name: "bytes that overflow", file: f32(0, 1<<61, 2), want: gguf.ErrOverflow},
		{name: "unknown type", file: one().tensor("a", gguf.Type(999), 0, 8).data(32, 32), want: gguf.ErrType, says: "999"},
		{name: "removed type", file: one().tensor("a", gguf.Type(4), 0, 32).data(32, 32), want: gguf.ErrType, says: "Q4_2, which ggml has removed"},
		{name: "half a block", file: one().tensor("a", gguf.Q4K, 0, 128).data(32, 160), want: gguf.ErrBlocks, says: "256 elements for Q4_K"},
		{name: "blocks that are whole only across rows", file: one().tensor("a", gguf.Q4_0, 0, 16, 2).data(32, 32), want: gguf.ErrBlocks},
		{name: "offset is not aligned", file: f32(16, 8), want: gguf.ErrMisaligned},
		{name: "offset beyond any file", file: f32(1<<63, 8), want: gguf.ErrMisaligned},
		{name: "offset beyond the file", file: f32(1<<40, 8), want: gguf.ErrTruncated},
		{name: "data is missing", file: after(f32(0, 8), 1), want: gguf.ErrTruncated},
		{name: "all data is missing", file: after(f32(0, 8), 32), want: gguf.ErrTruncated},
		{name: "padding of the header is missing", file: one().tensor("a", gguf.F32, 0, 1).bytes(), want: gguf.ErrTruncated},
		{name: "hole at the start", file: f32(32, 8), want: gguf.ErrHole},
		{name: "hole at the start, with data", file: one().tensor("a", gguf.F32, 32, 8).data(32, 64), want: gguf.ErrHole},
		{name: "hole", file: two(0, 64, 96), want: gguf.ErrHole, says: "offset 32"},
		{name: "overlap", file: two(0, 0, 64), want: gguf.ErrOverlap},
		{name: "partial overlap", file: start(2, 0).tensor("a", gguf.F32, 0, 16).tensor("b", gguf.F32, 32, 8).data(32, 64), want: gguf.ErrOverlap},
		{name: "trailing block", file: two(0, 32, 65), want: gguf.ErrTrailingBytes},
		{name: "trailing bytes without tensors", file: append(start(0, 0).data(32, 0), 1), want: gguf.ErrTrailingBytes},
		{name: "size is negative", file: plain(), size: -1, want: gguf.ErrTruncated},
		{name: "size beyond any file", file: plain(), size: math.MaxInt64, want: gguf.ErrTruncated},
	}
}

// TestEvil: each rule refuses, with its sentinel, a place in the file and a message that says what was found.
func TestEvil(t *testing.T) {
	for _, e := range evils() {
		t.Run(e.name, func(t *testing.T) {
			size := int64(len(e.file))
			if e.size != 0 {
				size = e.size
			}
			h, err := gguf.ReadHeader(bytes.NewReader(e.file), size, gguf.WithName("evil.gguf"))
			if !errors.Is(err, e.want) || h != nil {
				t.Fatalf("error %v, want %v", err, e.want)
			}
			fault, ok := errors.AsType[*gguf.FormatError](err)
			if !ok || fault.File != "evil.gguf" || len(err.Error()) > 1000 || !strings.Contains(err.Error(), e.says) {
				t.Errorf("fault %v must say %q", err, e.says)
			}
			if e.size == 0 {
				if _, err := slowParse(e.file); err == nil {
					t.Error("the oracle accepts it")
				}
			}
		})
	}
}

// TestTruncated: a file that ends anywhere is refused, and with the right size it is not.
func TestTruncated(t *testing.T) {
	data := plain()
	for n := range data {
		if n > 2000 && n < len(data)-2000 && n%97 != 0 {
			continue // the long text
		}
		if _, err := gguf.ReadHeader(bytes.NewReader(data[:n]), int64(n)); err == nil {
			t.Fatalf("%d of %d bytes are accepted", n, len(data))
		}
	}
}

// TestOdd: what is unusual and right.
func TestOdd(t *testing.T) {
	for name, file := range map[string][]byte{
		"nothing":                     start(0, 0).bytes(),
		"nothing, padded":             start(0, 0).data(32, 0),
		"metadata alone":              start(0, 1).key("general.architecture", gguf.String).str("llama").bytes(),
		"version 2":                   func() []byte { b := plain(); b[4] = 2; return b }(),
		"padding at the end":          start(1, 0).tensor("a", gguf.F32, 0, 1).data(32, 32),
		"some padding at the end":     start(1, 0).tensor("a", gguf.F32, 0, 1).data(32, 17),
		"name is a path":              start(1, 0).tensor("../../etc/passwd", gguf.F32, 0, 1).data(32, 4),
		"tensors in another order":    start(2, 0).tensor("a", gguf.F32, 32, 8).tensor("b", gguf.F32, 0, 8).data(32, 64),
		"key of a language":           start(0, 1).key("général", gguf.Uint8).u8(1).bytes(),
		"text that is no UTF-8":       start(0, 1).key("k", gguf.String).str("\xff\x00").bytes(),
		"merged split":                start(0, 3).key("split.no", gguf.Uint16).u8(0).u8(0).key("split.count", gguf.Uint16).u8(0).u8(0).key("split.tensors.count", gguf.Int32).u32(7).bytes(),
		"alignment 8":                 start(1, 1).key("general.alignment", gguf.Uint32).u32(8).tensor("a", gguf.I8, 0, 3).data(8, 3),
		"types that are not decoded":  start(1, 0).tensor("a", gguf.Q5K, 0, 512).data(32, 352),
		"an array of no empty arrays": start(0, 1).key("k", gguf.Array).u32(uint32(gguf.Array)).u64(0).bytes(),
	} {
		if _, err := gguf.ReadHeader(bytes.NewReader(file), int64(len(file))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := slowParse(file); err != nil {
			t.Errorf("%s: the oracle refuses it", name)
		}
	}
}

func TestLimits(t *testing.T) {
	data := plain()
	for name, test := range map[string]struct {
		limits gguf.Limits
		want   error
	}{
		"header":  {gguf.Limits{MaxHeaderBytes: 1000}, gguf.ErrHeaderTooLarge},
		"tensors": {gguf.Limits{MaxTensors: 1}, gguf.ErrTooManyTensors},
		"keys":    {gguf.Limits{MaxKeys: 15}, gguf.ErrTooManyKeys},
		"names":   {gguf.Limits{MaxNameBytes: 20}, gguf.ErrName},
	} {
		if _, err := gguf.ReadHeader(bytes.NewReader(data), int64(len(data)), gguf.WithLimits(test.limits)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// TestOpen: files of a folder, and what is none.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.gguf")
	if err := os.WriteFile(path, plain(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range f.All() {
		n++
		break
	}
	if err := f.Close(); err != nil || n != 1 {
		t.Error(err, n)
	}
	if _, err := gguf.Open(dir); !errors.Is(err, gguf.ErrNotRegular) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := gguf.Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	if err := os.WriteFile(path, []byte("GGUX"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := gguf.Open(path); !errors.Is(err, gguf.ErrMagic) || !strings.Contains(err.Error(), path) {
		t.Errorf("no GGUF: %v", err)
	}
}

// broken fails to read from some byte on.
type broken struct {
	data []byte
	at   int64
}

var errBroken = errors.New("disk error")

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.at {
		return 0, errBroken
	}
	return copy(p, b.data[off:]), nil
}

// TestReadError: an error of the disk is no fault of the file.
func TestReadError(t *testing.T) {
	data := plain()
	for _, at := range []int64{0, 65536} {
		_, err := gguf.ReadHeader(broken{data, at}, int64(len(data)))
		if _, fault := errors.AsType[*gguf.FormatError](err); fault || !errors.Is(err, errBroken) {
			t.Errorf("at %d: %v", at, err)
		}
	}
}

func TestTypes(t *testing.T) {
	for id, block := range slowBlocks {
		typ := gguf.Type(id)
		elems, size := typ.Block()
		again, ok := gguf.ParseType(typ.String())
		if !typ.Valid() || elems != block[0] || size != block[1] || !ok || again != typ {
			t.Errorf("%s: blocks of %d elements, %d bytes, want %v", typ, elems, size, block)
		}
	}
	for id := range uint32(100) {
		if _, ok := slowBlocks[id]; ok != gguf.Type(id).Valid() {
			t.Errorf("type %d", id)
		}
	}
	if _, ok := gguf.ParseType("Q4_2"); ok || gguf.Type(77).String() != "Type(77)" || gguf.ValueType(77).String() != "ValueType(77)" {
		t.Error("names of what there is not")
	}
}
