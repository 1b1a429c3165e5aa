package repack

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/x448/float16"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// slowE4M3 is the value of an F8_E4M3.
func slowE4M3(c byte) float32 {
	m := float64(c & 7)
	v := m * 0x1p-9
	if e := int(c >> 3 & 15); e > 0 {
		v = math.Ldexp(1+m/8, e-7)
	}
	if c&0x80 != 0 {
		v = -v
	}
	return float32(v)
}

// slowFactor is the factor of vLLM, in its own floating-point steps.
func slowFactor(act stages.DType, scales ...[]byte) float32 {
	largest := float32(0)
	for _, list := range scales {
		for _, c := range list {
			largest = max(largest, slowE4M3(c)*128)
		}
	}
	if act == safetensors.F16 || largest == 0 || largest >= 448*128 {
		return 1
	}
	return float32(math.Exp2(math.Floor(math.Log2(float64(448 * 128 / largest)))))
}

// slowByte is the byte of a scale as vLLM makes it: halves all the way, what is below 2 is 0, and the first bit is shifted out.
func slowByte(c byte, factor float32) byte {
	s := float16.Fromfloat32(slowE4M3(c)*factor).Float32() * 128
	h := float16.Fromfloat32(s)
	if h.Float32() < 2 {
		h = 0
	}
	return byte(h.Bits() << 1 >> 8)
}

// slowNVFP4Scales are the scales [N, G] as Marlin wants them.
func slowNVFP4Scales(scales []byte, n int, factor float32) []byte {
	out := slowFP4Scales(scales, n)
	for i, c := range out {
		out[i] = slowByte(c, factor)
	}
	return out
}

// slowGlobal is the scale of a tensor in vLLM's own steps.
func slowGlobal(global float32, act stages.DType, divisor bool, factor float32) []byte {
	bias := float32(0x1p119)
	if act == safetensors.F16 {
		bias = 0x1p7
	}
	if divisor {
		global = 1 / global
	}
	global *= bias
	return f32Bytes(global / factor)
}

func f32Bytes(v float32) []byte { return binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)) }

// TestS0E5M3: every scale with every factor that its peak can have is what vLLM's steps give, and so are the worked examples.
func TestS0E5M3(t *testing.T) {
	for peak := range byte(nanE4M3) {
		shift := nvfp4Shift(peak)
		factor := slowFactor(safetensors.BF16, []byte{peak})
		if float32(math.Ldexp(1, shift)) != factor {
			t.Fatalf("peak %#x: factor 2^%d, want %g", peak, shift, factor)
		}
		m := newS0E5M3(shift)
		for c := range peak + 1 {
			b := []byte{c}
			m.changeBytes(b, b)
			if want := slowByte(c, factor); b[0] != want {
				t.Errorf("peak %#x, scale %#x: %#x, want %#x", peak, c, b[0], want)
			}
		}
	}
	for c, want := range map[byte]byte{0x08: 0x80, 0x38: 0xB0, 0x3C: 0xB4, 0x7E: 0xF6, 0x01: 0x68} {
		if got := s0e5m3(c, 0); got != want {
			t.Errorf("%#x: %#x, want %#x", c, got, want)
		}
	}
}

// TestKernelsReadS0E5M3: what the kernels make of the bytes is scale * factor * 2^7, with both of their conversions.
func TestKernelsReadS0E5M3(t *testing.T) {
	for c := range byte(nanE4M3) {
		for _, peak := range []byte{c, nanE4M3 - 1} {
			shift := nvfp4Shift(max(peak, c))
			b := []byte{c}
			newS0E5M3(shift).changeBytes(b, b)
			want := slowE4M3(c) * float32(math.Ldexp(128, shift))
			if want < 2 {
				want = 0
			}
			half := float16.Frombits(uint16(b[0]) << 7).Float32()
			wide := math.Float32frombits(uint32(uint16(b[0]&0x80)<<7|uint16(b[0]&0x7F)<<4) << 16)
			if half != want || wide != want {
				t.Errorf("scale %#x, peak %#x: %g as F16, %g as BF16, want %g", c, peak, half, wide, want)
			}
		}
	}
}

// nvfp4Scale makes scales up to a peak; some are 0, of either sign.
func nvfp4Scale(r *rand.Rand, n int, peak byte) []byte {
	b := make([]byte, n)
	for i := range b {
		switch r.IntN(40) {
		case 0:
		case 1:
			b[i] = zeroE4M3
		default:
			b[i] = byte(r.IntN(int(peak) + 1))
		}
	}
	return b
}

