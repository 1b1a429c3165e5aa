package convert

import "encoding/binary"

// The bulk functions treat an 8-byte word as lanes of 16 or 32 bits and do to all lanes at once what the scalar functions do to one
// value. A word with a lane that the quick formula does not cover goes to the scalar function.
//
// A sum over lanes is safe when no lane can carry into the next: lanes lose their sign first, which leaves them a free top bit.
// "x + (top - limit)" then sets the top bit of exactly the lanes that are >= limit: a comparison of all lanes without a branch.

const (
	ones16 = 0x0001_0001_0001_0001 // times a 16-bit number: that number in four lanes
	ones32 = 0x0000_0001_0000_0001
	top16  = 0x8000 * ones16
	top32  = 0x8000_0000 * ones32
	abs16  = 0x7FFF * ones16
	abs32  = 0x7FFF_FFFF * ones32
	low32  = 0xFFFF * ones32 // the lower half of each 32-bit lane
)

var le = binary.LittleEndian

// spreadLow moves the two lower 16-bit lanes of x to the upper halves of two 32-bit lanes.
func spreadLow(x uint64) uint64 { return x&0xFFFF<<16 | x&0xFFFF_0000<<32 }

// spreadHigh does so with the two upper lanes.
func spreadHigh(x uint64) uint64 { return spreadLow(x >> 32) }

// join16 packs the lower halves of the 32-bit lanes of a and b, whose upper halves are zero, into four 16-bit lanes.
func join16(a, b uint64) uint64 { return (a|a>>16)&0xFFFF_FFFF | (b|b>>16)<<32 }

// earlier is the overflow to report: first when there is one, else k counted from base, else none.
func earlier(first, base, k int) int {
	if first >= 0 || k < 0 {
		return first
	}
	return base + k
}

// nonZero16 and nonZero32 are 1 in each lane of magnitudes that is not zero: times a number, that number where there is a value. A zero
// then takes no part in a change of exponent bias, so that tensors with many zeros stay on the quick way.
func nonZero16(m uint64) uint64 { return (m + abs16) & top16 >> 15 }
func nonZero32(m uint64) uint64 { return (m + abs32) & top32 >> 31 }

// inRangeOrZero16 reports whether every lane of magnitudes is 0, or at least least and less than end.
func inRangeOrZero16(m, least, end uint64) bool {
	return ((m+(top16-least*ones16))|^(m+abs16))&^(m+(top16-end*ones16))&top16 == top16
}
