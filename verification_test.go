package coldload_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/leak"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/sinks/discard"
	sinkfile "github.com/coldload/coldload/sinks/file"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// verifiable is a checkpoint of several shards with the digests of all of them. NVFP4 has scans, which read ahead.
func verifiable(t *testing.T, format synth.Format) (dir string, digests map[string]string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "checkpoint")
	if _, err := synth.Write(t.Context(), dir, synth.Options{Model: "micro", Format: format, ShardSize: 100 << 10}); err != nil {
		t.Fatal(err)
	}
	return dir, digestsOf(t, dir)
}

func digestsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	digests, err := coldload.ParseDigests(strings.NewReader(sumsOf(t, dir)))
	if err != nil {
		t.Fatal(err)
	}
	return digests
}

// shardNames are the names of the shards, in order.
func shardNames(digests map[string]string) []string { return slices.Sorted(maps.Keys(digests)) }

// wrong is digests with another one for name.
func wrong(digests map[string]string, name string) map[string]string {
	other := maps.Clone(digests)
	sum := sha256.Sum256([]byte(name))
	other[name] = hex.EncodeToString(sum[:])
	return other
}

// watchedSource notes what is fetched of each shard.
type watchedSource struct {
	stages.Source

	mu      sync.Mutex
	fetched map[int32]int64
	each    func(shard int32) // nil, or told
}

func (s *watchedSource) Fetch(ctx context.Context, ranges []stages.Extent) (stages.Views, error) {
	s.mu.Lock()
	for _, r := range ranges {
		s.fetched[r.Shard] += r.Len
		if s.each != nil {
			s.each(r.Shard)
		}
	}
	s.mu.Unlock()
	return s.Source.Fetch(ctx, ranges)
}

// watch makes Options.Source.
func (s *watchedSource) watch(shards []file.Shard) (stages.Source, error) {
	inner, err := file.New(shards, file.Options{})
	s.Source, s.fetched = inner, map[int32]int64{}
	return s, err
}

// verifyWays are settings with which a wait for a Shard could meet another one.
func verifyWays() map[string]coldload.Options {
	w := map[string]coldload.Options{}
	for _, n := range []int{1, 8} {
		for _, budget := range []int64{0, 300 << 10} {
			w[fmt.Sprintf("workers=%d,budget=%d", n, budget)] = coldload.Options{
				Budget: budget, Workers: coldload.Workers{Index: n, Fetch: n, Decode: n, Fuse: n, Repack: n, Digest: n, Upload: n},
			}
		}
	}
	return w
}

// wantMismatch wants err to say which file is not what it must be.
func wantMismatch(t *testing.T, err error, name, expected, found string) {
	t.Helper()
	data, ok := errors.AsType[*stages.DataError](err)
	if !ok || data.File != name || !strings.Contains(data.Expected, expected) ||
		data.Found != found || !strings.HasPrefix(err.Error(), "verify source: "+name+": is not the file") {
		t.Errorf("error %v, want one of %s, expected %s, found %s", err, name, expected, found)
	}
}

// TestVerifyMismatch: of a shard that is not what it must be nothing is ever fetched, and nothing is committed, wherever it lies.
func TestVerifyMismatch(t *testing.T) {
	for _, format := range []synth.Format{synth.FormatGPTQ, synth.FormatNVFP4} {
		path, digests := verifiable(t, format)
		shards := shardNames(digests)
		if len(shards) < 5 {
			t.Fatalf("%d shards", len(shards))
		}
		for label, opt := range verifyWays() {
			for _, bad := range []int{0, len(shards) / 2, len(shards) - 1} {
				t.Run(fmt.Sprintf("%s,%s,bad=%d", format, label, bad), func(t *testing.T) {
					before := leak.Now()
					src := &watchedSource{}
					opt := opt
					opt.VerifySource, opt.Digests, opt.Source = true, wrong(digests, shards[bad]), src.watch
					sink := &countingSink{Sink: discard.New()}
					res, err := coldload.Load(t.Context(), path, sink, opt)
					wantMismatch(t, err, shards[bad], opt.Digests[shards[bad]], digests[shards[bad]])
					if sink.commits != 0 || sink.closes != 1 {
						t.Errorf("%d commits, %d times closed", sink.commits, sink.closes)
					}
					if n := src.fetched[int32(bad)]; n != 0 {
						t.Errorf("%d bytes of %s were fetched", n, shards[bad])
					}
					if at := res.Phases[stages.PhaseCommit+1]; at.Name != "verify source" {
						t.Errorf("phase %+v", at)
					}
					dir := filepath.Join(t.TempDir(), "packed")
					packed, err := coldload.Pack(t.Context(), path, dir, opt, coldload.PackOptions{})
					wantMismatch(t, err, shards[bad], opt.Digests[shards[bad]], digests[shards[bad]])
					if n := src.fetched[int32(bad)]; n != 0 {
						t.Errorf("%d bytes of %s were fetched for a pack", n, shards[bad])
					}
					if _, err := os.Stat(dir); err == nil {
						t.Error("the target is there")
					}
					if _, err := os.Stat(dir + ".partial"); (err == nil) != (packed.Kept > 0) {
						t.Errorf("%d bytes are kept, %v", packed.Kept, err)
					}
					before.Check(t)
				})
			}
		}
	}
}

