package coldload_test

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// spoiler is a user's stage that does something to the checkpoint when the first Batch comes by.
type spoiler struct {
	once sync.Once
	do   func() error
}

func (*spoiler) Name() string { return "spoiler" }

func (s *spoiler) Process(_ context.Context, b *stages.Batch) (*stages.Batch, error) {
	var err error
	s.once.Do(func() { err = s.do() })
	if err != nil {
		b.Release()
		return nil, err
	}
	return b, nil
}

// big is a checkpoint of some Batches: 6 tensors of 4 MiB.
func big(t *testing.T) string {
	t.Helper()
	var items ckpt.List
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		items = append(items, ckpt.Dense(name, safetensors.BF16, 7, 1024, 2048))
	}
	return ckpt.New(t).Shard(single, items).Write()
}

// TestFileChangesDuringTheLoad: an error that names the file, whenever it happens, and no result.
func TestFileChangesDuringTheLoad(t *testing.T) {
	half := func(path string) error { return os.Truncate(path, 12<<20) }
	nothing := func(path string) error { return os.Truncate(path, 0) }
	longer := func(path string) error {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString("more")
		return errors.Join(err, f.Close())
	}
	touched := func(path string) error {
		later := time.Now().Add(time.Hour)
		return os.Chtimes(path, later, later)
	}
	for name, change := range map[string]func(string) error{"half": half, "nothing": nothing, "longer": longer, "touched": touched} {
		for _, io := range []file.Mode{file.ModeAuto, file.ModeMmap, file.ModePread, file.ModeDirect} {
			for _, after := range []stages.Phase{stages.PhaseFetch, stages.PhaseDecode, stages.PhaseRepack} {
				t.Run(name+" after "+after.String()+" by "+string(io), func(t *testing.T) {
					dir := big(t)
					path := filepath.Join(dir, single)
					sink := host.New(host.Options{})
					_, err := coldload.Load(t.Context(), dir, sink, coldload.Options{
						IO: io, Budget: 6 << 20,
						Stages: []coldload.Insert{{After: after, Stage: &spoiler{do: func() error { return change(path) }}}},
					})
					if err == nil || !strings.Contains(err.Error(), single) {
						t.Errorf("error %v, want one that names the file", err)
					}
					if _, ok := errors.AsType[*stages.RefusedError](err); ok {
						t.Errorf("%v is a refusal", err)
					}
					if _, ok := errors.AsType[*pipeline.PanicError](err); ok {
						t.Errorf("%v is a panic", err)
					}
					if sink.Memory() != nil {
						t.Error("there is a result")
					}
				})
			}
		}
	}
}

// TestFileIsReplaced: what was opened is what is read.
func TestFileIsReplaced(t *testing.T) {
	dir := big(t)
	path := filepath.Join(dir, single)
	replace := &spoiler{do: func() error {
		return errors.Join(os.Remove(path), os.WriteFile(path, []byte("another"), 0o600))
	}}
	sink := host.New(host.Options{})
	_, err := coldload.Load(t.Context(), dir, sink, coldload.Options{
		Budget: 6 << 20, Stages: []coldload.Insert{{After: stages.PhaseFetch, Stage: replace}},
	})
	if mem := sink.Memory(); mem != nil {
		got, _ := mem.Lookup("f")
		item := ckpt.Dense("f", safetensors.BF16, 7, 1024, 2048)
		if string(got.Bytes) != string(dataOf(item, "f")) {
			t.Error("the result has other bytes than the file that was opened")
		}
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
	} else if err == nil {
		t.Error("neither result nor error")
	}
}

