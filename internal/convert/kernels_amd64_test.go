//go:build !purego

package convert

import (
	"fmt"
	"math/bits"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
)

// The kernels that look for infinities must find none where there is none: what they are in doubt about, the generic code looks at again.
func TestFiniteBytesKnowsWhatIsFinite(t *testing.T) {
	for mask := range cputest.Masks() {
		for _, c := range []struct{ limit, top uint64 }{{0x7C * ones8, top8}, {inf16 * ones16, top16}, {inf32 * ones32, top32}, {inf64, 1 << 63}} {
			width := bits.TrailingZeros64(c.top) + 1
			t.Run(fmt.Sprintf("%s/%d bits", mask, width), func(t *testing.T) {
				b := make([]byte, 3<<20)
				want := len(b)
				if mask == "generic" {
					want = 0
				}
				for _, fill := range []byte{0, 0x3B, 0xBB} {
					for i := range b {
						b[i] = fill
					}
					if got := finiteBytes(b, width, ^c.top, c.top-c.limit); got != want {
						t.Errorf("filled with %#x: %d bytes known, want %d", fill, got, want)
					}
				}
			})
		}
	}
}
