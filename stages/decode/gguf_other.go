//go:build purego || !amd64

package decode

// values computes the values of whole blocks.
func (op *ggufDequant) values(dst []float32, blocks []byte) { op.block.decode(dst, blocks) }
