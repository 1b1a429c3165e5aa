package upload_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/upload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBroken = errors.New("the disk is full")

// journal is a Sink that notes what is called, and fails at the n-th call (counted from 1) when failAt is n.
type journal struct {
	mu     sync.Mutex
	calls  []string
	failAt int
}

func (j *journal) note(call string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.calls = append(j.calls, call)
	if len(j.calls) == j.failAt {
		return errBroken
	}
	return nil
}

func (j *journal) Begin(context.Context, []stages.Output) error { return j.note("begin") }
func (j *journal) Reserve(_ context.Context, s stages.Slab) ([]byte, error) {
	return make([]byte, s.Len), j.note("reserve")
}

func (j *journal) Write(_ context.Context, s stages.Slab, b []byte) error {
	return j.note(fmt.Sprintf("write %d/%d %s", s.Output, s.Index, b))
}
func (j *journal) Commit(context.Context) error { return j.note("commit") }
func (j *journal) Close() error                 { return j.note("close") }

// outputs are one of three Slabs, an empty one and one of two Slabs.
func outputs() []stages.Output {
	return []stages.Output{{Name: "a", Size: 5, SlabBytes: 2}, {Name: "empty"}, {Name: "b", Size: 4, SlabBytes: 2}}
}

// batch holds the given Slabs, filled with their number in it.
func batch(slabs ...stages.Slab) *stages.Batch {
	b := &stages.Batch{Slabs: slabs}
	for i, s := range slabs {
		b.Dst = append(b.Dst, []byte(strings.Repeat(strconv.Itoa(i), int(s.Len))))
		b.OutBytes += s.Len
	}
	return b
}

func TestHandsOverEverySlabAndCommits(t *testing.T) {
	j, out := &journal{}, outputs()
	verified := func(context.Context) error { return j.note("verify") }
	s := upload.New(j, out, upload.Options{Verify: verified})
	if s.Name() != "upload" {
		t.Errorf("name %q", s.Name())
	}
	b := batch(out[0].Slab(0, 2), out[2].Slab(2, 0))
	before := upload.Work(b)
	if err := errors.Join(s.Write(t.Context(), b), s.Commit(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"write 0/2 0", "write 2/0 11", "verify", "commit", "close"}; !slices.Equal(j.calls, want) {
		t.Errorf("calls %q, want %q", j.calls, want)
	}
	if b.Dst != nil {
		t.Error("the Batch still has its destinations")
	}
	want := pipeline.Work{Items: 2, BytesIn: 3, BytesOut: 3}
	if after := upload.Work(b); before != want || after != want {
		t.Errorf("work %v before Write, %v after", before, after)
	}
}

func TestStopsAtTheFirstError(t *testing.T) {
	j, out := &journal{failAt: 2}, outputs()
	s := upload.New(j, out, upload.Options{Completed: func(output int) { t.Errorf("output %d completed", output) }})
	b := batch(out[0].Slab(0, 0), out[2].Slab(2, 1), out[0].Slab(0, 2))
	err := s.Write(t.Context(), b)
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "output b, slab 1") {
		t.Errorf("got %v", err)
	}
	if len(j.calls) != 2 || b.Dst != nil {
		t.Errorf("calls %q, dst %v", j.calls, b.Dst)
	}
}

func TestVerifyStopsTheCommit(t *testing.T) {
	j := &journal{}
	changed := errors.New("file changed")
	s := upload.New(j, nil, upload.Options{Verify: func(context.Context) error { return changed }})
	if err := s.Commit(t.Context()); !errors.Is(err, changed) || len(j.calls) != 0 {
		t.Errorf("got %v, calls %q", err, j.calls)
	}
}

func TestRefusesABatchThatWasNotFetched(t *testing.T) {
	out := outputs()
	s := upload.New(&journal{}, out, upload.Options{})
	b := batch(out[0].Slab(0, 0))
	if err := s.Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if s.Write(t.Context(), b) == nil {
		t.Error("a Batch is written twice")
	}
	if err := s.Write(t.Context(), &stages.Batch{}); err != nil {
		t.Errorf("a Batch that only checks: %v", err)
	}
}

