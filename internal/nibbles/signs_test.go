package nibbles

import "testing"

// TestFlipSigns has every length up to two steps and every byte.
func TestFlipSigns(t *testing.T) {
	for n := range 300 {
		src, dst := make([]byte, n), make([]byte, n+1)
		for i := range src {
			src[i] = byte(i)
		}
		FlipSigns(dst[:n], src)
		for i, b := range src {
			if want := byte(int(int8(b)) + 128); dst[i] != want {
				t.Fatalf("%d bytes: byte %d of %#x is %#x, want %#x", n, i, b, dst[i], want)
			}
		}
		if dst[n] != 0 {
			t.Fatalf("%d bytes: more was written", n)
		}
	}
}
