//go:build purego || !amd64

package decode

// vectors is the number of columns that a kernel decodes side by side; 0 when there is none.
func (d *dequantiser) vectors() int { return 0 }

// panel is never called: there are no vectors.
func (d *dequantiser) decodePanel(*panel, int, int) {}
