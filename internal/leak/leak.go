// Package leak tells tests what a piece of work has left behind in the process: goroutines, open files, mappings of files and memory outside of
// the Go heap. Tests that ask must not run beside others.
package leak

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/coldload/coldload/internal/offheap"
)

// State is what the process holds.
type State struct {
	Files    []string // that are open, by their names, pipes and the like left out; nil where the system does not tell
	Mappings []string // of files, by their names
	OffHeap  int64    // bytes
	running  goleak.Option
}

// Now is what the process holds now.
func Now() State {
	return State{Files: openFiles(), Mappings: mappedFiles(), OffHeap: offheap.InUse(), running: goleak.IgnoreCurrent()}
}

// Check fails the test when the process holds more than it did. What is only about to end, such as a goroutine, has half a second.
func (s State) Check(tb testing.TB) {
	tb.Helper()
	if err := goleak.Find(s.running); err != nil {
		tb.Error(err)
	}
	now := Now()
	if more := beyond(now.Files, s.Files); len(more) > 0 {
		tb.Errorf("open files are left: %q", more)
	}
	if more := beyond(now.Mappings, s.Mappings); len(more) > 0 {
		tb.Errorf("mapped files are left: %q", more)
	}
	if now.OffHeap != s.OffHeap {
		tb.Errorf("%d bytes outside of the heap, were %d", now.OffHeap, s.OffHeap)
	}
}

// beyond are the names that are more often in now than in before.
func beyond(now, before []string) (more []string) {
	count := map[string]int{}
	for _, name := range now {
		count[name]++
	}
	for _, name := range before {
		count[name]--
	}
	for _, name := range slices.Sorted(maps.Keys(count)) {
		if count[name] > 0 {
			more = append(more, fmt.Sprintf("%d of %s", count[name], name))
		}
	}
	return more
}

// openFiles are those with a path. Where /proc is not, there are none.
func openFiles() (names []string) {
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil && strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "/proc/") {
			names = append(names, name)
		}
	}
	return names
}

// mappedFiles are those of weights: programs map their own parts, and fonts, locales and the like, when they please.
func mappedFiles() (names []string) {
	text, _ := os.ReadFile("/proc/self/maps")
	for line := range strings.Lines(string(text)) {
		if i := strings.IndexByte(line, '/'); i >= 0 && strings.Contains(line, ".safetensors") {
			names = append(names, strings.TrimSpace(line[i:]))
		}
	}
	return names
}
