package repack

import "cmp"

// Every kernel is here in plain Go (the *_generic.go files), which is the reference, and as assembly that internal/asm generates:
//
//	             AVX-512 VBMI   AVX-512      AVX2   else
//	marlin4      VBMI           BW           AVX2   marlin4Row
//	marlin8                     BW           AVX2   marlin8Row
//	rowsMarlin                  BW           AVX2   rowsColumn.generic
//	awqMarlin                   BW           AVX2   awqMarlinRow
//	gather                      F            AVX2   gatherRow
//	spread         VBMI         BW           AVX2   spreadRows
//	tiles                       BW           AVX2   sortedColumn.tilesGeneric
//	packedRows                  BW           AVX2   sortedColumn.packedRowsGeneric
//	transpose                   F            AVX2   transposeRows
//	permutations                BW           AVX2   groupedRow, singleRow
//	transposeScales             BW           AVX2   scaleStrips.generic
//	peakE4M3                    BW           AVX2   peakBytes
//	exllama                     BW           AVX2   exllamaRow, exllama3Rows
//	changeE4M3                  BW           AVX2   toS0E5M3.changeBytes, peakBytes
//
// dispatch_amd64.go chooses at each call, by what internal/cpu says.

//go:generate ../../internal/asm/generate.sh

// marlinRect is a rectangle to repack: rows rows of n columns. dst has them stride bytes apart; src holds the packed rows, apart bytes from
// one to the next, and no more than these.
type marlinRect struct {
	dst     []byte
	stride  int
	rows, n int
	src     []byte
	apart   int  // 0 when the packed rows lie one after another
	total   int  // bytes of the whole that the rectangle is a piece of; 0 when it is the whole
	soon    bool // dst is read again soon
}

// generic repacks row by row.
func (r *marlinRect) generic(bits int) {
	size := 2 * bits * r.n
	if size == 0 {
		return
	}
	apart := r.between(4 * r.n)
	for i := range r.rows {
		marlinRow(r.dst[i*r.stride:i*r.stride+size:i*r.stride+size], r.src[i*bits/2*apart:], r.n, apart, bits)
	}
}

// between is how many bytes lie from one packed row to the next, when each has row of its own.
func (r *marlinRect) between(row int) int { return cmp.Or(r.apart, row) }

// sourceEnd is where src ends at least, when every row of tiles has packed rows of row bytes.
func (r *marlinRect) sourceEnd(packed, row int) int { return (r.rows*packed-1)*r.between(row) + row }
