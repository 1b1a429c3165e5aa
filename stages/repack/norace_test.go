//go:build !race

package repack

const raceEnabled = false
