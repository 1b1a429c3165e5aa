package repack

// Every kernel is here in plain Go (the *_generic.go files), which is the reference, and as assembly that internal/asm generates:
//
//	             AVX-512 VBMI   AVX-512      AVX2   else
//	marlin4      VBMI           BW           AVX2   marlin4Row
//	marlin8                     BW           AVX2   marlin8Row
//	rowsMarlin                  BW           AVX2   rowsTile
//	awqMarlin                   BW           AVX2   awqMarlinRow
//	gather                      F            AVX2   gatherRow
//	gatherStrip                 F            AVX2   gatherStripRows
//	copyStrip                   F            AVX2   copyStripRows
//	transpose                   F            AVX2   transposeRows
//	permutations                BW           AVX2   groupedRow, singleRow
//	transposeScales             BW           AVX2   scaleStrips.generic
//
// dispatch_amd64.go chooses at each call, by what internal/cpu says.

//go:generate ../../internal/asm/generate.sh

// marlinRect is a rectangle to repack: rows rows of n columns. dst has them stride bytes apart; src holds the packed rows, one after
// another, and no more than these.
type marlinRect struct {
	dst     []byte
	stride  int
	rows, n int
	src     []byte
	total   int  // bytes of the whole that the rectangle is a piece of; 0 when it is the whole
	soon    bool // dst is read again soon
}

// generic repacks row by row.
func (r *marlinRect) generic(bits int) {
	size := 2 * bits * r.n
	if size == 0 {
		return
	}
	for i := range r.rows {
		marlinRow(r.dst[i*r.stride:i*r.stride+size:i*r.stride+size], r.src[i*size:(i+1)*size:(i+1)*size], r.n, bits)
	}
}
