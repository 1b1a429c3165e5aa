package repack

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/stages"
)

// slowFP4Scales follows LAYOUTS C4 step by step: transpose, grouped permutation, then the two in the middle of every four change places.
func slowFP4Scales(scales []byte, n int) (out []byte) {
	groups := len(scales) / n
	for g := range groups {
		row := make([]byte, n)
		for i := range row {
			row[i] = scales[(i/64*64+8*(i%8)+i%64/8)*groups+g]
		}
		for i := 0; i < n; i += 4 {
			row[i+1], row[i+2] = row[i+2], row[i+1]
		}
		out = append(out, row...)
	}
	return out
}

// randomE8M0 makes scales that are numbers.
func randomE8M0(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(255))
	}
	return b
}

func TestMXFP4MarlinScales(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 11))
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, n := range []int{64, 128, 320, 5760} {
				for _, groups := range []int{1, 2, 3, 4, 5, 7, 8, 12, 31, 63, 64, 65, 90, 127, 128, 130, 260} {
					if n > 320 && groups != 90 {
						continue
					}
					s := randomE8M0(r, n*groups)
					sources.WantRows(t, MXFP4MarlinScales(), groups, slowFP4Scales(s, n), s)
				}
			}
		})
	}
}

// TestFP4ScaleOrder: the worked example of LAYOUTS G, and the golden vector, made of the high and the low bytes of 16-bit elements.
func TestFP4ScaleOrder(t *testing.T) {
	row := make([]byte, 64)
	for i := range row {
		row[i] = byte(i)
	}
	want := []byte{0, 16, 8, 24, 32, 48, 40, 56, 1, 17, 9, 25, 33, 49, 41, 57}
	if got := runOp(t, MXFP4MarlinScales(), 1, 64, row); string(got[:16]) != string(want) {
		t.Errorf("order %v, want %v", got[:16], want)
	}
	const groups = 4
	var halves [2][]byte
	for h := range halves {
		for n := range vectorN {
			for g := range groups {
				halves[h] = append(halves[h], byte(optest.Hash(uint32(3000+g), uint32(n))>>(8*h)))
			}
		}
	}
	var joined []byte
	low, high := slowFP4Scales(halves[0], vectorN), slowFP4Scales(halves[1], vectorN)
	for i := range low {
		joined = append(joined, low[i], high[i])
	}
	optest.WantGolden(t, "FP4 scale order", joined, 0xECFB43D8, "307ed25f6eec1395")
}

func TestMXFP4MarlinScalesRefuses(t *testing.T) {
	refusesSizes(t, MXFP4MarlinScales(), 4, 128, make([]byte, 512))
	sources.Refuses(t, MXFP4MarlinScales(), "32 columns", 4, 32, make([]byte, 128))
	for _, at := range []int{0, 77, 511} {
		s := make([]byte, 512)
		s[at] = 0xFF
		j, _ := sources.Job(4, 128, 0, s)
		err := MXFP4MarlinScales().Run(j)
		if data, ok := errors.AsType[*stages.DataError](err); !ok || data.Tensor != "m.qweight" || !strings.Contains(err.Error(), "not finite") {
			t.Errorf("0xFF at %d: error %v", at, err)
		}
	}
}

// TestMXFP4MarlinScalesGuarded: nothing before or behind the source and the destination is touched.
func TestMXFP4MarlinScalesGuarded(t *testing.T) {
	for mask := range cputest.Masks() {
		for _, groups := range []int{3, 32, 90} {
			for _, atEnd := range []bool{false, true} {
				s := randomE8M0(rand.New(rand.NewPCG(4, 12)), 64*groups)
				j := &stages.Job{
					Dst: cputest.Guarded(t, make([]byte, 64*groups), atEnd), Rows: groups, RowBytes: 64, Stride: 64,
					Src: [][]byte{cputest.Guarded(t, s, atEnd)},
				}
				if err := MXFP4MarlinScales().Run(j); err != nil {
					t.Fatalf("%s: %v", mask, err)
				}
			}
		}
	}
}

// FuzzMXFP4MarlinScales: any scales, against the formula.
func FuzzMXFP4MarlinScales(f *testing.F) {
	f.Add(uint64(1), uint8(90), uint8(3))
	f.Fuzz(func(t *testing.T, seed uint64, groups, columns uint8) {
		g, n := int(groups)+1, 64*(int(columns%6)+1)
		s := randomE8M0(rand.New(rand.NewPCG(seed, 13)), n*g)
		for mask := range cputest.Masks() {
			t.Run(mask, func(t *testing.T) { sources.WantRows(t, MXFP4MarlinScales(), g, slowFP4Scales(s, n), s) })
		}
	})
}

// BenchmarkMXFP4MarlinScales: the scales of experts of gpt-oss, 5760 x 2880.
func BenchmarkMXFP4MarlinScales(b *testing.B) {
	const n, groups, experts = 5760, 90, 64
	src, dst := cputest.Memory(b, experts*n*groups), cputest.Memory(b, experts*n*groups)
	copy(src, randomE8M0(rand.New(rand.NewPCG(4, 14)), len(src)))
	for mask := range cputest.Masks() {
		b.Run(mask, func(b *testing.B) {
			cputest.Ratio(b, len(dst), func() {
				for e := range experts {
					at := e * n * groups
					j := &stages.Job{Dst: dst[at : at+n*groups], Rows: groups, RowBytes: n, Stride: n, Src: [][]byte{src[at : at+n*groups]}}
					if err := MXFP4MarlinScales().Run(j); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