// TestShardGoesBeforeTheLoad: an open Checkpoint whose file was cut.
func TestShardGoesBeforeTheLoad(t *testing.T) {
	dir := big(t)
	ck, err := coldload.Open(t.Context(), dir, coldload.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ck.Close()
	if err := os.Truncate(filepath.Join(dir, single), 1<<20); err != nil {
		t.Fatal(err)
	}
	sink := host.New(host.Options{})
	_, err = ck.LoadAll(t.Context(), sink, coldload.Options{})
	if err == nil || !strings.Contains(err.Error(), single) || sink.Memory() != nil {
		t.Errorf("error %v, want one that names the file, and no result", err)
	}
}

// TestStagesThatFail: a user's stage ends the load with its own error, or with its panic.
func TestStagesThatFail(t *testing.T) {
	own := errors.New("no more")
	for name, do := range map[string]func() error{"error": func() error { return own }, "panic": func() error { panic(own) }} {
		for _, after := range []stages.Phase{stages.PhaseFetch, stages.PhaseDecode, stages.PhaseFuse, stages.PhaseRepack} {
			sink := host.New(host.Options{})
			_, err := coldload.Load(t.Context(), big(t), sink, coldload.Options{Stages: []coldload.Insert{{After: after, Stage: &spoiler{do: do}}}})
			if _, panicked := errors.AsType[*pipeline.PanicError](err); panicked != (name == "panic") || !strings.Contains(err.Error(), "no more") || sink.Memory() != nil {
				t.Errorf("%s after %s: error %v", name, after, err)
			}
		}
	}
}

func TestBudgetFaults(t *testing.T) {
	wide := ckpt.Dense("wide.weight", safetensors.BF16, 1, 1024, 2048)
	refuses(t, []row{
		{
			name: "a tensor's Slab", opt: coldload.Options{Budget: 1 << 20}, code: stages.CodeBudget,
			says:  []string{"wide.weight", "at most 1048576 bytes", "2097152 bytes", "--budget 2MiB"},
			build: only(func(b *ckpt.Builder) { b.Shard(single, wide) }),
		},
		{
			name: "one byte", opt: coldload.Options{Budget: 1}, code: stages.CodeBudget, says: []string{oProj, "at most 1 bytes", "--budget 1MiB"},
			build: gptq(o(ckpt.GPTQOptions{})),
		},
	})
	loads(t, []row{{name: "just enough", opt: coldload.Options{Budget: 2 << 20}, build: only(func(b *ckpt.Builder) { b.Shard(single, wide) }), check: func(got loaded) {
		if got.res.BudgetPeak > 2<<20 {
			got.t.Errorf("the Batches cost %d bytes", got.res.BudgetPeak)
		}
		got.same("wide.weight", safetensors.BF16, []int64{1024, 2048}, dataOf(wide, "wide.weight"))
	}}})
}

// TestEveryWayToReadKeepsTheBudget: with and without room for what a disk's blocks need beyond a Batch, and the figures add up.
func TestEveryWayToReadKeepsTheBudget(t *testing.T) {
	dir := big(t)
	for _, io := range []file.Mode{file.ModeAuto, file.ModeMmap, file.ModePread, file.ModeDirect} {
		for _, budget := range []int64{2 << 20, 2<<20 + 4096, 7 << 20, 0} {
			for name, sink := range map[string]stages.Sink{"host": host.New(host.Options{}), "discard": discard.New()} {
				if name == "discard" && budget != 0 && budget < 4<<20 {
					continue // the sink stages as much again
				}
				res, err := coldload.Load(t.Context(), dir, sink, coldload.Options{IO: io, Budget: budget})
				if err != nil {
					t.Fatalf("%v, %d bytes, %s: %v", io, budget, name, err)
				}
				if most := cmp.Or(budget, coldload.DefaultBudget); res.BudgetPeak > most {
					t.Errorf("%v: the Batches cost %d of %d bytes", io, res.BudgetPeak, most)
				}
				if got := res.Read.Mmap + res.Read.Pread + res.Read.Direct; got != res.Plan.Summary.BytesRead {
					t.Errorf("%v: %+v, the plan reads %d bytes", io, res.Read, res.Plan.Summary.BytesRead)
				}
				if h, ok := sink.(*host.Sink); ok {
					checkBig(t, h)
				}
			}
		}
	}
}

func checkBig(t *testing.T, sink *host.Sink) {
	t.Helper()
	mem := sink.Memory()
	for _, name := range []string{"a", "f"} {
		got, _ := mem.Lookup(name)
		if string(got.Bytes) != string(dataOf(ckpt.Dense(name, safetensors.BF16, 7, 1024, 2048), name)) {
			t.Errorf("%s: other bytes than the file's", name)
		}
	}
	if err := mem.Close(); err != nil {
		t.Error(err)
	}
}