// TestCompletesEachOutputOnce writes single Slabs from several goroutines into a real Sink.
func TestCompletesEachOutputOnce(t *testing.T) {
	const n, workers = 200, 4
	out := make([]stages.Output, n)
	var batches []*stages.Batch
	for i := range out {
		out[i] = stages.Output{Name: strconv.Itoa(i), Size: int64(i % 7), SlabBytes: 2}
	}
	sink := host.New(host.Options{})
	if err := sink.Begin(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	for i := range out {
		for k := range out[i].Slabs() {
			slab := out[i].Slab(i, k)
			dst, err := sink.Reserve(t.Context(), slab)
			if err != nil {
				t.Fatal(err)
			}
			batches = append(batches, &stages.Batch{Slabs: []stages.Slab{slab}, Dst: [][]byte{dst}})
		}
	}
	completed := make([]atomic.Int32, n)
	s := upload.New(sink, out, upload.Options{Completed: func(output int) { completed[output].Add(1) }})
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(batches); i += workers {
				if err := s.Write(t.Context(), batches[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(s.Commit(t.Context()), s.Close(), sink.Memory().Close()); err != nil {
		t.Fatal(err)
	}
	for i := range out {
		if got := completed[i].Load(); got != int32(min(out[i].Slabs(), 1)) {
			t.Errorf("output %d of %d bytes completed %d times", i, out[i].Size, got)
		}
	}
}

// batcher takes the Slabs of a Batch in one call.
type batcher struct{ *journal }

func (b batcher) WriteBatch(_ context.Context, slabs []stages.Slab, bufs [][]byte) error {
	var text strings.Builder
	text.WriteString("write together:")
	for i, s := range slabs {
		fmt.Fprintf(&text, " %d/%d %s", s.Output, s.Index, bufs[i])
	}
	return b.note(text.String())
}

func TestBatchWriterGetsSeveralSlabsAtOnce(t *testing.T) {
	j, out := &journal{failAt: 3}, outputs()
	var completed []int
	s := upload.New(batcher{j}, out, upload.Options{Completed: func(i int) { completed = append(completed, i) }})
	one, three := batch(out[2].Slab(2, 0)), batch(out[2].Slab(2, 1), out[0].Slab(0, 0), out[0].Slab(0, 1))
	if err := errors.Join(s.Write(t.Context(), one), s.Write(t.Context(), three)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"write 2/0 00", "write together: 2/1 00 0/0 11 0/1 22"}; !slices.Equal(j.calls, want) {
		t.Errorf("calls %q, want %q", j.calls, want)
	}
	if !slices.Equal(completed, []int{2}) {
		t.Errorf("completed %v", completed)
	}
	err := s.Write(t.Context(), batch(out[0].Slab(0, 2), out[2].Slab(2, 0)))
	if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "2 slabs from a on") {
		t.Errorf("got %v", err)
	}
}

// digester notes what it is asked to hash.
type digester struct {
	*journal
	stages.Sink
}

func (d digester) Digest(_ context.Context, slabs []stages.Slab, bufs [][]byte) error {
	return d.note(fmt.Sprintf("digest %d slabs, the first %s", len(slabs), bufs[0]))
}

// views are of no bytes, and tell when they are released.
type views struct{ released func() }

func (v views) Bytes(int) []byte { return nil }
func (v views) Method() string   { return "mmap" }
func (v views) Release()         { v.released() }

func TestDigest(t *testing.T) {
	j, out := &journal{failAt: 2}, outputs()
	s := upload.Digest(digester{journal: j})
	b := batch(out[0].Slab(0, 0), out[0].Slab(0, 1))
	if got, err := s.Process(t.Context(), b); err != nil || got != b || len(b.Dst) != 2 || s.Name() != "digest" {
		t.Fatalf("got %v, %v", got, err)
	}
	if w := upload.DigestWork(b); w != (pipeline.Work{Items: 2, BytesIn: b.OutBytes}) {
		t.Errorf("work %+v", w)
	}
	released := false
	b.Views = views{func() { released = true }}
	if _, err := s.Process(t.Context(), b); !errors.Is(err, errBroken) || !released {
		t.Errorf("got %v; released: %v", err, released)
	}
	b.Dst = nil
	if _, err := s.Process(t.Context(), b); err == nil || !strings.Contains(err.Error(), "not fetched") {
		t.Errorf("a batch without buffers: %v", err)
	}
	if want := []string{"digest 2 slabs, the first 00", "digest 2 slabs, the first 00"}; !slices.Equal(j.calls, want) {
		t.Errorf("calls %q", j.calls)
	}
}
