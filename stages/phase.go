package stages

import "strconv"

// Phase names one step of a load; spans, statistics and the phase table use these names.
type Phase uint8

// The phases, in the order in which a byte meets them.
const (
	PhaseDiscover Phase = iota
	PhaseIndex
	PhasePlan
	PhaseFetch
	PhaseDecode
	PhaseFuse
	PhaseRepack
	PhaseUpload
	PhaseCommit
)

var phaseNames = [...]string{"discover", "index", "plan", "fetch", "decode", "fuse", "repack", "upload", "commit"}

// String is the phase's name as printed and traced.
func (p Phase) String() string {
	if int(p) >= len(phaseNames) {
		return "phase " + strconv.Itoa(int(p))
	}
	return phaseNames[p]
}

// Phases lists every phase in order.
func Phases() []Phase {
	return []Phase{PhaseDiscover, PhaseIndex, PhasePlan, PhaseFetch, PhaseDecode, PhaseFuse, PhaseRepack, PhaseUpload, PhaseCommit}
}