// TestVerifyChangesNothing: every byte is as without verification, all shards are hashed, each once, and a pack notes their sums.
func TestVerifyChangesNothing(t *testing.T) {
	for _, format := range []synth.Format{synth.FormatGPTQ, synth.FormatNVFP4} {
		path, digests := verifiable(t, format)
		want, _ := loadHost(t, path, coldload.Options{})
		var total int64
		for _, name := range shardNames(digests) {
			st, err := os.Stat(filepath.Join(path, name))
			if err != nil {
				t.Fatal(err)
			}
			total += st.Size()
		}
		var folder map[string]string
		for label, opt := range verifyWays() {
			t.Run(fmt.Sprintf("%s,%s", format, label), func(t *testing.T) {
				var done, all int64
				opt.VerifySource, opt.Digests, opt.Hashed = true, digests, func(d, n int64) { done, all = d, n }
				got, res := loadHost(t, path, opt)
				sameOutputs(t, got, want)
				if at := res.Phases[stages.PhaseCommit+1]; done != total || all != total || at.BytesIn != total || at.Items != int64(len(digests)) {
					t.Errorf("%d of %d bytes hashed, want %d; phase %+v", done, all, total, at)
				}
				dir, _ := packTo(t, path, opt, coldload.PackOptions{ShardSize: 100_000})
				files := ckpt.Tree(t, dir)
				if folder == nil {
					folder = files
				}
				sameTree(t, files, folder)
				mustVerify(t, dir, path)
				var manifest struct {
					Sources []struct{ Name, SHA256 string }
				}
				if err := json.Unmarshal([]byte(files["coldload.json"]), &manifest); err != nil || len(manifest.Sources) != len(digests) {
					t.Errorf("%d sources, %v", len(manifest.Sources), err)
				}
				for _, s := range manifest.Sources {
					if s.SHA256 != digests[s.Name] {
						t.Errorf("%s: sha256 %s, want %s", s.Name, s.SHA256, digests[s.Name])
					}
				}
			})
		}
	}
}

