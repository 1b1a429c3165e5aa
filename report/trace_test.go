package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/stages"
)

// traceFile is the document, read without leave for a field that the format does not have.
type traceFile struct {
	DisplayTimeUnit string       `json:"displayTimeUnit"`
	Events          []traceEvent `json:"traceEvents"`
	Other           traceSummary `json:"otherData"`
}

type traceEvent struct {
	Kind     string                     `json:"ph"`
	PID      int64                      `json:"pid"`
	TID      int64                      `json:"tid"`
	Name     *string                    `json:"name"`
	Category string                     `json:"cat"`
	TS       json.Number                `json:"ts"`
	Dur      json.Number                `json:"dur"`
	BindID   string                     `json:"bind_id"`
	FlowIn   bool                       `json:"flow_in"`
	FlowOut  bool                       `json:"flow_out"`
	Args     map[string]json.RawMessage `json:"args"`
}

// nanos is a number of microseconds, exactly.
func nanos(t *testing.T, n json.Number) int64 {
	t.Helper()
	whole, fraction, ok := strings.Cut(n.String(), ".")
	if !ok || len(fraction) != 3 {
		t.Fatalf("%q is not in microseconds with three digits", n)
	}
	v, err := strconv.ParseInt(whole+fraction, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// traceLane is what a trace has of one worker.
type traceLane struct {
	name  string
	sums  Sums
	last  int64 // end of the last slice
	items int   // slices of items
}

// checkTrace reads a trace as strictly as a viewer might: every event has the fields of its kind and no other, lanes have names and places,
// slices of a lane follow one another, arrows lead from fetch through every phase to upload.
func checkTrace(t *testing.T, text []byte) (map[int64]*traceLane, traceSummary) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	var file traceFile
	if err := dec.Decode(&file); err != nil {
		t.Fatalf("%v\n%.2000s", err, text)
	}
	if _, err := dec.Token(); err != io.EOF {
		t.Errorf("more after the document: %v", err)
	}
	if file.DisplayTimeUnit != "ms" || file.Other.Version != coldload.Version || len(file.Other.Phases) < 9 {
		t.Errorf("about the trace: %q, %+v", file.DisplayTimeUnit, file.Other)
	}
	lanes, sorted, flows := map[int64]*traceLane{}, map[string]int64{}, map[string][]string{}
	counters := map[string]int64{}
	for i, e := range file.Events {
		fail := func(format string, args ...any) {
			t.Helper()
			t.Errorf("event %d (%+v): %s", i, e, fmt.Sprintf(format, args...))
		}
		if e.PID != 1 || e.Name == nil || *e.Name == "" {
			fail("no process or no name")
			continue
		}
		l := lanes[e.TID]
		switch e.Kind {
		case "M":
			if e.TS != "" || e.Dur != "" || e.Category != "" || len(e.Args) != 1 {
				fail("fields that metadata does not have")
			}
			checkMeta(t, e, lanes, sorted)
		case "C":
			at := nanos(t, e.TS)
			if last, known := counters[*e.Name]; known && at <= last || e.Dur != "" || len(e.Args) != 1 {
				fail("a counter, after %d", last)
			}
			counters[*e.Name] = at
			for _, v := range e.Args {
				var n float64
				if json.Unmarshal(v, &n) != nil || n < 0 {
					fail("counts %s", v)
				}
			}
		case "X":
			if l == nil || l.name == "" {
				fail("the lane has no name yet")
				continue
			}
			at, dur := nanos(t, e.TS), nanos(t, e.Dur)
			if at < l.last || dur < 0 {
				fail("overlaps what ends at %d", l.last)
			}
			l.last = at + dur
			l.take(t, e, dur, flows)
		default:
			fail("a kind that is not written")
		}
	}
	checkFlows(t, flows, file.Other.Error != "")
	for _, name := range []string{"bytes in flight", "reading, GB/s", "writing, GB/s"} {
		if _, ok := counters[name]; !ok {
			t.Errorf("no counter %q", name)
		}
	}
	return lanes, file.Other
}

func checkMeta(t *testing.T, e traceEvent, lanes map[int64]*traceLane, sorted map[string]int64) {
	t.Helper()
	var name string
	var index int64
	switch *e.Name {
	case "process_name":
		if err := json.Unmarshal(e.Args["name"], &name); err != nil || name != "coldload" {
			t.Errorf("the process is %q, %v", name, err)
		}
	case "thread_name":
		if err := json.Unmarshal(e.Args["name"], &name); err != nil || name == "" || lanes[e.TID] != nil {
			t.Errorf("lane %d is %q, %v", e.TID, name, err)
		}
		for _, l := range lanes {
			if l.name == name {
				t.Errorf("two lanes are %q", name)
			}
		}
		lanes[e.TID] = &traceLane{name: name}
	case "thread_sort_index":
		if err := json.Unmarshal(e.Args["sort_index"], &index); err != nil || lanes[e.TID] == nil {
			t.Errorf("lane %d: place %d, %v", e.TID, index, err)
		}
		key := fmt.Sprint(index)
		if other, taken := sorted[key]; taken {
			t.Errorf("lanes %d and %d have one place", other, e.TID)
		}
		sorted[key] = e.TID
	default:
		t.Errorf("metadata %q", *e.Name)
	}
}

// stage is that of a lane's name.
func (l *traceLane) stage() string { return l.name[:strings.LastIndexByte(l.name, ' ')] }

// take adds a slice to the lane.
func (l *traceLane) take(t *testing.T, e traceEvent, dur int64, flows map[string][]string) {
	t.Helper()
	switch e.Category {
	case "load":
		return
	case "wait":
		if len(e.Args) != 0 || e.BindID != "" || dur < int64(shortWait) {
			t.Errorf("a wait: %+v", e)
		}
		return
	case "work":
	default:
		t.Errorf("category %q", e.Category)
	}
	field := func(name string) (n int64) {
		if err := json.Unmarshal(e.Args[name], &n); err != nil {
			t.Errorf("%s of %+v: %v", name, e, err)
		}
		return n
	}
	l.items++
	l.sums.add(Sums{
		Items: field("items"), BytesIn: field("bytes_in"), BytesOut: field("bytes_out"), Busy: time.Duration(dur),
		WaitIn:  time.Duration(nanos(t, json.Number(e.Args["wait_in_us"]))),
		WaitOut: time.Duration(nanos(t, json.Number(e.Args["wait_out_us"]))),
	})
	seq := field("seq")
	if e.BindID == "" {
		return
	}
	if e.BindID != fmt.Sprintf("0x%x", seq) || e.FlowIn == (l.stage() == "fetch") || e.FlowOut == (l.stage() == "upload") {
		t.Errorf("an arrow at %s: %+v", l.name, e)
	}
	flows[e.BindID] = append(flows[e.BindID], l.stage())
}

// checkFlows follows every Batch; of a load that failed, as far as it came.
func checkFlows(t *testing.T, flows map[string][]string, failed bool) {
	t.Helper()
	for id, seen := range flows {
		at := map[string]bool{}
		for _, stage := range seen {
			if at[stage] {
				t.Errorf("batch %s is twice at %s", id, stage)
			}
			at[stage] = true
		}
		if all := at["fetch"] && at["decode"] && at["fuse"] && at["repack"] && at["upload"]; !failed && !all {
			t.Errorf("batch %s is at %v only", id, seen)
		}
	}
}

// TestTraceOfLoads compares the traces of real loads with their Results: bytes, items and busy time of every phase.
func TestTraceOfLoads(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "tiny")
	if _, err := synth.Write(t.Context(), dir, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	for name, opt := range map[string]coldload.Options{
		"one worker": {Workers: coldload.Workers{Index: 1, Fetch: 1, Decode: 1, Fuse: 1, Repack: 1, Upload: 1}},
		"several":    {Workers: coldload.Workers{Index: 3, Fetch: 3, Decode: 3, Fuse: 2, Repack: 4, Upload: 2}},
		"own stage":  {Stages: []coldload.Insert{{After: stages.PhaseRepack, Stage: spoiler{-1}, Workers: 2}}},
		"failed":     {Stages: []coldload.Insert{{After: stages.PhaseDecode, Stage: spoiler{3}}}},
		"refused":    {Budget: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var text bytes.Buffer
			tr := NewTrace(&text, time.Now())
			opt.Observer = tr
			res, loadErr := coldload.Load(t.Context(), dir, discard.New(), opt)
			if failed := name == "failed" || name == "refused"; failed != (loadErr != nil) {
				t.Fatal(loadErr)
			}
			if err := tr.End(res, loadErr); err != nil {
				t.Fatal(err)
			}
			lanes, other := checkTrace(t, text.Bytes())
			if (other.Error != "") != (loadErr != nil) || loadErr != nil && other.Error != loadErr.Error() {
				t.Errorf("the trace says %q failed it, not %v", other.Error, loadErr)
			}
			for i, p := range res.Phases {
				var sums Sums
				workers := 0
				for _, l := range lanes {
					if l.name != "the whole" && l.stage() == p.Name {
						sums.add(l.sums)
						workers++
					}
				}
				want := phaseSums(p)
				sums.WaitIn, want.WaitIn = 0, 0 // of the last wait of a worker there is only a slice
				if sums != want || workers > p.Workers {
					t.Errorf("%s: %+v of %d workers, in the result %+v of %d", p.Name, sums, workers, want, p.Workers)
				}
				if o := other.Phases[i]; o.Name != p.Name || o.Items != p.Items || o.BytesIn != p.BytesIn || o.BytesOut != p.BytesOut || o.Busy != p.Busy.Seconds() ||
					o.WaitIn != p.WaitIn.Seconds() || o.WaitOut != p.WaitOut.Seconds() || o.Idle != p.Idle.Seconds() || o.Workers != int64(p.Workers) {
					t.Errorf("%s: the trace says %+v, the result %+v", p.Name, o, p)
				}
			}
		})
	}
}

