//go:build purego || !amd64

package repack

func (r *marlinRect) repack(bits int) { r.generic(bits) }

func (c *rowsColumn) repack() { c.generic() }

func (r *marlinRect) repackAWQ() { r.genericAWQ() }

func gather(dst, qweight []byte, rows []int32, bits int) { gatherRow(dst, qweight, rows, bits) }

func grouped(dst, src []byte) { groupedRow(dst, src) }

func single(dst, src []byte) { singleRow(dst, src) }

func copyStrip(dst, src []byte, stride int) { copyStripRows(dst, src, stride) }

func transpose(dst, src []byte, stride, _, _ int) { transposeRows(dst, src, stride) }

func (s *scaleStrips) transpose(dst, src []byte) { s.generic(dst, src) }

func gatherStrip(dst, strip []byte, fields []uint32, bits int) {
	gatherStripRows(dst, strip, fields, bits)
}

// fieldTurn is how many bits the words of a row move right that has field from in them.
func fieldTurn(from, _, bits int) int { return bits * from }