func TestNVFP4MarlinScales(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 16))
	names := optest.Sources{"weight_scale", "weight_scale", "weight_scale"}
	for mask := range cputest.Masks() {
		t.Run(mask, func(t *testing.T) {
			for _, n := range []int{64, 128, 320} {
				for _, groups := range []int{1, 2, 3, 4, 5, 8, 31, 63, 64, 65, 128, 130, 260} {
					own := nvfp4Scale(r, n*groups, byte(r.IntN(nanE4M3)))
					other := nvfp4Scale(r, r.IntN(300), byte(r.IntN(nanE4M3)))
					f16 := op(t, mustNVFP4Scales(t, safetensors.F16, true), nil)
					names.WantRows(t, f16, groups, slowNVFP4Scales(own, n, 1), own)
					joint := mustNVFP4Scales(t, safetensors.BF16, false)
					names.WantRows(t, joint, groups, slowNVFP4Scales(own, n, slowFactor(safetensors.BF16, own, other)), own, other, own)
				}
			}
		})
	}
}

func mustNVFP4Scales(t *testing.T, act stages.DType, scanned bool) stages.Op {
	t.Helper()
	o, err := NVFP4MarlinScales(act, scanned)
	return op(t, o, err)
}

// TestNVFP4Scan: the Ops of a scan and of those that need it agree with those that read everything themselves.
func TestNVFP4Scan(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 16))
	names := optest.Sources{"weight_scale"}
	for range 200 {
		const n, groups = 64, 8
		lists := [][]byte{nvfp4Scale(r, n*groups, byte(r.IntN(nanE4M3))), nvfp4Scale(r, r.IntN(999), byte(r.IntN(nanE4M3)))}
		var found uint64
		for _, list := range lists {
			j, _ := names.Job(0, 0, 0, list)
			if err := NVFP4Peak().Run(j); err != nil {
				t.Fatal(err)
			}
			found = max(found, j.Found)
		}
		factor := slowFactor(safetensors.BF16, lists...)
		j, _ := names.Job(groups, n, 0, lists[0])
		j.Scanned = found
		o := mustNVFP4Scales(t, safetensors.BF16, true)
		if err := o.Run(j); err != nil {
			t.Fatal(err)
		}
		if want := slowNVFP4Scales(lists[0], n, factor); string(j.Dst) != string(want) {
			t.Fatalf("largest %#x: other bytes", found)
		}
		optest.WantChecks(t, o, j)
		for _, divisor := range []bool{false, true} {
			global := float32(math.Ldexp(1+r.Float64(), r.IntN(38)-30))
			if divisor {
				global = 1 / global
			}
			o, err := NVFP4MarlinGlobal(safetensors.BF16, divisor, true)
			if err != nil {
				t.Fatal(err)
			}
			j, _ := names.Job(1, 4, 0, f32Bytes(global))
			j.Scanned = found
			if err := o.Run(j); err != nil {
				t.Fatal(err)
			}
			if want := slowGlobal(global, safetensors.BF16, divisor, factor); string(j.Dst) != string(want) {
				t.Errorf("global %g, factor %g: %x, want %x", global, factor, j.Dst, want)
			}
			optest.WantChecks(t, o, j)
		}
	}
}

func TestNVFP4MarlinGlobal(t *testing.T) {
	names := optest.Sources{"weight_scale_2", "weight_scale", "weight_scale"}
	for _, divisor := range []bool{false, true} {
		for _, global := range []float32{0x1p-20, 3.1e-5, 0.7, 1, 1.5, 448 * 6, 0x1p-126, 0x1.8p-140} {
			if divisor {
				if global = 1 / global; global > 0x1p100 || global < 1e-3 {
					continue
				}
			}
			for act, more := range map[stages.DType][][]byte{safetensors.F16: nil, safetensors.BF16: {{3, 0x40, zeroE4M3}, {0x21}}} {
				o, err := NVFP4MarlinGlobal(act, divisor, false)
				if err != nil {
					t.Fatal(err)
				}
				src := append([][]byte{f32Bytes(global)}, more...)
				if global > 400 && act == safetensors.BF16 && !divisor {
					names.Refuses(t, o, "too large", 1, 4, src...)
					continue
				}
				names.WantRows(t, o, 1, slowGlobal(global, act, divisor, slowFactor(act, more...)), src...)
			}
		}
	}
}

