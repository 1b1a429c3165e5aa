package repack

import (
	"math/rand/v2"
	"testing"

	"github.com/coldload/coldload/stages"
)

// BenchmarkCheckWord is what one word of a self-check costs, of codes that lie in no cache.
func BenchmarkCheckWord(b *testing.B) {
	const rows, columns, parts = 64, 1536, 64 // 768 KiB each
	src, dst := make([]byte, parts*rows*columns*8), make([]byte, parts*rows*columns*8)
	size := rows * columns * 8
	op := gptqMarlin{bits: 4}
	jobs := make([]*stages.Job, parts)
	for i := range jobs {
		jobs[i] = &stages.Job{Dst: dst[i*size : (i+1)*size], Rows: rows, RowBytes: 8 * columns, Stride: 8 * columns, Src: [][]byte{src[i*size : (i+1)*size]}}
		if err := op.Run(jobs[i]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		j := jobs[i%parts]
		if err := op.CheckWord(j, rand.IntN(rows), rand.IntN(2*columns)); err != nil {
			b.Fatal(err)
		}
	}
}
