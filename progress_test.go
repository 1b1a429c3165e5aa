package coldload_test

import (
	"context"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/stages"
)

// Progress begins at nothing, never goes back, and is at its totals to the byte when it says that all is done.
func TestProgress(t *testing.T) {
	t.Parallel()
	for _, fixture := range []string{"gptq_moe_4b_g128_sharded", "plain_bf16_sharded"} {
		var told []coldload.Progress
		opt := coldload.Options{Budget: 1 << 20, Progress: func(p coldload.Progress) { told = append(told, p) }}
		opt.Stages = []coldload.Insert{{After: stages.PhaseDecode, Stage: stageFunc(func(_ context.Context, b *stages.Batch) (*stages.Batch, error) { return b, nil })}}
		res, err := coldload.Load(t.Context(), fixturePath(fixture), discard.New(), opt)
		if err != nil {
			t.Fatal(err)
		}
		first, last := told[0], told[len(told)-1]
		if first.Written != 0 || first.Total != res.BytesOut() || first.Done || len(told) != res.Plan.BatchCount()+2 {
			t.Errorf("%s: begins with %+v, %d calls for %d Batches", fixture, first, len(told), res.Plan.BatchCount())
		}
		before := first
		for _, p := range told {
			checkProgress(t, before, p)
			before = p
		}
		if !last.Done || last.Written != last.Total {
			t.Errorf("%s: ends with %+v", fixture, last)
		}
		want := map[string]int64{"fetch": res.Plan.Summary.BytesRead, "upload": res.BytesOut(), "decode": 0, "fuse": 0, "repack": 0, "mine": 0}
		for _, p := range last.Phases {
			if total, ok := want[p.Name]; !ok || p.Total != total || (total > 0 && p.Bytes != total) {
				t.Errorf("%s: at the end %+v, want %d", fixture, p, total)
			}
		}
		for _, p := range res.Phases[stages.PhaseFetch:stages.PhaseCommit] {
			for _, q := range last.Phases {
				if q.Name == p.Name && q.Bytes != p.BytesOut {
					t.Errorf("%s: %+v of progress, %d bytes in the result", fixture, q, p.BytesOut)
				}
			}
		}
	}
}

// checkProgress wants the phases in order, and none that goes back or beyond its end.
func checkProgress(t *testing.T, before, p coldload.Progress) {
	t.Helper()
	names := []string{"fetch", "decode", "mine", "fuse", "repack", "upload"}
	if p.Written < before.Written || p.Written > p.Total || len(p.Phases) != len(names) {
		t.Fatalf("%+v after %+v", p, before)
	}
	for i, q := range p.Phases {
		if q.Name != names[i] || q.Bytes < before.Phases[i].Bytes || (q.Total > 0 && q.Bytes > q.Total) {
			t.Errorf("%+v after %+v", q, before.Phases[i])
		}
	}
}
