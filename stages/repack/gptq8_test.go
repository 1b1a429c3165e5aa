package repack

import (
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/stages"
)

func TestMarlin8IsTheFormula(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 1))
	op := mustOp(t)(GPTQMarlin(8))
	for _, s := range [][2]int{{16, 64}, {48, 64}, {16, 128}, {64, 192}, {32, 320}} {
		k, n := s[0], s[1]
		codes := codesOf(r, k, n, 8)
		sources.WantRows(t, op, k/16, slowMarlin(codes, n, 8), optest.PackRows(codes, n, 8, false))
	}
}

// TestMarlin8Slices: rows may be repacked in any portions, as the Slabs cut them.
func TestMarlin8Slices(t *testing.T) {
	codes := codesOf(rand.New(rand.NewPCG(8, 2)), 64, 128, 8)
	q, want := optest.PackRows(codes, 128, 8, false), slowMarlin(codes, 128, 8)
	const row = 128 * 16
	for i := range 4 {
		sources.WantRows(t, marlin8Op(t), 1, want[i*row:(i+1)*row], q[i*row:(i+1)*row])
	}
}

func marlin8Op(tb testing.TB) stages.Op {
	tb.Helper()
	return mustOp(tb)(GPTQMarlin(8))
}

func TestMarlinRefusesWrongSizes(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 3))
	for _, bits := range []int{4, 8} {
		q := optest.PackRows(codesOf(r, 32, 64, bits), 64, bits, false)
		refusesSizes(t, mustOp(t)(GPTQMarlin(bits)), 2, 64*bits*2, q)
		refusesSizes(t, mustOp(t)(GPTQMarlinActOrder(bits, 2)), 2, 64*bits*2, q, gptqInts(balancedGroups(r, 32, 2)))
		// 32 columns are no tile.
		j, _ := sources.Job(2, 32*bits*2, 0, q[:len(q)/2])
		if err := mustOp(t)(GPTQMarlin(bits)).Run(j); err == nil {
			t.Errorf("%d bits: half a tile was repacked", bits)
		}
	}
	for _, bits := range []int{-4, 0, 1, 2, 3, 5, 6, 7, 16} {
		if op, err := GPTQMarlin(bits); err == nil {
			t.Errorf("%s", op)
		}
		if op, err := GPTQMarlinActOrder(bits, 2); err == nil {
			t.Errorf("%s", op)
		}
	}
}

func TestMarlin8DoesNotAllocate(t *testing.T) {
	j, _ := sources.Job(4, 16*256, 0, make([]byte, 4*16*256))
	op := marlin8Op(t)
	if n := testing.AllocsPerRun(20, func() {
		if err := op.Run(j); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzMarlin8(f *testing.F) {
	f.Add(uint64(1), uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, seed uint64, rows, tiles uint8) {
		k, n := 16*int(rows%4+1), 64*int(tiles%4+1)
		codes := codesOf(rand.New(rand.NewPCG(seed, 0)), k, n, 8)
		sources.WantRows(t, marlin8Op(t), k/16, slowMarlin(codes, n, 8), optest.PackRows(codes, n, 8, false))
	})
}

// The benchmarks' module: 2 MiB of 4-bit codes, 4 MiB of 8-bit ones.
const benchK, benchN = 2048, 2048

func BenchmarkMarlin8(b *testing.B) {
	benchOp(b, marlin8Op(b), benchK/16, benchN*16, make([]byte, benchK*benchN))
}

func BenchmarkCopyMarlin8(b *testing.B) {
	src, dst := make([]byte, benchK*benchN), make([]byte, benchK*benchN)
	b.SetBytes(benchK * benchN)
	for b.Loop() {
		copy(dst, src)
	}
}