// TestNVFP4Refuses: what the kernels cannot hold is named, by tensor and element.
func TestNVFP4Refuses(t *testing.T) {
	names := optest.Sources{"weight_scale", "other_scale"}
	good := make([]byte, 64*4)
	for i := range good {
		good[i] = 0x38
	}
	scanned, joint := mustNVFP4Scales(t, safetensors.BF16, true), mustNVFP4Scales(t, safetensors.BF16, false)
	f16 := mustNVFP4Scales(t, safetensors.F16, false)
	for _, c := range []byte{0x7F, 0xFF, 0x81, 0xB8, 0xFE} {
		for _, at := range []int{0, 15, 16, 100, 255} {
			bad := append([]byte(nil), good...)
			bad[at] = c
			for name, x := range map[string]struct {
				op  stages.Op
				src [][]byte
			}{
				"scan": {NVFP4Peak(), [][]byte{bad}}, "F16": {f16, [][]byte{bad}}, "own": {joint, [][]byte{bad, good}},
				"other": {joint, [][]byte{good, bad}}, "scanned": {scanned, [][]byte{bad}},
			} {
				j, frame := names.Job(4, 64, 0, x.src...)
				j.Scanned = 0x7E
				err := x.op.Run(j)
				de, ok := errors.AsType[*stages.DataError](err)
				want := "m.weight_scale"
				if name == "other" {
					want = "m.other_scale"
				}
				if !ok || de.Tensor != want || !strings.Contains(de.Problem, "element") {
					t.Errorf("%s, %#x at %d: %v", name, c, at, err)
				}
				for _, b := range frame {
					if b != optest.Canary {
						t.Fatalf("%s: wrote something", name)
					}
				}
			}
		}
	}
	j, _ := names.Job(4, 64, 0, good)
	j.Scanned = 0x37
	if _, ok := errors.AsType[*stages.DataError](scanned.Run(j)); !ok {
		t.Error("a scale that is larger than the scan found is taken")
	}
	j.Scanned = 0x7F
	if err := scanned.Run(j); err == nil {
		t.Error("a scan that found no number is taken")
	}
	names.RefusesSources(t, f16, 4, 64, good)
	names.Refuses(t, joint, "no scales of its module", 4, 64, good)
	names.Refuses(t, f16, "columns", 4, 32, good[:128])
	names.Refuses(t, joint, "size", 4, 64, good[:9], good)
	for _, act := range []stages.DType{safetensors.F32, safetensors.F8E4M3} {
		_, err := NVFP4MarlinScales(act, false)
		_, err2 := NVFP4MarlinGlobal(act, false, false)
		if err == nil || err2 == nil {
			t.Errorf("%s is taken", act)
		}
	}
	global, err := NVFP4MarlinGlobal(safetensors.F16, true, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []float32{0, float32(math.Inf(1)), float32(math.NaN()), 0x1p-130} {
		names.Refuses(t, global, "divisor", 1, 4, f32Bytes(v))
	}
	names.Refuses(t, global, "size", 1, 4, f32Bytes(1)[:3])
	names.Refuses(t, global, "rows", 2, 4, f32Bytes(1))
}

func TestNVFP4Golden(t *testing.T) {
	const groups = 4
	scales := make([]byte, goldenN*groups) // [N, G]
	for g := range groups {
		for c := range goldenN {
			scales[c*groups+g] = byte(8 + hash(uint32(4000+g), uint32(c))%119)
		}
	}
	out := runOp(t, mustNVFP4Scales(t, safetensors.F16, false), groups, goldenN, scales)
	optest.WantGolden(t, "NVFP4 scale bytes", out, 0x30B00054, "47be27ed4578ffaa")
}

// TestEnoughScale: what a scan calls enough is the least scale that leaves the factor at 1, and no larger scale is refused when it was found.
func TestEnoughScale(t *testing.T) {
	enough, ok := NVFP4Peak().(stages.Sufficer)
	if !ok {
		t.Fatal("a scan for the largest of all")
	}
	for c := range byte(nanE4M3) {
		if got := slowFactor(safetensors.BF16, []byte{c}) == 1; got != (uint64(c) >= enough.Enough()) && c != 0 {
			t.Errorf("scale %#x leaves the factor: %v", c, got)
		}
	}
	scales := nvfp4Scale(rand.New(rand.NewPCG(4, 4)), 64*3, 0x7E)
	scales[100] = 0x7E
	want := slowNVFP4Scales(scales, 64, 1)
	for _, found := range []uint64{enough.Enough(), 0x7E} {
		j := &stages.Job{Dst: make([]byte, len(scales)), Rows: 3, RowBytes: 64, Stride: 64, Src: [][]byte{scales}, Inputs: make([]stages.Input, 1), Scanned: found}
		if err := mustNVFP4Scales(t, safetensors.BF16, true).Run(j); err != nil || string(j.Dst) != string(want) {
			t.Errorf("after %#x: %v", found, err)
		}
	}
}

// FuzzPeak compares the quick look for the largest scale with a loop.
func FuzzPeak(f *testing.F) {
	f.Add([]byte{1, 2, 0x80, 0x7E}, byte(0))
	f.Add(make([]byte, 40), byte(0x7E))
	f.Add([]byte{0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0xFF, 3}, byte(9))
	f.Fuzz(func(t *testing.T, b []byte, from byte) {
		from %= nanE4M3
		want, bad := from, -1
		for i, c := range b {
			if v := slowE4M3(c); v < 0 || c&0x7F == 0x7F {
				bad = i
				break
			}
			want = max(want, c&0x7F)
		}
		for mask := range cputest.Masks() {
			got, at := peakE4M3(b, from)
			if at != bad || at < 0 && got != want {
				t.Errorf("%s: largest %#x, bad at %d; want %#x, %d", mask, got, at, want, bad)
			}
		}
	})
}

// checkChange changes scales as every kind of processor, and compares with the reference.
func checkChange(t *testing.T, scales []byte, shift, align int, atEnd bool) {
	t.Helper()
	m := newS0E5M3(shift)
	want := make([]byte, len(scales))
	m.changeBytes(want, scales)
	wantPeak, wantBad := peakBytes(scales, 0)
	for mask := range cputest.Masks() {
		framed := cputest.Aligned(len(scales)+128, align)
		for i := range framed {
			framed[i] = canary
		}
		dst := framed[64 : 64+len(scales) : 64+len(scales)]
		peak, bad := m.change(dst, cputest.Guarded(t, scales, atEnd))
		if bad != wantBad || bad < 0 && peak != wantPeak {
			t.Fatalf("%s, %d scales: largest %#x, bad at %d, want %#x, %d", mask, len(scales), peak, bad, wantPeak, wantBad)
		}
		if bad < 0 && string(dst) != string(want) {
			t.Fatalf("%s, %d scales times 2^%d: other bytes", mask, len(scales), shift)
		}
		wantFrame(t, cputest.AlignedCopy(framed, 0), 1, len(scales), len(scales)+1)
	}
}

// TestChangeKernels: every byte, and every length at which the kernels change their mind.
func TestChangeKernels(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 17))
	for n := range 260 {
		peak := byte(r.IntN(nanE4M3))
		scales := nvfp4Scale(r, n, peak)
		shift := nvfp4Shift(peak)
		checkChange(t, scales, shift, n%64, n%2 == 0)
		if n > 0 {
			scales[r.IntN(n)] = []byte{0x7F, 0xFF, 0x81, 0xB8}[n%4]
			checkChange(t, scales, shift, 0, true)
		}
	}
	for c := range 256 {
		scales := nvfp4Scale(r, 192, 0x38)
		scales[c%192] = byte(c)
		checkChange(t, scales, 0, 0, false)
	}
	long := nvfp4Scale(r, 1<<20+100, 0x7E) // several calls
	checkChange(t, long, 0, 0, true)
}

func FuzzChangeKernels(f *testing.F) {
	f.Add([]byte{1, 2, 0x80, 0x7E, 8, 7}, byte(0x7E), uint16(100), uint8(3), true)
	f.Fuzz(func(t *testing.T, data []byte, peak byte, n uint16, align uint8, atEnd bool) {
		if len(data) == 0 || peak >= nanE4M3 {
			return
		}
		scales := make([]byte, n%1024)
		for i := range scales {
			if scales[i] = data[i%len(data)]; scales[i] < zeroE4M3 && scales[i] != nanE4M3 {
				scales[i] = min(scales[i], peak)
			}
		}
		checkChange(t, scales, nvfp4Shift(peak), int(align)%64, atEnd)
	})
}
