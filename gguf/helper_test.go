package gguf_test

import (
	"bytes"
	"encoding/binary"
	"strings"

	"github.com/coldload/coldload/gguf"
)

// raw builds files by hand, right or wrong.
type raw struct{ b []byte }

func (r *raw) u8(v uint8) *raw   { r.b = append(r.b, v); return r }
func (r *raw) u32(v uint32) *raw { r.b = binary.LittleEndian.AppendUint32(r.b, v); return r }
func (r *raw) u64(v uint64) *raw { r.b = binary.LittleEndian.AppendUint64(r.b, v); return r }

func (r *raw) str(s string) *raw {
	r.u64(uint64(len(s)))
	r.b = append(r.b, s...)
	return r
}

// start is the preamble.
func start(tensors, keys uint64) *raw {
	r := &raw{b: []byte("GGUF")}
	return r.u32(3).u64(tensors).u64(keys)
}

// key begins an entry of the metadata.
func (r *raw) key(name string, t gguf.ValueType) *raw { return r.str(name).u32(uint32(t)) }

// tensor is an entry of the table; dims as the file has them, fastest first.
func (r *raw) tensor(name string, t gguf.Type, offset uint64, dims ...uint64) *raw {
	r.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		r.u64(d)
	}
	return r.u32(uint32(t)).u64(offset)
}

// data pads to align and appends n bytes.
func (r *raw) data(align, n int) []byte {
	for len(r.b)%align != 0 {
		r.b = append(r.b, 0)
	}
	return append(r.b, bytes.Repeat([]byte{0x5A}, n)...)
}

// bytes is the file as it is.
func (r *raw) bytes() []byte { return r.b }

// plain is a file that is right: two tensors, metadata of every type.
func plain() []byte {
	r := start(2, 16)
	r.key("general.architecture", gguf.String).str("qwen3moe")
	r.key("general.alignment", gguf.Uint32).u32(64)
	r.key("u8", gguf.Uint8).u8(200)
	r.key("i8", gguf.Int8).u8(0xFF)
	r.key("u16", gguf.Uint16).u8(0xFF).u8(0xFF)
	r.key("i16", gguf.Int16).u8(0xFE).u8(0xFF)
	r.key("i32", gguf.Int32).u32(0xFFFFFFFD)
	r.key("u64", gguf.Uint64).u64(1 << 40)
	r.key("i64", gguf.Int64).u64(0xFFFFFFFFFFFFFFFC)
	r.key("f32", gguf.Float32).u32(0x3FC00000)
	r.key("f64", gguf.Float64).u64(0x3FF8000000000000)
	r.key("yes", gguf.Bool).u8(1)
	r.key("tokens", gguf.Array).u32(uint32(gguf.String)).u64(3).str("a").str("").str("\xff\x00")
	r.key("scores", gguf.Array).u32(uint32(gguf.Float32)).u64(2).u32(0).u32(1)
	r.key("nested", gguf.Array).u32(uint32(gguf.Array)).u64(2).u32(uint32(gguf.Bool)).u64(2).u8(0).u8(1).u32(uint32(gguf.String)).u64(0)
	r.key("long", gguf.String).str(strings.Repeat("x", 70_000))
	r.tensor("blk.0.ffn_gate_exps.weight", gguf.Q4K, 0, 256, 3, 2)
	r.tensor("output_norm.weight", gguf.F32, 896, 5)
	return r.data(64, 896+20)
}
