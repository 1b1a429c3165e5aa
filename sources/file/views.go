package file

import "sync/atomic"

// views are the Views of one Fetch.
type views struct {
	source   *Source
	bytes    [][]byte
	buf      *buffer                 // holds the ranges that were copied; nil when there are none
	used     [len(methodNames)]int64 // bytes by method
	released atomic.Bool
}

// Bytes is the i-th range; nil after Release.
func (v *views) Bytes(i int) []byte {
	if v.released.Load() {
		return nil
	}
	return v.bytes[i]
}

// Method names the way the bytes were read; "mixed" when there were several, "none" when there were no bytes.
func (v *views) Method() string {
	name := "none"
	for m, n := range v.used {
		switch {
		case n == 0:
		case name == "none":
			name = methodNames[m]
		default:
			name = "mixed"
		}
	}
	return name
}

// Release gives the bytes back. Only the first call does anything; it may come from any goroutine.
func (v *views) Release() {
	if v.released.Swap(true) {
		return
	}
	if v.buf != nil {
		v.source.pool.put(v.buf)
	}
	v.source.leave()
}
