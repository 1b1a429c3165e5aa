package gguf

import (
	"math"
	"strconv"
)

// ValueType is the type of a value of the metadata.
type ValueType uint32

// The types of values, by the numbers that a file gives them.
const (
	Uint8 ValueType = iota
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Float32
	Bool
	String
	Array
	Uint64
	Int64
	Float64

	valueTypes = iota
)

var valueKinds = [valueTypes]struct {
	name string
	size int64 // in bytes; 0 for what has no fixed one
}{
	Uint8: {"u8", 1}, Int8: {"i8", 1}, Uint16: {"u16", 2}, Int16: {"i16", 2}, Uint32: {"u32", 4}, Int32: {"i32", 4}, Float32: {"f32", 4},
	Bool: {"bool", 1}, String: {"string", 0}, Array: {"array", 0}, Uint64: {"u64", 8}, Int64: {"i64", 8}, Float64: {"f64", 8},
}

// String is the name in the specification: "u32", "string", "array".
func (t ValueType) String() string {
	if t < valueTypes {
		return valueKinds[t].name
	}
	return "ValueType(" + strconv.FormatUint(uint64(t), 10) + ")"
}

// size is the bytes of a value with a fixed size, else 0.
func (t ValueType) size() int64 { return valueKinds[t].size }

// Value is one value of the metadata. Of arrays, and of texts longer than 64 KiB, only the description is kept; File.Value reads their bytes.
type Value struct {
	Type ValueType
	// Elem and Len are the type and the number of the elements of an Array. Those of nested arrays are Arrays.
	Elem ValueType
	Len  int64
	// Offset and Size are where the bytes of the value lie in the file, without its type.
	Offset, Size int64

	bits uint64 // of a scalar
	text string
	kept bool // text is the whole text
}

// Int is a whole number of any width that fits in an int64; false for values of other types.
func (v Value) Int() (int64, bool) {
	switch v.Type {
	case Uint8, Uint16, Uint32, Uint64:
		return int64(v.bits), v.bits <= math.MaxInt64
	case Int8:
		return int64(int8(v.bits)), true
	case Int16:
		return int64(int16(v.bits)), true
	case Int32:
		return int64(int32(v.bits)), true
	case Int64:
		return int64(v.bits), true
	case Float32, Float64, Bool, String, Array:
	}
	return 0, false
}

// Float is a floating-point number; false for values of other types.
func (v Value) Float() (float64, bool) {
	switch v.Type { //nolint:exhaustive // the others are none
	case Float32:
		return float64(math.Float32frombits(uint32(v.bits))), true
	case Float64:
		return math.Float64frombits(v.bits), true
	}
	return 0, false
}

// Bool is true or false; ok is false for values of other types.
func (v Value) Bool() (value, ok bool) { return v.bits == 1, v.Type == Bool }

// Text is a string; false for values of other types and for a text that was too long to be kept. It may be no valid UTF-8.
func (v Value) Text() (string, bool) { return v.text, v.Type == String && v.kept }
