package repack

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/coldload/coldload/internal/optest"
	"github.com/coldload/coldload/stages"
)

// The slow formulas of the GPTQ layouts, one weight at a time, and what every Op is checked for.

const vectorK, vectorN = 128, 256

// vectorCodes are the codes of the golden vectors, [K][N].
func vectorCodes(bits int) []uint32 {
	q := make([]uint32, vectorK*vectorN)
	for i := range q {
		q[i] = optest.Hash(uint32(i/vectorN), uint32(i%vectorN)) & (1<<bits - 1)
	}
	return q
}

// vectorPerm is the row order of the golden vectors.
func vectorPerm() []int32 {
	p := make([]int32, vectorK)
	for k := range p {
		p[k] = int32((37*k + 11) % vectorK)
	}
	return p
}

// orderOf is a g_idx whose stable sort gives perm: as many groups as features.
func orderOf(perm []int32) []byte {
	g := make([]int32, len(perm))
	for t, k := range perm {
		g[k] = int32(t)
	}
	return gptqInts(g)
}

func gptqInts(v []int32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}

func gptqBytes(v []uint32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// permuteRows takes row perm[k] for row k; nil keeps the order.
func permuteRows(codes []uint32, n int, perm []int32) []uint32 {
	if perm == nil {
		return codes
	}
	out := make([]uint32, 0, len(codes))
	for _, k := range perm {
		out = append(out, codes[int(k)*n:(int(k)+1)*n]...)
	}
	return out
}

// slowMarlin follows the element formulas.
func slowMarlin(codes []uint32, n, bits int) []byte {
	cols := n * bits / 2
	out := make([]uint32, len(codes)/n/16*cols)
	for i, code := range codes {
		k, n := i/n, i%n
		w, p := 128*(n/64)+16*(n%8)+4*((k%8)/2)+(n%64)/16, (k%16)/8+2*((n%16)/8)+4*(k%2)
		if bits == 8 {
			w, p = 256*(n/64)+32*(n%8)+8*((k%8)/2)+2*((n%64)/16)+(n%16)/8, (k%16)/8+2*(k%2)
		}
		out[k/16*cols+w] |= code << (bits * p)
	}
	return gptqBytes(out)
}

// slowExllama follows the element formulas.
func slowExllama(codes []uint32, n, bits int) []byte {
	out := make([]uint32, len(codes)*bits/32)
	for i, code := range codes {
		k, col := i/n, i%n
		per := 32 / bits
		switch bits {
		case 8:
			out[k/per*n+col] |= code << (8 * (k % per))
		case 4:
			out[k/per*n+col] |= code << (4 * slices.Index([]int{0, 2, 4, 6, 1, 3, 5, 7}, k%per))
		case 2:
			c := k % per
			out[k/per*n+col] |= code << (2*(c/2) + 16*(c%2))
		case 3:
			z, c := k%32/10, k%32%10
			if z < 3 {
				out[(k/32*3+z)*n+col] |= code << (3*(c/2) + 16*(c%2))
				continue
			}
			for t := range 3 {
				out[(k/32*3+t)*n+col] |= code >> t & 1 << (15 + 16*c)
			}
		}
	}
	return gptqBytes(out)
}

// slowPerm is the stable sort of a g_idx.
func slowPerm(g []int32) []int32 {
	perm := make([]int32, len(g))
	for i := range perm {
		perm[i] = int32(i)
	}
	slices.SortStableFunc(perm, func(a, b int32) int { return int(g[a]) - int(g[b]) })
	return perm
}

// balancedGroups is a random g_idx of groups of one size.
func balancedGroups(r *rand.Rand, k, groups int) []int32 {
	g := make([]int32, k)
	for i, at := range r.Perm(k) {
		g[at] = int32(i / (k / groups))
	}
	return g
}

func codesOf(r *rand.Rand, k, n, bits int) []uint32 {
	q := make([]uint32, k*n)
	for i := range q {
		q[i] = r.Uint32() & (1<<bits - 1)
	}
	return q
}

// sources are the inputs of a repacking Op, and one more than it has.
var sources = optest.Sources{"qweight", "g_idx", "other"}

// refusesSizes runs op with every source and the rows one element too long and too short.
func refusesSizes(t *testing.T, op stages.Op, rows, rowBytes int, src ...[]byte) {
	t.Helper()
	sources.RefusesSources(t, op, rows, rowBytes, src...)
	sources.Refuses(t, op, "a row too many", rows+1, rowBytes, src...)
	sources.Refuses(t, op, "a row too few", rows-1, rowBytes, src...)
	sources.Refuses(t, op, "rows too wide", rows, rowBytes+1, src...)
	sources.Refuses(t, op, "rows too narrow", rows, rowBytes-1, src...)
}

// runOp runs op on whole, contiguous rows.
func runOp(t *testing.T, op stages.Op, rows, rowBytes int, src ...[]byte) []byte {
	t.Helper()
	j, _ := sources.Job(rows, rowBytes, 0, src...)
	if err := op.Run(j); err != nil {
		t.Fatalf("%s: %v", op, err)
	}
	return j.Dst
}

func mustOp(tb testing.TB) func(op stages.Op, err error) stages.Op {
	tb.Helper()
	return func(op stages.Op, err error) stages.Op {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return op
	}
}

// benchOp measures bytes written per second.
func benchOp(b *testing.B, op stages.Op, rows, rowBytes int, src ...[]byte) {
	b.Helper()
	j, _ := sources.Job(rows, rowBytes, 0, src...)
	b.ReportAllocs()
	b.SetBytes(int64(len(j.Dst)))
	for b.Loop() {
		if err := op.Run(j); err != nil {
			b.Fatal(err)
		}
	}
}

// shaOf is the prefix of a SHA-256, for where only the CRC-32 is known.
func shaOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
