//go:build purego || !amd64

package repack

func (r *marlinRect) repack(bits int) { r.generic(bits) }

func (c *rowsColumn) repack() { c.generic() }

func (r *marlinRect) repackAWQ() { r.genericAWQ() }

func gather(dst, qweight []byte, rows []int32, bits int) { gatherRow(dst, qweight, rows, bits) }

func grouped(dst, src []byte) { groupedRow(dst, src) }

func groupedStream(dst, src []byte) { groupedRow(dst, src) }

func single(dst, src []byte) { singleRow(dst, src) }

func spreadStrip(strip, src []byte, stride, bits int) { spreadRows(strip, src, stride, bits) }

func (t *sortedColumn) tiles() { t.tilesGeneric() }

func (t *sortedColumn) packedRows() { t.packedRowsGeneric() }

func transpose(dst, src []byte, stride, _, _ int) { transposeRows(dst, src, stride) }

func (s *scaleStrips) transpose(dst, src []byte) { s.generic(dst, src) }

func (*scaleStrips) finish() {}

func largestE4M3([]byte) (largest byte, done int) { return 0, 0 }

func (*toS0E5M3) changeLines(_, _ []byte) (largest byte, done int) { return 0, 0 }

func exllamaLines(_, _ []byte, _ int, _ bool) (done int) { return 0 }

func exllama3Lines(_, _ []byte, _, _ int, _ bool) (done int) { return 0 }