// TestVerifyWhileLoading: what is verified is loaded while later shards are hashed, and nothing is loaded that is not.
func TestVerifyWhileLoading(t *testing.T) {
	path, digests := verifiable(t, synth.FormatGPTQ)
	shards := shardNames(digests)
	st, err := os.Stat(filepath.Join(path, shards[0]))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the load does not go on"))
	defer cancel()
	src := &watchedSource{}
	came := make(chan struct{})
	var once sync.Once
	src.each = func(shard int32) {
		if shard != 0 {
			t.Errorf("shard %d was fetched", shard)
		}
		once.Do(func() { close(came) })
	}
	// One Output of the first shard is all there is to load, so that its Batch needs no other.
	ck := openPath(t, path, coldload.Options{})
	p, err := ck.Plan(coldload.Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var include string
	for b := range p.Batches() {
		at := b.Slabs[0]
		include = b.Outputs[at.Output].Name
		break
	}
	opt := coldload.Options{
		VerifySource: true, Digests: wrong(digests, shards[len(shards)-1]), Source: src.watch, Include: []string{include},
		Workers: coldload.Workers{Repack: 1},
		Hashed: func(done, _ int64) {
			if done <= st.Size() {
				if src.fetched[0] != 0 {
					t.Error("a batch was fetched before its shard was hashed")
				}
				return
			}
			select { // the second shard is not hashed before the first was loaded from
			case <-came:
			case <-ctx.Done():
			}
		},
	}
	sink := &countingSink{Sink: discard.New()}
	_, err = coldload.Load(ctx, path, sink, opt)
	last := shards[len(shards)-1] // which nothing is made of
	wantMismatch(t, err, last, opt.Digests[last], digests[last])
	if sink.commits != 0 || src.fetched[0] == 0 {
		t.Errorf("%d commits, %d bytes fetched", sink.commits, src.fetched[0])
	}
}

// TestVerifyIsStopped: the end of the context, and a callback that panics, end a load that hashes.
func TestVerifyIsStopped(t *testing.T) {
	path, digests := verifiable(t, synth.FormatGPTQ)
	stop := errors.New("stop")
	for label, opt := range verifyWays() {
		t.Run(label, func(t *testing.T) {
			before := leak.Now()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			opt.VerifySource, opt.Digests = true, digests
			opt.Hashed = func(done, total int64) {
				if done > total/2 {
					cancel(stop)
				}
			}
			sink := &countingSink{Sink: discard.New()}
			if _, err := coldload.Load(ctx, path, sink, opt); !errors.Is(err, stop) || sink.commits != 0 {
				t.Errorf("error %v, %d commits", err, sink.commits)
			}
			opt.Hashed = func(int64, int64) { panic(stop) }
			sink = &countingSink{Sink: discard.New()}
			_, err := coldload.Load(t.Context(), path, sink, opt)
			if p, ok := errors.AsType[*pipeline.PanicError](err); !ok || p.Stage != "verify source" || !errors.Is(err, stop) || sink.commits != 0 {
				t.Errorf("error %v, %d commits", err, sink.commits)
			}
			before.Check(t)
		})
	}
}

// TestVerifyWithoutBatches: a checkpoint of which nothing is made is verified all the same.
func TestVerifyWithoutBatches(t *testing.T) {
	path := ckpt.New(t).RawShard("model.safetensors", `{}`, nil).Write()
	digests := digestsOf(t, path)
	if _, err := coldload.Load(t.Context(), path, discard.New(), coldload.Options{VerifySource: true, Digests: digests}); err != nil {
		t.Error(err)
	}
	sink := &countingSink{Sink: discard.New()}
	other := wrong(digests, "model.safetensors")
	_, err := coldload.Load(t.Context(), path, sink, coldload.Options{VerifySource: true, Digests: other})
	wantMismatch(t, err, "model.safetensors", other["model.safetensors"], digests["model.safetensors"])
	if sink.commits != 0 {
		t.Error("committed")
	}
}

// TestVerifyReplaced: what is hashed is the file that is loaded, not another that has its name by now.
func TestVerifyReplaced(t *testing.T) {
	path, digests := verifiable(t, synth.FormatGPTQ)
	ck := openPath(t, path, coldload.Options{})
	name := shardNames(digests)[1]
	data, err := os.ReadFile(filepath.Join(path, name))
	other := filepath.Join(path, "new")
	if err := errors.Join(err, os.WriteFile(other, data, 0o600), os.Rename(other, filepath.Join(path, name))); err != nil {
		t.Fatal(err)
	}
	_, err = ck.LoadAll(t.Context(), discard.New(), coldload.Options{VerifySource: true, Digests: digests})
	if data, ok := errors.AsType[*stages.DataError](err); !ok || data.File != name || !strings.Contains(data.Problem, "replaced") {
		t.Errorf("error %v", err)
	}
}

// TestVerifyPackResumes: a pack that goes on verifies the whole source, takes over what it has made of it, and makes the same folder.
func TestVerifyPackResumes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "checkpoint")
	if _, err := synth.Write(t.Context(), path, synth.Options{Model: "tiny-moe", Layers: 2, ShardSize: 32 << 20}); err != nil {
		t.Fatal(err)
	}
	digests := digestsOf(t, path)
	opt := coldload.Options{Budget: 16 << 20, VerifySource: true, Digests: digests}
	popt := coldload.PackOptions{ShardSize: 4 << 20}
	whole, _ := packTo(t, path, opt, popt)
	want := ckpt.Tree(t, whole)

	dir := filepath.Join(t.TempDir(), "packed")
	kept := stopAt(t, path, dir, opt, 0.7).Kept
	bad := shardNames(digests)[0] // which is not read again
	spoilt := opt
	spoilt.Digests = wrong(digests, bad)
	_, err := coldload.Pack(t.Context(), path, dir, spoilt, popt)
	wantMismatch(t, err, bad, spoilt.Digests[bad], digests[bad])
	if _, err := os.Stat(dir); err == nil {
		t.Error("the target is there")
	}
	res, err := coldload.Pack(t.Context(), path, dir, opt, popt)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	for _, s := range shardNames(digests) {
		st, err := os.Stat(filepath.Join(path, s))
		if err != nil {
			t.Fatal(err)
		}
		total += st.Size()
	}
	if at := res.Phases[stages.PhaseCommit+1]; kept == 0 || res.Resumed < kept || at.BytesIn != total {
		t.Errorf("%d bytes were kept, %d taken over, %d of %d hashed", kept, res.Resumed, at.BytesIn, total)
	}
	sameTree(t, ckpt.Tree(t, dir), want)

	// What was made without verification is not gone on with.
	dir = filepath.Join(t.TempDir(), "packed")
	stopAt(t, path, dir, coldload.Options{Budget: 16 << 20}, 0.7)
	if res, err = coldload.Pack(t.Context(), path, dir, opt, popt); err != nil || res.Resumed != 0 {
		t.Errorf("%v, %d bytes taken over", err, res.Resumed)
	}
	sameTree(t, ckpt.Tree(t, dir), want)
}

