package gguf

import "strconv"

// Type is how ggml stores the elements of a tensor: a plain number each, or blocks of some elements that share scales.
type Type uint32

// The types that ggml has, by the numbers that a file gives them.
const (
	F32    Type = 0
	F16    Type = 1
	Q4_0   Type = 2
	Q4_1   Type = 3
	Q5_0   Type = 6
	Q5_1   Type = 7
	Q8_0   Type = 8
	Q8_1   Type = 9
	Q2K    Type = 10
	Q3K    Type = 11
	Q4K    Type = 12
	Q5K    Type = 13
	Q6K    Type = 14
	Q8K    Type = 15
	I8     Type = 24
	I16    Type = 25
	I32    Type = 26
	I64    Type = 27
	F64    Type = 28
	BF16   Type = 30
	MXFP4  Type = 39
	NVFP4  Type = 40
	lastID      = 41
)

// kind is what is known of a Type: its name, and how many elements and bytes a block has. Bytes are 0 for a type that ggml removed: no reader
// has it any more.
type kind struct {
	name         string
	elems, bytes uint16
}

// kinds is the one place that knows the types. What is no entry has no name.
var kinds = [lastID + 1]kind{
	0: {"F32", 1, 4}, 1: {"F16", 1, 2}, 2: {"Q4_0", 32, 18}, 3: {"Q4_1", 32, 20}, 4: {"Q4_2", 0, 0}, 5: {"Q4_3", 0, 0},
	6: {"Q5_0", 32, 22}, 7: {"Q5_1", 32, 24}, 8: {"Q8_0", 32, 34}, 9: {"Q8_1", 32, 40},
	10: {"Q2_K", 256, 84}, 11: {"Q3_K", 256, 110}, 12: {"Q4_K", 256, 144}, 13: {"Q5_K", 256, 176}, 14: {"Q6_K", 256, 210}, 15: {"Q8_K", 256, 292},
	16: {"IQ2_XXS", 256, 66}, 17: {"IQ2_XS", 256, 74}, 18: {"IQ3_XXS", 256, 98}, 19: {"IQ1_S", 256, 50}, 20: {"IQ4_NL", 32, 18},
	21: {"IQ3_S", 256, 110}, 22: {"IQ2_S", 256, 82}, 23: {"IQ4_XS", 256, 136},
	24: {"I8", 1, 1}, 25: {"I16", 1, 2}, 26: {"I32", 1, 4}, 27: {"I64", 1, 8}, 28: {"F64", 1, 8},
	29: {"IQ1_M", 256, 56}, 30: {"BF16", 1, 2},
	31: {"Q4_0_4_4", 0, 0}, 32: {"Q4_0_4_8", 0, 0}, 33: {"Q4_0_8_8", 0, 0},
	34: {"TQ1_0", 256, 54}, 35: {"TQ2_0", 256, 66},
	36: {"IQ4_NL_4_4", 0, 0}, 37: {"IQ4_NL_4_8", 0, 0}, 38: {"IQ4_NL_8_8", 0, 0},
	39: {"MXFP4", 32, 17}, 40: {"NVFP4", 64, 36}, 41: {"Q1_0", 128, 18},
}

// ParseType is the type of a name as ggml spells it, such as "Q4_K"; false for one that is unknown or removed.
func ParseType(name string) (Type, bool) {
	for t := range kinds {
		if kinds[t].bytes > 0 && kinds[t].name == name {
			return Type(t), true
		}
	}
	return 0, false
}

// Valid reports whether t is a type whose sizes are known. What is in its blocks is another matter: this package does not look.
func (t Type) Valid() bool { return t <= lastID && kinds[t].bytes > 0 }

// String is ggml's name, such as "Q4_K".
func (t Type) String() string {
	if t <= lastID && kinds[t].name != "" {
		return kinds[t].name
	}
	return "Type(" + strconv.FormatUint(uint64(t), 10) + ")"
}

// Block is how many elements of a row a block has, and the bytes that it takes: 1 and the element's size for plain numbers, 0 and 0 for a type
// that is not Valid.
func (t Type) Block() (elements, bytes int64) {
	if !t.Valid() {
		return 0, 0
	}
	return int64(kinds[t].elems), int64(kinds[t].bytes)
}
