//go:build !linux

package synth

// checkSpace does nothing: on this system a full disk shows while writing.
func checkSpace(string, int64) error { return nil }
