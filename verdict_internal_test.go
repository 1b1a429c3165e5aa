package coldload

import (
	"context"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/usage"
	"github.com/coldload/coldload/internal/verdict"
	"github.com/coldload/coldload/stages"
)

// The speed of a copy is asked for once, when the processors were the limit, and told beside the verdict that it led to.
func TestCopySpeedIsTold(t *testing.T) {
	t.Parallel()
	for speed, want := range map[float64]string{2.5e9: BoundByMemory, 9e9: BoundByCPU} {
		r := newJudgedResult()
		r.Duration, r.Kernels = 10*time.Second, "avx512"
		r.meter.begun = r.start
		cpus := usage.Processors()
		r.meter.flowed = Usage{CPU: time.Duration(cpus) * 10 * time.Second, CPUs: float64(cpus), DeviceRead: -1}
		for _, p := range []stages.Phase{stages.PhaseFetch, stages.PhaseRepack, stages.PhaseUpload} {
			f := &r.Phases[p]
			f.First, f.BytesIn, f.BytesOut, f.Busy = r.start, 10e9, 10e9, 9*time.Second
		}
		asked := 0
		r.judge(t.Context(), Options{CopySpeed: func(context.Context) float64 {
			asked++
			return speed
		}})
		if r.Verdict.BoundBy != want || r.Usage.CopySpeed != speed || asked != 1 {
			t.Errorf("a copy of %.0f: %+v, %+v, asked %d times", speed, r.Verdict, r.Usage, asked)
		}
	}
}

// A phase of before the first Batch is not of the flow; hashing the source beside it is.
func TestFlowPhases(t *testing.T) {
	t.Parallel()
	r := newJudgedResult()
	r.meter.begun = r.start.Add(time.Second)
	r.Phases[stages.PhaseFetch].First = r.meter.begun
	r.Phases = append(r.Phases, Phase{Name: "earlier", First: r.start, Last: r.start.Add(time.Millisecond), Busy: 2 * time.Millisecond},
		Phase{Name: "verify source", First: r.meter.begun}, Phase{Name: "mine", First: r.meter.begun})
	r.meter.flowed.DeviceRead, r.meter.flowed.DeviceWritten = 3, 5
	f := r.figures(Options{})
	if f.DeviceRead != 3 || f.DeviceWritten != 5 || len(f.Phases) != 3 || f.Phases[0].Name != "fetch" || f.Phases[1].Name != "verify source" ||
		f.Phases[1].Kind != verdict.Verifies || f.Phases[2].Name != "mine" {
		t.Errorf("%+v", f.Phases)
	}
}
