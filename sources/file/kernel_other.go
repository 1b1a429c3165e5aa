//go:build !linux

package file

import (
	"os"

	"github.com/coldload/coldload/stages"
)

// kernel has nothing to ask on this system.
type kernel struct{ calls }

// systemCalls has only what is asked for when nothing is known.
func systemCalls() calls { return calls{openDirect: openDirect, preadDirect: preadDirect} }

// populate does nothing: pages are faulted in by touch, under the fault guard.
func (*kernel) populate([]byte) error { return nil }

// resident is not known, so that ModeAuto takes everything for cold.
func (*kernel) resident(*shard, stages.Extent) (share float64, known bool) { return 0, false }

// remote is not asked for: without resident, nothing is mapped on its own accord.
func remote(*os.File) bool { return false }

// discard cannot be done: a buffer that is reused for less keeps its memory.
func discard([]byte) bool { return false }
