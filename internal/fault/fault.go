// Package fault turns a fault on mapped memory into an error. A page of a mapped file can vanish while it is read: the file was
// truncated, or the disk failed. The kernel then raises SIGBUS, which ends the process unless the goroutine asked for a panic instead.
// All code that touches mapped bytes runs under [Guard].
package fault

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"unsafe"
)

// Error says that the memory at Addr could not be read or written.
type Error struct {
	Addr uintptr
}

func (e *Error) Error() string { return fmt.Sprintf("memory fault at %#x", e.Addr) }

// In reports whether the fault lies in b, or on a page that b shares: a vector load may start before b's first byte.
func (e *Error) In(b []byte) bool {
	if len(b) == 0 {
		return false
	}
	page := uintptr(os.Getpagesize())
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	first := start &^ (page - 1)
	last := (start + uintptr(len(b)) - 1) | (page - 1)
	return e.Addr >= first && e.Addr <= last
}

// Guard runs fn and returns its error, or an *Error when fn faulted on memory. With regions given, only a fault in one of them is
// turned into an error: any other is a bug. Every panic that is not such a fault goes on. Goroutines that fn starts are not guarded.
//
// The regions must not be changed by fn.
func Guard(fn func() error, regions ...[]byte) (err error) {
	// A deferred call's arguments are evaluated now: this switches on, and the previous setting comes back at the end.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		// Recover and panic again, rather than letting others pass: whether a panic is a fault is known only once it was recovered.
		// The frames of the first panic are still on the stack, so a trace taken further up shows them.
		switch v := recover().(type) {
		case nil:
		case addressed:
			e := &Error{Addr: v.Addr()}
			if !e.inAny(regions) {
				panic(v)
			}
			err = e
		default:
			panic(v)
		}
	}()
	return fn()
}

// addressed is the runtime's panic value for a fault at a non-nil address; a nil dereference has no Addr.
type addressed interface {
	runtime.Error
	Addr() uintptr
}

func (e *Error) inAny(regions [][]byte) bool {
	return len(regions) == 0 || slices.ContainsFunc(regions, e.In)
}
