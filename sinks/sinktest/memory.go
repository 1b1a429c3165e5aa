package sinktest

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"go.uber.org/goleak"

	"github.com/coldload/coldload/stages"
)

// noise is what a process's memory may move by itself, in bytes.
const noise = 16 << 20

// abortFrees aborts many loads half-way, and looks for what they left in this process.
func (s *suite) abortFrees() {
	const rounds, slabs = 12, 4
	leaks := goleak.IgnoreCurrent()
	files, memory := openFiles(), anonymous()
	for range rounds {
		l := s.begin(large(slabs))
		for i, slab := range l.slabs {
			b, err := l.reserve(l.Context(), slab)
			s.must(err)
			pattern(slab, b)
			if i%2 == 0 {
				s.must(l.write(slab, b))
			}
		}
		l.abort("half-way")
	}
	goleak.VerifyNone(s, leaks)
	if n := openFiles() - files; n > 0 {
		s.Errorf("%d aborted loads left %d open files", rounds, n)
	}
	if n := anonymous() - memory; n > noise {
		s.Errorf("%d aborted loads of %d MiB left %d MiB of memory", rounds, slabs, n>>20)
	}
}

// stagingFigures compares what the sink holds for reserved Slabs with what it says: StagingBytes, or the Outputs' size when it hands out
// final memory.
func (s *suite) stagingFigures() {
	outputs := large(32)
	limit, stager := outputs[0].Size, false
	l := s.begin(outputs)
	if st, ok := l.Sink.(stages.Stager); ok {
		limit, stager = s.staging(st, l), true
	}
	before := anonymous()
	for _, slab := range l.slabs {
		b, err := l.reserve(l.Context(), slab)
		s.must(err)
		pattern(slab, b)
	}
	if held := anonymous() - before; held > limit+noise {
		s.Errorf("the sink holds %d MiB and tells %d MiB (Stager: %v)", held>>20, limit>>20, stager)
	}
	l.abort("after every Reserve")
}

// staging is the sum of the sink's figures, none of which may be less than the buffer itself.
func (s *suite) staging(st stages.Stager, l *load) (sum int64) {
	s.Helper()
	for _, slab := range append(slabsOf(various()), l.slabs...) {
		if n := st.StagingBytes(slab); n < slab.Len {
			s.Errorf("StagingBytes of a slab of %d bytes is %d", slab.Len, n)
		}
	}
	for _, slab := range l.slabs {
		sum += st.StagingBytes(slab)
	}
	return sum
}

// anonymous is the process's resident anonymous memory in bytes, without what the Go heap no longer uses; 0 where the system does not
// tell.
func anonymous() int64 {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")), 10, 64)
			return n << 10
		}
	}
	return 0
}

// openFiles counts this process's open files; 0 where the system does not tell.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}
