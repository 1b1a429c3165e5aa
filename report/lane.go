package report

import (
	"cmp"
	"slices"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
)

// Sources of pipelines, which are stages too.
const (
	admission = execute.Admission
	shards    = execute.Shards // of those that read headers and hash files
)

// laneKey is one worker of one stage, drawn as one line through time.
type laneKey struct {
	stage  string
	worker int
}

// laneOf tells whose line an event belongs to. The sinks of the pipelines before the main one bear the names of phases without being them:
// what they do is shown, but not counted as the phase's.
func laneOf(e pipeline.Event) laneKey {
	k := laneKey{e.Stage, e.Worker}
	switch {
	case e.Sink == "" || e.Sink == stages.PhaseUpload.String():
	case e.Stage == stages.PhaseCommit.String():
		k.stage += " (" + e.Sink + ")"
	case isPhase(e.Stage):
		k.stage += " (collect)"
	}
	return k
}

func isPhase(stage string) bool {
	return slices.ContainsFunc(stages.Phases(), func(p stages.Phase) bool { return p.String() == stage })
}

// inFlow tells whether the items of a stage are the Batches of the main pipeline, given those of the user's own stages in between.
func inFlow(e pipeline.Event) bool {
	switch e.Stage {
	case stages.PhaseFetch.String(), stages.PhaseDecode.String(), stages.PhaseFuse.String(), stages.PhaseRepack.String(), stages.PhaseUpload.String():
		return !e.End
	default:
		return !e.End && e.Sink == "" && e.Stage != admission && e.Stage != shards && !isPhase(e.Stage)
	}
}

// early are the stages before the plan that are no phases.
var early = []string{shards, "index (collect)", "commit (index)", execute.SampleSource}

// stageRank orders lanes as bytes meet them: the phases, verification and admission before fetch, and what is not known before upload.
func stageRank(stage string) int {
	for _, p := range stages.Phases() {
		if p.String() == stage {
			return 10 * int(p)
		}
	}
	if i := slices.Index(early, stage); i >= 0 {
		return 10*int(stages.PhaseIndex) + 1 + i
	}
	switch stage {
	case execute.VerifySource:
		return 10*int(stages.PhaseFetch) - 2
	case admission:
		return 10*int(stages.PhaseFetch) - 1
	}
	return 10*int(stages.PhaseUpload) - 1
}

// inOrder are phases as bytes meet them. A Result has what is no standard phase at its end.
func inOrder(phases []coldload.Phase) []coldload.Phase {
	sorted := slices.Clone(phases)
	slices.SortStableFunc(sorted, func(a, b coldload.Phase) int { return cmp.Compare(stageRank(a.Name), stageRank(b.Name)) })
	return sorted
}

// titleOf is what people read of a stage: its name, but for admission, whose name says what it makes and not what it does.
func titleOf(stage string) string {
	if stage == admission {
		return "admit"
	}
	return stage
}

func compareLanes(a, b laneKey) int {
	return cmp.Or(cmp.Compare(stageRank(a.stage), stageRank(b.stage)), cmp.Compare(a.stage, b.stage), cmp.Compare(a.worker, b.worker))
}
