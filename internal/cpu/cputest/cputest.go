// Package cputest helps to test kernels: on every kind of processor that this one can play, at every alignment, and against the pace of
// the memory. Only tests import it.
package cputest

import (
	"iter"
	"slices"
	"testing"
	"time"
	"unsafe"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/internal/offheap"
)

// Masks are the kinds of processor that this one can play, by name, best first. During each step of the loop the kernels run as that one.
// What the environment took away stays away. The body must not run in parallel with anything that uses kernels.
func Masks() iter.Seq[string] {
	return func(yield func(string) bool) {
		seen := map[cpu.Features]bool{}
		for _, names := range cpu.Masks() {
			if !masked(names, seen, yield) {
				return
			}
		}
	}
}

func masked(names []string, seen map[cpu.Features]bool, yield func(string) bool) bool {
	defer cpu.Disable(names...)()
	if seen[cpu.X86] {
		return true
	}
	seen[cpu.X86] = true
	return yield(cpu.X86.String())
}

// Aligned is n bytes that start shift bytes behind a multiple of 64.
func Aligned(n, shift int) []byte {
	b := make([]byte, n+shift+64)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b)))%64) + shift
	return b[off : off+n : off+n]
}

// AlignedCopy is the content of b at Aligned memory.
func AlignedCopy(b []byte, shift int) []byte {
	c := Aligned(len(b), shift)
	copy(c, b)
	return c
}

// Memory is off-heap memory of n bytes in huge pages, filled with a pattern, freed after the benchmark.
func Memory(b *testing.B, n int) []byte {
	b.Helper()
	r, err := offheap.Alloc(int64(n))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := r.Free(); err != nil {
			b.Error(err)
		}
	})
	m := r.Bytes()
	done := min(n, 64<<10)
	for i := range done {
		m[i] = byte(i * 167 >> 3)
	}
	for ; done < n; done *= 2 {
		copy(m[done:], m[:done])
	}
	return m
}

// Ratio measures work, which handles so many bytes at the pace that counts, against a copy of 128 MiB from memory to memory, in turns. It
// reports the pace of work, and the median ratio to the copy's with the lower and the upper quartile.
func Ratio(b *testing.B, bytes int, work func()) {
	b.Helper()
	const n = 128 << 20
	src, dst := Memory(b, n), Memory(b, n)
	b.SetBytes(int64(bytes))
	var ratios []float64
	work()
	copy(dst, src)
	for b.Loop() {
		start := time.Now()
		work()
		ours := time.Since(start)
		b.StopTimer()
		start = time.Now()
		copy(dst, src)
		theirs := time.Since(start)
		ratios = append(ratios, float64(bytes)/float64(ours)/(n/float64(theirs)))
		b.StartTimer()
	}
	slices.Sort(ratios)
	q := func(num int) float64 { return ratios[num*(len(ratios)-1)/4] }
	b.ReportMetric(q(2), "x-memcpy")
	b.ReportMetric(q(1), "x-memcpy-q1")
	b.ReportMetric(q(3), "x-memcpy-q3")
}
