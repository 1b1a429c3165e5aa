package repack

import (
	"encoding/binary"
	"fmt"

	"github.com/coldload/coldload/internal/values"
	"github.com/coldload/coldload/stages"
)

// The checks of the Ops use neither their kernels nor their tables: places are found by the definition of the layout, and values are computed by
// internal/values, one by one.

// marlinElement is which weight field f of a word of a row of tiles holds, k counted from the row's first input feature: the inverse of what
// the kernels do, by the definition of the layout. Source: LAYOUTS C1.1 and C1.2.
func marlinElement(bits, word, f int) (k, n int) {
	if bits == 4 {
		tile, u := word/128, word%128
		return 8*(f&1) + 2*(u/4%4) + f>>2, tileN*tile + 16*(u%4) + 8*(f>>1&1) + u/16
	}
	tile, u := word/256, word%256
	return 8*(f&1) + 2*(u/8%4) + f>>1, tileN*tile + 16*(u/2%4) + 8*(u&1) + u/32
}

// compareCodes compares the codes in one word of Marlin's with what code says of input feature k and output feature n of the Part.
func compareCodes(j *stages.Job, bits, row, word int, code func(k, n int) uint32) error {
	got := binary.LittleEndian.Uint32(j.Row(row)[4*word:])
	for f := range 32 / bits {
		k, n := marlinElement(bits, word, f)
		k += tileK * row
		if is, must := got>>(bits*f)&(1<<bits-1), code(k, n); is != must {
			return mismatch(fmt.Sprintf("code of input feature %d, output feature %d", k, n), must, is)
		}
	}
	return nil
}

func mismatch(what string, want, got uint32) error {
	return &stages.MismatchError{What: what, Want: fmt.Sprintf("%#x", want), Got: fmt.Sprintf("%#x", got)}
}

// compareSorted is compareCodes for input features that are sorted by group: place k holds feature k modulo the group's size of group k divided by it.
func (a actOrder) compareSorted(j *stages.Job, row, word int, code func(k, n int) uint32) error {
	var places, features [4]int // the input features of a word: two, and those 8 further
	for i := range places {
		places[i] = tileK*row + marlinFirst(a.bits, word) + i%2 + i/2*8
	}
	featuresAt(j.Src[1], a.groups, places[:], features[:])
	return compareCodes(j, a.bits, row, word, func(k, n int) uint32 {
		for i, p := range places {
			if p == k {
				k = features[i]
				break
			}
		}
		return code(k, n)
	})
}

// marlinFirst is the least input feature of a word, counted from the row's first.
func marlinFirst(bits, word int) int {
	k, _ := marlinElement(bits, word, 0)
	return k
}

// featuresAt finds the input features that lie at some places, in ascending order, after sorting g_idx stably.
func featuresAt(gIdx []byte, groups int, places, features []int) {
	size := len(gIdx) / 4 / groups // of every group, as Run has made sure
	for i := 0; i < len(places); {
		g, seen := places[i]/size, -1
		for k := 0; i < len(places) && places[i]/size == g; k++ {
			if int(binary.LittleEndian.Uint32(gIdx[4*k:])) != g {
				continue
			}
			if seen++; seen == places[i]%size {
				features[i] = k
				i++
			}
		}
	}
}

// compareHalves compares the two elements of 16 bits in one word with what value says of columns of the row.
func compareHalves(j *stages.Job, row, word int, value func(row, column int) uint16) error {
	b := j.Row(row)
	for column := 2 * word; column < 2*word+2; column++ {
		if is, must := binary.LittleEndian.Uint16(b[2*column:]), value(row, column); is != must {
			return mismatch(fmt.Sprintf("element %d of row %d", column, row), uint32(must), uint32(is))
		}
	}
	return nil
}

// source is the column whose element the permutation puts at column i. Source: LAYOUTS C2.
func (p Permutation) source(i int) int {
	if p == Grouped {
		return i/64*64 + 8*(i%8) + i%64/8
	}
	return i/32*32 + 2*(i%32/8) + i%2 + 8*(i%8/2)
}

// one casts one element.
func (c *scaleCast) one(src []byte, i int) uint16 {
	return rounded(c.to, values.Of(c.from, src[i*c.from.Bits()/8:]))
}

// rounded is a value as an element of F16 or BF16.
func rounded(to stages.DType, v float64) uint16 {
	var out [2]byte
	values.Put(out[:], to, v)
	return binary.LittleEndian.Uint16(out[:])
}

// evensFirst is the field of a word of eight in which some layouts have the i-th: the even ones, then the odd ones. Source: LAYOUTS A2.
func evensFirst(i int) int { return i%8/2 + i%2*4 }
