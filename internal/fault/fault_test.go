//go:build unix

package fault_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/edsrzf/mmap-go"

	"github.com/coldload/coldload/internal/fault"
)

// truncated maps a file of n pages and cuts it to nothing: every page of the mapping faults.
func truncated(t *testing.T, pages int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shard")
	if err := os.WriteFile(path, make([]byte, pages*os.Getpagesize()), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := mmap.Map(f, mmap.RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmap(); err != nil {
			t.Error(err)
		}
	})
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	return m
}

//go:noinline
func touch(b []byte, i int) byte { return b[i] }

func TestGuardTurnsATruncatedMappingIntoAnError(t *testing.T) {
	m := truncated(t, 4)
	at := 2*os.Getpagesize() + 100
	reads := map[string]func() error{
		"load": func() error { touch(m, at); return nil },
		"copy": func() error { copy(make([]byte, 64), m[at:]); return nil },
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			for _, regions := range [][][]byte{nil, {m}, {nil, m[at : at+1]}} {
				var e *fault.Error
				if err := fault.Guard(read, regions...); !errors.As(err, &e) {
					t.Fatalf("got %v", err)
				}
				if !e.In(m[at:at+1]) || !e.In(m) {
					t.Errorf("%v is not at byte %d", e, at)
				}
				if e.In(m[:os.Getpagesize()]) || e.In(nil) {
					t.Errorf("%v is in a page that was not touched", e)
				}
			}
		})
	}
}

func TestGuardReturnsWhatFnReturns(t *testing.T) {
	want := errors.New("mine")
	if err := fault.Guard(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	if err := fault.Guard(func() error { return nil }); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestGuardRestoresTheSetting(t *testing.T) {
	for _, before := range []bool{false, true} {
		was := debug.SetPanicOnFault(before)
		_ = fault.Guard(func() error { return nil })
		func() {
			defer func() { _ = recover() }()
			_ = fault.Guard(func() error { panic("x") })
		}()
		if got := debug.SetPanicOnFault(was); got != before {
			t.Errorf("setting is %v, was %v", got, before)
		}
	}
}

// panicOf returns what fn panics with, and the stack at that time.
func panicOf(fn func()) (v any, stack string) {
	defer func() {
		v = recover()
		stack = string(debug.Stack())
	}()
	fn()
	return nil, ""
}

//go:noinline
func store(p *int) { *p = 1 }

func nilDereference() error {
	store(nil)
	return nil
}

func TestGuardLetsOtherPanicsPass(t *testing.T) {
	if v, _ := panicOf(func() { _ = fault.Guard(func() error { panic("mine") }) }); v != "mine" {
		t.Errorf("got %v", v)
	}
	v, stack := panicOf(func() { _ = fault.Guard(nilDereference) })
	if _, ok := v.(runtime.Error); !ok {
		t.Errorf("nil dereference: got %v", v)
	}
	if !strings.Contains(stack, "nilDereference") {
		t.Errorf("the first panic's frames are gone:\n%s", stack)
	}
	i := 7
	if v, _ := panicOf(func() { _ = fault.Guard(func() error { touch([]byte{1}, i); return nil }) }); v == nil {
		t.Error("an index out of range was swallowed")
	}
}

func TestGuardPassesAFaultElsewhere(t *testing.T) {
	m := truncated(t, 1)
	other := make([]byte, 10)
	v, _ := panicOf(func() { _ = fault.Guard(func() error { touch(m, 5); return nil }, other) })
	if _, ok := v.(runtime.Error); !ok {
		t.Errorf("a fault outside the regions: got %v", v)
	}
}

func BenchmarkGuard(b *testing.B) {
	fn := func() error { return nil }
	regions := [][]byte{make([]byte, 8), make([]byte, 8)}
	b.ReportAllocs()
	for b.Loop() {
		if err := fault.Guard(fn, regions...); err != nil {
			b.Fatal(err)
		}
	}
}
