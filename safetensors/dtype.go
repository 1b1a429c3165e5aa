package safetensors

import (
	"fmt"
	"math"
	"math/bits"
)

// DType is the element type of a tensor: one of the 22 types that the format knows. The zero value is no type.
//
// The order of the constants is the alignment order in which the reference writer sorts tensors, smallest first.
type DType uint8

// The element types, with the names that a header spells.
const (
	Invalid    DType = iota
	BOOL             // one byte, 0 or 1
	F4               // 4-bit float, e2m1; a shape counts elements, not bytes
	F6E2M3           // 6-bit float, spelled F6_E2M3
	F6E3M2           // 6-bit float, spelled F6_E3M2
	U8               // unsigned byte
	I8               // signed byte
	F8E5M2           // 8-bit float, spelled F8_E5M2
	F8E4M3           // 8-bit float, spelled F8_E4M3
	F8E8M0           // 8-bit power of two, spelled F8_E8M0
	F8E4M3FNUZ       // 8-bit float, spelled F8_E4M3FNUZ
	F8E5M2FNUZ       // 8-bit float, spelled F8_E5M2FNUZ
	I16              // signed 16-bit integer
	U16              // unsigned 16-bit integer
	F16              // IEEE half
	BF16             // bfloat16
	I32              // signed 32-bit integer
	U32              // unsigned 32-bit integer
	F32              // IEEE single
	C64              // complex: two F32
	F64              // IEEE double
	I64              // signed 64-bit integer
	U64              // unsigned 64-bit integer

	dtypeCount = iota // Invalid and the 22 types
)

// dtypes is the one place that knows a type's spelling and width.
var dtypes = [dtypeCount]struct {
	name string
	bits uint8
}{
	Invalid: {"invalid", 0},
	BOOL:    {"BOOL", 8}, F4: {"F4", 4}, F6E2M3: {"F6_E2M3", 6}, F6E3M2: {"F6_E3M2", 6},
	U8: {"U8", 8}, I8: {"I8", 8}, F8E5M2: {"F8_E5M2", 8}, F8E4M3: {"F8_E4M3", 8}, F8E8M0: {"F8_E8M0", 8},
	F8E4M3FNUZ: {"F8_E4M3FNUZ", 8}, F8E5M2FNUZ: {"F8_E5M2FNUZ", 8},
	I16: {"I16", 16}, U16: {"U16", 16}, F16: {"F16", 16}, BF16: {"BF16", 16},
	I32: {"I32", 32}, U32: {"U32", 32}, F32: {"F32", 32},
	C64: {"C64", 64}, F64: {"F64", 64}, I64: {"I64", 64}, U64: {"U64", 64},
}

// ParseDType returns the type that a header spells s, and false for any other spelling (the format is case-sensitive).
func ParseDType(s string) (DType, bool) { return parseDType(s) }

// parseDType takes bytes too, so that the walker compares without an allocation.
func parseDType[T string | []byte](s T) (DType, bool) {
	for d := DType(1); d < dtypeCount; d++ {
		if string(s) == dtypes[d].name {
			return d, true
		}
	}
	return Invalid, false
}

// Valid reports whether d is one of the 22 types.
func (d DType) Valid() bool { return d > Invalid && d < dtypeCount }

// String is the spelling in a header, such as "BF16" or "F8_E4M3".
func (d DType) String() string {
	if d < dtypeCount {
		return dtypes[d].name
	}
	return fmt.Sprintf("DType(%d)", uint8(d))
}

// Bits is the width of one element in bits: 4, 6, 8, 16, 32 or 64; 0 when d is not Valid.
func (d DType) Bits() int {
	if d < dtypeCount {
		return int(dtypes[d].bits)
	}
	return 0
}

// Size is the number of bytes that n elements of type d take. It fails with ErrOverflow when the bits do not fit in an int64, and with
// ErrMisaligned when they are no whole number of bytes (only types narrower than a byte can be).
func (d DType) Size(n int64) (int64, error) {
	hi, lo := bits.Mul64(uint64(n), uint64(d.Bits()))
	switch {
	case n < 0 || hi != 0 || lo > math.MaxInt64:
		return 0, ErrOverflow
	case lo%8 != 0:
		return 0, ErrMisaligned
	}
	return int64(lo / 8), nil
}

// MarshalText is String; it fails for a value that is not Valid.
func (d DType) MarshalText() ([]byte, error) {
	if !d.Valid() {
		return nil, fmt.Errorf("%w: %s", ErrDType, d)
	}
	return []byte(d.String()), nil
}

// UnmarshalText is ParseDType; it fails with ErrDType.
func (d *DType) UnmarshalText(text []byte) error {
	v, ok := parseDType(text)
	if !ok {
		return fmt.Errorf("%w: %q", ErrDType, clip(text))
	}
	*d = v
	return nil
}

// byteSize is the number of bytes of a tensor. The product of the non-zero dims times the width must fit in an int64, whatever the order
// of the dims and even when a zero dim makes the tensor empty: else two readers that multiply in another order would disagree.
func byteSize(d DType, shape []int64) (int64, error) {
	n, empty := uint64(d.Bits()), false
	for _, dim := range shape {
		if dim == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(n, uint64(dim))
		if dim < 0 || hi != 0 || lo > math.MaxInt64 {
			return 0, ErrOverflow
		}
		n = lo
	}
	switch {
	case empty:
		return 0, nil
	case n%8 != 0:
		return 0, ErrMisaligned
	}
	return int64(n / 8), nil
}

// Elements is the product of shape: 1 for a scalar (no dims), 0 when a dim is 0. It fails with ErrOverflow by the rule of the reader:
// the product of the non-zero dims must fit in an int64, and no dim may be negative.
func Elements(shape []int64) (int64, error) {
	n, empty := int64(1), false
	for _, dim := range shape {
		switch {
		case dim == 0:
			empty = true
		case dim < 0 || n > math.MaxInt64/dim:
			return 0, ErrOverflow
		default:
			n *= dim
		}
	}
	if empty {
		return 0, nil
	}
	return n, nil
}