// TestTraceHostile: names come from files of other people.
func TestTraceHostile(t *testing.T) {
	t.Parallel()
	hostile := "a\"b\\c\n</script>\x00\u2028\xff\u202e"
	var text bytes.Buffer
	tr := NewTrace(&text, epoch)
	e := visit("fetch", 1, 0, 1, 1, 1, pipeline.Work{})
	e.Name, e.Err = hostile, errors.New(hostile)
	tr.Observe(e)
	own := visit(hostile, 1, 0, 0, 1, 1, pipeline.Work{})
	tr.Observe(own)
	if err := tr.End(failedResult(), errors.New(hostile)); err != nil {
		t.Fatal(err)
	}
	lanes, other := checkTrace(t, text.Bytes())
	want := strings.ToValidUTF8(hostile, "\ufffd")
	if other.Error != want || len(lanes) != 3 {
		t.Errorf("%q, %v", other.Error, lanes)
	}
	for _, l := range lanes {
		if l.name == want+" 1" {
			return
		}
	}
	t.Errorf("no lane of that name in %s", text.Bytes())
}

// failedResult is that of a load that found nothing.
func failedResult() *coldload.Result {
	res := &coldload.Result{Duration: 10 * time.Millisecond}
	for _, p := range stages.Phases() {
		res.Phases = append(res.Phases, coldload.Phase{Name: p.String(), Workers: 1})
	}
	return res
}

// fullWriter is a file on a disk that becomes full.
type fullWriter struct{ room int }

var errFull = errors.New("no space left")

func (w *fullWriter) Write(b []byte) (int, error) {
	if w.room -= len(b); w.room < 0 {
		return 0, errFull
	}
	return len(b), nil
}

// TestTraceFull: an error of the Writer is told at the end, and ends nothing before.
func TestTraceFull(t *testing.T) {
	t.Parallel()
	for _, room := range []int{0, traceBuffer, 2 * traceBuffer} {
		tr := NewTrace(&fullWriter{room}, epoch)
		for i := range int64(2000) {
			through(tr, i, int(i), 1)
		}
		if err := tr.End(failedResult(), nil); !errors.Is(err, errFull) {
			t.Errorf("with room for %d bytes: %v", room, err)
		}
	}
}