// TestVerifyAlreadyPacked: a folder that is complete is not said to be so before its source is verified.
func TestVerifyAlreadyPacked(t *testing.T) {
	path, digests := verifiable(t, synth.FormatGPTQ)
	noted := coldload.Options{VerifySource: true}
	listed := coldload.Options{VerifySource: true, Digests: digests}
	dir, _ := packTo(t, path, noted, coldload.PackOptions{})
	for _, opt := range []coldload.Options{noted, listed} {
		res, err := coldload.Pack(t.Context(), path, dir, opt, coldload.PackOptions{})
		if err != nil || !res.AlreadyComplete || res.Phases[stages.PhaseCommit+1].Items != int64(len(digests)) {
			t.Errorf("%v, %+v", err, res)
		}
	}
	if _, err := coldload.Pack(t.Context(), path, dir, coldload.Options{}, coldload.PackOptions{}); !errors.Is(err, sinkfile.ErrTargetExists) {
		t.Errorf("without verification: %v", err)
	}
	// A byte that no sample has, and the same time of change.
	name := shardNames(digests)[2]
	st, err := os.Stat(filepath.Join(path, name))
	if err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(path, name)
	if err := errors.Join(flip(at, st.Size()-5000), os.Chtimes(at, st.ModTime(), st.ModTime())); err != nil {
		t.Fatal(err)
	}
	found := digestsOf(t, path)[name]
	res, err := coldload.Pack(t.Context(), path, dir, listed, coldload.PackOptions{})
	wantMismatch(t, err, name, digests[name], found)
	if res.AlreadyComplete {
		t.Error("it is said to be complete")
	}
	res, err = coldload.Pack(t.Context(), path, dir, noted, coldload.PackOptions{})
	if !errors.Is(err, sinkfile.ErrTargetExists) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), found) ||
		res.AlreadyComplete {
		t.Errorf("error %v", err)
	}
}

// TestVerifyOnDemand: loads of modules verify the shards that they read, once for all loads from a Checkpoint; Outputs verifies all, and hands on
// nothing that is not.
func TestVerifyOnDemand(t *testing.T) {
	path, digests := verifiable(t, synth.FormatGPTQ)
	shards := shardNames(digests)
	const module = "model.layers.0.self_attn.o_proj"
	ck := openPath(t, path, coldload.Options{})
	tensor, ok := ck.Tensor(module + ".qweight")
	if !ok {
		t.Fatal("no such module")
	}
	opt := coldload.Options{VerifySource: true, Digests: digests}
	hashed := func(opt coldload.Options) (int64, error) {
		m, err := ck.Linear(t.Context(), module, opt)
		if err != nil {
			return 0, err
		}
		return m.Result.Phases[stages.PhaseCommit+1].BytesIn, m.Close()
	}
	first, err := hashed(opt)
	second, again := hashed(opt)
	if err := errors.Join(err, again); err != nil || first == 0 || second != 0 {
		t.Errorf("%v, %d bytes hashed, then %d", err, first, second)
	}
	bad := shards[tensor.Extent.Shard]
	opt.Digests = wrong(digests, bad)
	_, err = hashed(opt)
	wantMismatch(t, err, bad, opt.Digests[bad], digests[bad])
	opt.Digests = wrong(digests, shards[len(shards)-1])
	if _, err := hashed(opt); err != nil {
		t.Errorf("a shard that the module does not need: %v", err)
	}
	opt.Digests = nil
	if _, err := hashed(opt); !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("nothing to compare with: %v", err)
	}

	last := shards[len(shards)-1]
	src := &watchedSource{}
	whole := openPath(t, path, coldload.Options{Source: src.watch})
	var fault error
	for out, err := range whole.Outputs(t.Context(), coldload.Options{VerifySource: true, Digests: wrong(digests, last), Budget: 300 << 10}) {
		if fault = err; err == nil {
			fault = out.Release()
		}
		if fault != nil {
			break
		}
	}
	wantMismatch(t, fault, last, wrong(digests, last)[last], digests[last])
	if n := src.fetched[int32(len(shards)-1)]; n != 0 {
		t.Errorf("%d bytes of %s were fetched", n, last)
	}
	sink := host.New(host.Options{})
	if _, err := whole.LoadAll(t.Context(), sink, coldload.Options{VerifySource: true, Digests: digests}); err != nil {
		t.Fatal(err)
	}
	memoryOf(t, sink)
}
