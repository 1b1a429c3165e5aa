package decode

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

func int32s(v ...int32) (b []byte) {
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}

// TestChecks: what each Op lets pass, warns of and refuses.
func TestChecks(t *testing.T) {
	zeros := func(bits int, v uint32, times int) (b []byte) {
		for range times {
			for _, w := range PackConstant(bits, false, v) {
				b = binary.LittleEndian.AppendUint32(b, w)
			}
		}
		return b
	}
	spoilt := func(b []byte, at int) []byte {
		b[at] ^= 1
		return b
	}
	for _, x := range []struct {
		op   stages.Op
		src  [][]byte
		says string // the parts of an error or a warning, split at "|"
		warn bool
	}{
		{op: CheckGroupOrder(2), src: [][]byte{int32s(0, 0, 1, 1, 2, 2)}},
		{op: CheckGroupOrder(2), src: [][]byte{int32s(0, 0, 1, 1, 2)}},
		{op: CheckGroupOrder(4), src: [][]byte{int32s(0, 0, 0, 0)}},
		{op: CheckGroupOrder(2), src: [][]byte{int32s(0, 1, 0, 1)}, says: "m.qweight|g_idx[1] is not its group|expected 0|found 1|--act-order"},
		{op: CheckGroupOrder(2), src: [][]byte{int32s(0, 0, 2, 1)}, says: "g_idx[2] is out of range|0 to 1|found 2"},
		{op: CheckGroupOrder(2), src: [][]byte{int32s(0, 0, 2, 1, 2)}, says: "g_idx[2] is not its group"},
		{op: CheckGroupOrder(4), src: [][]byte{int32s(0, -5, 0, 0)}, says: "g_idx[1] is out of range|found -5"},
		{op: CheckGroupRange(3), src: [][]byte{int32s(2, 0, 1, 1)}},
		{op: CheckGroupRange(3), src: [][]byte{int32s(2, 0, 3, 1)}, says: "g_idx[2] is out of range|0 to 2|found 3"},
		{op: CheckGroupRange(3), src: [][]byte{int32s(-1)}, says: "g_idx[0] is out of range"},
		{op: CheckSameOrder(), src: [][]byte{int32s(1, 2), int32s(1, 2)}},
		{op: CheckSameOrder(), src: [][]byte{int32s(1, 2), int32s(2, 1)}, says: "m.qweight|differs|m.scales|--no-fuse"},
		{op: CheckFinite(safetensors.F16), src: [][]byte{{0xFF, 0x7B}}},
		{op: CheckFinite(safetensors.F16), src: [][]byte{{0, 0, 0, 0x7C}}, says: "m.qweight|element 1|not finite"},
		{op: CheckZeros(PackConstant(4, false, 7), "so be it"), src: [][]byte{zeros(4, 7, 3)}},
		{op: CheckZeros(PackConstant(3, false, 3), "so be it"), src: [][]byte{zeros(3, 3, 5)}},
		{op: CheckZeros(PackConstant(8, false, 127), "so be it"), src: [][]byte{zeros(8, 127, 1)[:4]}}, // four columns
		{op: CheckZeros(PackConstant(4, false, 7), "so be it"), src: [][]byte{zeros(4, 8, 3)}, says: "word 0 is 0x88888888|has 0x77777777|so be it", warn: true},
		{op: CheckZeros(PackConstant(3, false, 3), "so be it"), src: [][]byte{spoilt(zeros(3, 3, 5), 59)}, says: "word 14|so be it", warn: true},
		{op: CheckZeroFields(4, 2), src: [][]byte{zeros(4, 14, 2)}},
		{op: CheckZeroFields(4, 4), src: [][]byte{spoilt(zeros(4, 14, 2), 19)}, says: "m.qweight|group 2|output 0|all ones|gptq_v2"},
		{op: CheckZeroFields(3, 1), src: [][]byte{zeros(3, 7, 1)}, says: "group 0 near output 0 is stored as 7"},
		{op: CheckZeroFields(8, 1), src: [][]byte{int32s(0x00FF0000)}, says: "near output 0 is stored as 255|at most 254"},
	} {
		j, _ := sources.Job(0, 0, 0, x.src...)
		var warned string
		j.Warn = func(format string, args ...any) { warned += fmt.Sprintf(format, args...) }
		err := x.op.Run(j)
		parts := strings.Split(x.says, "|")
		switch {
		case x.warn:
			for _, p := range parts {
				if err != nil || !strings.Contains(warned, p) {
					t.Errorf("%s: error %v, warning %q, want %q", x.op, err, warned, p)
				}
			}
		case x.says != "":
			if !says(err, parts...) {
				t.Errorf("%s: error %v, want all of %q", x.op, err, parts)
			}
		case err != nil || warned != "":
			t.Errorf("%s: error %v, warning %q", x.op, err, warned)
		}
	}
}

// TestChecksCountTheirInputs: a wrong number is an error, no panic.
func TestChecksCountTheirInputs(t *testing.T) {
	good := int32s(0, 0)
	for op, n := range map[stages.Op]int{
		CheckGroupOrder(2): 1, CheckGroupRange(1): 1, CheckSameOrder(): 2, CheckZeros([]uint32{0}, ""): 1, CheckFinite(safetensors.F16): 1, CheckZeroFields(4, 1): 1,
	} {
		for count := range 4 {
			src := [][]byte{good, good, good}[:count]
			j, _ := sources.Job(0, 0, 0, src...)
			if err := op.Run(j); (err == nil) != (count == n) {
				t.Errorf("%s with %d inputs: %v", op, count, err)
			}
			if a := testing.AllocsPerRun(10, func() { _ = op.Run(j) }); count == n && a > 1 {
				t.Errorf("%s: %v allocations", op, a)
			}
		}
	}
	j, _ := sources.Job(0, 0, 0, good)
	if err := CheckZeroFields(4, 3).Run(j); err == nil {
		t.Error("8 bytes are no 3 rows")
	}
}

// FuzzPackConstant compares with the packing bit by bit.
func FuzzPackConstant(f *testing.F) {
	f.Add(uint8(3), true, uint32(5))
	f.Fuzz(func(t *testing.T, bits uint8, planar bool, v uint32) {
		b := int(bits%7) + 2
		codes := make([]uint32, 32)
		for i := range codes {
			codes[i] = v & (1<<b - 1)
		}
		if got, want := PackConstant(b, planar, codes[0]), optest.PackAlong(codes, b, planar); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%d bits, planar %v, %d: %08X, want %08X", b, planar, codes[0], got, want)
		}
	})
}

// TestZeroRows compares the fields with the packing bit by bit.
func TestZeroRows(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for bits := 2; bits <= 8; bits++ {
		for _, planar := range []bool{false, true} {
			codes := make([]uint32, 96)
			for i := range codes {
				codes[i] = r.Uint32N(1 << bits)
			}
			row := zeroRow{b: optest.PackColumns(codes, 96, bits, planar), bits: bits, planes: planesOf(bits, planar)}
			for i, code := range codes {
				if got := row.field(i); got != int(code) {
					t.Fatalf("%d bits, planar %v: field %d is %d, want %d", bits, planar, i, got, code)
				}
			}
		}
	}
}
