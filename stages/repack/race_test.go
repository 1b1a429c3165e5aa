//go:build race

package repack

// raceEnabled tells that sync.Pool drops items at random, which it does under the race detector.
const raceEnabled = true
