package host

import (
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// Element is a Go type that Slice can show a Tensor as; a named type such as float16.Float16 counts as its underlying type.
type Element interface {
	~uint8 | ~int8 | ~uint16 | ~int16 | ~uint32 | ~int32 | ~uint64 | ~int64 | ~float32 | ~float64
}

// views lists the Go types of each dtype: its own and the unsigned integer of its size, for the bits as they are. Integers may be read
// with either sign, since packed weights are declared as I32 and are not numbers.
var views = map[stages.DType][]reflect.Kind{
	safetensors.BOOL: {reflect.Uint8},
	safetensors.U8:   {reflect.Uint8, reflect.Int8}, safetensors.I8: {reflect.Int8, reflect.Uint8},
	safetensors.F8E5M2: {reflect.Uint8}, safetensors.F8E4M3: {reflect.Uint8}, safetensors.F8E8M0: {reflect.Uint8},
	safetensors.F8E4M3FNUZ: {reflect.Uint8}, safetensors.F8E5M2FNUZ: {reflect.Uint8},
	safetensors.F4: {reflect.Uint8}, safetensors.F6E2M3: {reflect.Uint8}, safetensors.F6E3M2: {reflect.Uint8},
	safetensors.I16: {reflect.Int16, reflect.Uint16}, safetensors.U16: {reflect.Uint16, reflect.Int16},
	safetensors.F16: {reflect.Uint16}, safetensors.BF16: {reflect.Uint16},
	safetensors.I32: {reflect.Int32, reflect.Uint32}, safetensors.U32: {reflect.Uint32, reflect.Int32},
	safetensors.F32: {reflect.Float32, reflect.Uint32},
	safetensors.I64: {reflect.Int64, reflect.Uint64}, safetensors.U64: {reflect.Uint64, reflect.Int64},
	safetensors.F64: {reflect.Float64, reflect.Uint64}, safetensors.C64: {reflect.Uint64},
}

// Slice shows the Tensor's bytes as elements of type T, without a copy: the slice is the same memory and ends with it. Elements have the
// byte order of the file, little-endian.
//
//	dtype                                  T
//	F64, F32                               float64, float32; or uint64, uint32 for the bits
//	I64, I32, I16, I8, U64, U32, U16, U8   the signed or the unsigned integer of that size
//	F16, BF16                              uint16
//	F8 of any kind, BOOL                   uint8
//	F4, F6 of any kind                     uint8: the packed bytes, several elements in each
//	C64                                    uint64: the real part in the low half
//
// Any other pair is an error, as are bytes that are no whole number of elements or start at an address that T does not allow (never so in
// a Memory).
func Slice[T Element](t Tensor) ([]T, error) {
	typ := reflect.TypeFor[T]()
	if !slices.Contains(views[t.DType], typ.Kind()) {
		return nil, fmt.Errorf("host: %s cannot be seen as %s", t.DType, typ)
	}
	size := int(typ.Size())
	if len(t.Bytes)%size != 0 {
		return nil, fmt.Errorf("host: %d bytes are no whole number of %s", len(t.Bytes), typ)
	}
	p := unsafe.Pointer(unsafe.SliceData(t.Bytes))
	if uintptr(p)%uintptr(typ.Align()) != 0 {
		return nil, fmt.Errorf("host: bytes at %p are not aligned for %s", p, typ)
	}
	return unsafe.Slice((*T)(p), len(t.Bytes)/size), nil
}
