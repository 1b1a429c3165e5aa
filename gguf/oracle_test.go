package gguf_test

import (
	"encoding/binary"
	"errors"
	"math/big"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// This is the format a second time, slow and plain, from its specification and the rules of the package's documentation: the whole file in
// memory, numbers without bounds, every byte of the data area marked.

var errSlow = errors.New("refused")

type slowTensor struct {
	name   string
	typ    uint32
	shape  []int64 // slowest first
	offset int64
	size   int64
}

type slowFile struct {
	keys    []string
	tensors []slowTensor
	data    int64
}

// slowBlocks are elements and bytes of a block, from ggml-common.h.
var slowBlocks = map[uint32][2]int64{
	0: {1, 4}, 1: {1, 2}, 2: {32, 2 + 16}, 3: {32, 2 + 2 + 16}, 6: {32, 2 + 4 + 16}, 7: {32, 4 + 4 + 16}, 8: {32, 2 + 32}, 9: {32, 4 + 4 + 32},
	10: {256, 256/16 + 256/4 + 4}, 11: {256, 256/8 + 256/4 + 12 + 2}, 12: {256, 4 + 12 + 128}, 13: {256, 4 + 12 + 32 + 128},
	14: {256, 128 + 64 + 16 + 2}, 15: {256, 4 + 256 + 32}, 16: {256, 2 + 64}, 17: {256, 2 + 64 + 8}, 18: {256, 2 + 64 + 32}, 19: {256, 2 + 32 + 16},
	20: {32, 2 + 16}, 21: {256, 2 + 64 + 8 + 32 + 4}, 22: {256, 2 + 64 + 16}, 23: {256, 2 + 2 + 4 + 128}, 24: {1, 1}, 25: {1, 2}, 26: {1, 4}, 27: {1, 8},
	28: {1, 8}, 29: {256, 32 + 16 + 8}, 30: {1, 2}, 34: {256, 2 + 64/4*3 + 4}, 35: {256, 2 + 64}, 39: {32, 1 + 16}, 40: {64, 4 + 32}, 41: {128, 2 + 16},
}

type slowReader struct {
	b  []byte
	at int
}

func (r *slowReader) take(n uint64) []byte {
	if n > uint64(len(r.b)-r.at) {
		panic(errSlow)
	}
	b := r.b[r.at : r.at+int(n)]
	r.at += int(n)
	return b
}

func (r *slowReader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *slowReader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

func want(ok bool) {
	if !ok {
		panic(errSlow)
	}
}

func (r *slowReader) name(most uint64) string {
	n := r.u64()
	s := string(r.take(n))
	want(n > 0 && n <= most && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl))
	return s
}

// value reads a value of type t and returns its bytes.
func (r *slowReader) value(t uint32, depth int) []byte {
	from := r.at
	switch t {
	case 0, 1:
		r.take(1)
	case 7:
		want(r.take(1)[0] <= 1)
	case 2, 3:
		r.take(2)
	case 4, 5, 6:
		r.take(4)
	case 10, 11, 12:
		r.take(8)
	case 8:
		r.take(r.u64())
	case 9:
		want(depth < 4)
		elem, n := r.u32(), r.u64()
		want(elem <= 12 && n <= uint64(len(r.b)))
		for range n {
			r.value(elem, depth+1)
		}
	default:
		want(false)
	}
	return r.b[from:r.at]
}

func slowParse(b []byte) (f *slowFile, err error) {
	defer func() {
		if e := recover(); e != nil {
			f, err = nil, errSlow
		}
	}()
	r := &slowReader{b: b}
	want(string(r.take(4)) == "GGUF")
	version := r.u32()
	want(version == 2 || version == 3)
	tensors, keys := r.u64(), r.u64()
	want(tensors <= 2_000_000 && keys <= 4096)
	f = &slowFile{}
	align := int64(32)
	split := map[string]*big.Int{}
	for range keys {
		key := r.name(65535)
		want(!slices.Contains(f.keys, key))
		f.keys = append(f.keys, key)
		t := r.u32()
		v := r.value(t, 0)
		if key == "general.alignment" {
			want(t == 4)
			align = int64(binary.LittleEndian.Uint32(v))
			want(slices.Contains([]int64{8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 1 << 17, 1 << 18, 1 << 19, 1 << 20}, align))
		}
		if key == "split.no" || key == "split.count" || key == "split.tensors.count" {
			want(slices.Contains([]uint32{0, 1, 2, 3, 4, 5, 10, 11}, t))
			wide := append(slices.Clone(v), make([]byte, 8-len(v))...)
			n := new(big.Int).SetUint64(binary.LittleEndian.Uint64(wide))
			if signed := t == 1 || t == 3 || t == 5 || t == 11; signed {
				want(v[len(v)-1] < 0x80)
			}
			want(n.BitLen() <= 31)
			split[key] = n
		}
	}
	for range tensors {
		f.tensors = append(f.tensors, r.tensor(align))
		for _, t := range f.tensors[:len(f.tensors)-1] {
			want(t.name != f.tensors[len(f.tensors)-1].name)
		}
	}
	if len(split) > 0 {
		want(len(split) == 3)
		no, count, all := split["split.no"].Int64(), split["split.count"].Int64(), split["split.tensors.count"].Int64()
		want(no < count || no == 0 && count == 0)
		want(count == 0 || all >= int64(len(f.tensors)))
	}
	f.data = (int64(r.at) + align - 1) / align * align
	slowCover(f, int64(len(b)), align)
	return f, nil
}

func (r *slowReader) tensor(align int64) slowTensor {
	t := slowTensor{name: r.name(1024)}
	rank := r.u32()
	want(rank >= 1 && rank <= 4)
	elements, limit := big.NewInt(1), new(big.Int).Lsh(big.NewInt(1), 63)
	for range rank {
		d := new(big.Int).SetUint64(r.u64())
		want(d.Sign() > 0 && d.Cmp(limit) < 0)
		elements.Mul(elements, d)
		want(elements.Cmp(limit) < 0)
		t.shape = append([]int64{d.Int64()}, t.shape...)
	}
	t.typ = r.u32()
	block, ok := slowBlocks[t.typ]
	want(ok && t.shape[len(t.shape)-1]%block[0] == 0)
	size := new(big.Int).Mul(new(big.Int).Div(elements, big.NewInt(block[0])), big.NewInt(block[1]))
	offset := new(big.Int).SetUint64(r.u64())
	want(offset.Cmp(limit) < 0 && size.Cmp(limit) < 0)
	t.offset, t.size = offset.Int64(), size.Int64()
	want(t.offset%align == 0 && t.size <= int64(len(r.b)) && t.offset <= int64(len(r.b)))
	return t
}

// slowCover marks every byte of the data area, and wants each to be one tensor's or padding.
func slowCover(f *slowFile, size, align int64) {
	if len(f.tensors) == 0 {
		want(size <= f.data)
		return
	}
	want(f.data <= size)
	area := make([]int, size-f.data)
	last := int64(0)
	for i, t := range f.tensors {
		want(t.offset+t.size <= int64(len(area)))
		for k := t.offset; k < t.offset+t.size; k++ {
			want(area[k] == 0)
			area[k] = i + 1
		}
		last = max(last, t.offset+t.size)
	}
	for k, owner := range area {
		if owner != 0 {
			continue
		}
		// padding: behind a tensor, up to the next multiple of the alignment
		end := k
		for end > 0 && area[end-1] == 0 {
			end--
		}
		want(end > 0 && int64(k) < (int64(end)+align-1)/align*align)
	}
}
