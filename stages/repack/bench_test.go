package repack

import (
	"fmt"
	"testing"

	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// Rates are bytes of the destination a second; "x-memcpy" is the ratio to a copy of as many, from memory to memory.

func BenchmarkMarlin(b *testing.B) {
	const total = 128 << 20
	for _, bits := range []int{4, 8} {
		for _, n := range []int{768, 1536, 3072, 8192, 28672} {
			b.Run(fmt.Sprintf("bits=%d/n=%d", bits, n), func(b *testing.B) {
				for mask := range cputest.Masks() {
					b.Run(mask, func(b *testing.B) {
						src, dst := cputest.Memory(b, total+64), cputest.Memory(b, total)
						// Experts of 2048 input features, as a Batch has them. The tensors of a file start anywhere.
						size := 2 * bits * n
						rows := 2048 / tileK
						cputest.Ratio(b, total/(rows*size)*rows*size, func() {
							for at := 0; at+rows*size <= total; at += rows * size {
								r := marlinRect{dst: dst[at:], stride: size, rows: rows, n: n, src: src[at+56 : at+56+rows*size]}
								r.repack(bits)
							}
						})
					})
				}
			})
		}
	}
}

// BenchmarkRowsMarlin repacks experts and layers whose codes lie along K: [N, K].
func BenchmarkRowsMarlin(b *testing.B) {
	const total = 128 << 20
	for _, bits := range []int{4, 8} {
		for _, shape := range [][2]int{{768, 2048}, {1536, 2048}, {2048, 7168}, {7168, 2048}, {4096, 4096}, {4096, 14336}, {18432, 7168}} {
			n, k := shape[0], shape[1]
			b.Run(fmt.Sprintf("bits=%d/n=%d,k=%d", bits, n, k), func(b *testing.B) {
				for mask := range cputest.Masks() {
					b.Run(mask, func(b *testing.B) {
						src, dst := cputest.Memory(b, total+64), cputest.Memory(b, total)
						op, size, stride := rowsMarlin{bits: bits}, n*k*bits/8, 2*bits*n
						cputest.Ratio(b, total/size*size, func() {
							for at := 0; at+size <= total; at += size {
								j := &stages.Job{Dst: dst[at : at+size], Rows: k / tileK, RowBytes: stride, Stride: stride, Src: [][]byte{src[at+56 : at+56+size]}}
								if err := op.Run(j); err != nil {
									b.Fatal(err)
								}
							}
						})
					})
				}
			})
		}
	}
}

func BenchmarkGather(b *testing.B) {
	const k, n = 4096, 4096
	for _, bits := range []int{4, 8} {
		b.Run(fmt.Sprintf("bits=%d", bits), func(b *testing.B) {
			for mask := range cputest.Masks() {
				b.Run(mask, func(b *testing.B) {
					per := 32 / bits
					src, dst := cputest.Memory(b, k/per*n*4), make([]byte, 4*n)
					rows := make([]int32, k)
					for i := range rows {
						rows[i] = int32(i * 1237 % k)
					}
					cputest.Ratio(b, len(src), func() {
						for at := 0; at < k; at += per {
							gather(dst, src, rows[at:at+per], bits)
						}
					})
				})
			}
		})
	}
}

func BenchmarkPermutation(b *testing.B) {
	const total = 128 << 20
	for _, p := range []Permutation{Grouped, Single} {
		b.Run(p.String(), func(b *testing.B) {
			for mask := range cputest.Masks() {
				b.Run(mask, func(b *testing.B) {
					src, dst := cputest.Memory(b, total+64), cputest.Memory(b, total)
					cputest.Ratio(b, total, func() {
						const row = 2 * 1536
						for at := 0; at+row <= total; at += row {
							p.row(dst[at:at+row:at+row], src[at+56:at+56+row])
						}
					})
				})
			}
		})
	}
}

// BenchmarkNVFP4Scales makes the scales of experts for Marlin, and finds the largest of them.
func BenchmarkNVFP4Scales(b *testing.B) {
	const total, n, groups = 64 << 20, 2048, 448
	const size = n * groups
	for mask := range cputest.Masks() {
		src, dst := cputest.Memory(b, total+64), cputest.Memory(b, total)
		for i := range src {
			src[i] = byte(0x20 + i*7919%0x5F)
		}
		each := func(b *testing.B, op stages.Op, job func(at int) *stages.Job) {
			b.Helper()
			cputest.Ratio(b, total/size*size, func() {
				for at := 0; at+size <= total; at += size {
					if err := op.Run(job(at)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(mask+"/marlin", func(b *testing.B) {
			op, err := NVFP4MarlinScales(safetensors.BF16, true)
			if err != nil {
				b.Fatal(err)
			}
			each(b, op, func(at int) *stages.Job {
				return &stages.Job{Dst: dst[at : at+size], Rows: groups, RowBytes: n, Stride: n, Src: [][]byte{src[at+56 : at+56+size]}, Scanned: 0x7E}
			})
		})
		b.Run(mask+"/scan", func(b *testing.B) {
			each(b, NVFP4Peak(), func(at int) *stages.Job { return &stages.Job{Src: [][]byte{src[at+56 : at+56+size]}} })
		})
	}
}
