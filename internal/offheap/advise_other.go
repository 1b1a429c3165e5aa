//go:build !linux

package offheap

// adviseHuge does nothing: this system has no such advice.
func adviseHuge([]byte) {}
