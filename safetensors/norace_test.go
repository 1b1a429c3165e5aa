//go:build !race

package safetensors_test

// raceEnabled tells that the race detector slows everything down.
const raceEnabled = false
