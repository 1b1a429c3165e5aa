package report

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/stages"
)

const (
	// traceBuffer is what a Trace collects before it writes, in bytes.
	traceBuffer = 256 << 10
	// shortWait is not drawn: it would only be an edge between two slices. The slice of the item has it in its args.
	shortWait = 10 * time.Microsecond
)

// Trace is a [pipeline.Observer] that writes one load as a trace in the JSON format of Chrome, which ui.perfetto.dev opens: a lane for every
// worker of every stage, a slice for every item at every stage, with what it waited for, and counters of bytes in flight and of the pace of
// reading and writing. Arrows lead a Batch from stage to stage.
//
// Every event is written, none is dropped: some 400 bytes for a Batch at a stage. Memory is bounded: what is collected is written by the worker
// that fills the buffer, so the Writer should take 256 KiB at a time without long delays, as a local file does.
type Trace struct {
	start time.Time

	mu    sync.Mutex
	w     *bufio.Writer // keeps its first error
	line  []byte        // the event being written
	began bool          // something was written before
	lanes map[laneKey]int64
	pace  *Recorder // for the counters
}

var _ pipeline.Observer = (*Trace)(nil)

// NewTrace begins a trace of a load that begins at start. End makes it whole. The caller closes w after that.
func NewTrace(w io.Writer, start time.Time) *Trace {
	t := &Trace{start: start, w: bufio.NewWriterSize(w, traceBuffer), lanes: map[laneKey]int64{}, pace: NewRecorder(start)}
	t.put(`{"displayTimeUnit":"ms","traceEvents":[`)
	t.name("process_name", 0, "coldload")
	t.name("thread_name", 0, "the whole")
	t.sort(0, 0)
	return t
}

func (t *Trace) put(s string) { _, _ = t.w.WriteString(s) } // Flush tells of an error

// Observe writes an event of the load.
func (t *Trace) Observe(e pipeline.Event) {
	t.pace.Observe(e)
	t.mu.Lock()
	defer t.mu.Unlock()
	lane := t.lane(laneOf(e))
	if wait := e.Came.Sub(e.Since); wait >= shortWait {
		t.slice("wait for input", "wait", lane, e.Since, wait)
		t.endSlice()
	}
	if busy := e.Done.Sub(e.Came); !e.End || busy >= shortWait {
		t.item(e, lane, busy)
	}
	if wait := e.Left.Sub(e.Done); wait >= shortWait {
		t.slice("wait to hand on", "wait", lane, e.Done, wait)
		t.endSlice()
	}
}

// item is the slice in which a worker was busy with an item.
func (t *Trace) item(e pipeline.Event, lane int64, busy time.Duration) {
	name := e.Name
	switch {
	case e.End:
		name = "looks for more"
	case name == "" && inFlow(e), e.Stage == shards:
		name = "#" + strconv.FormatInt(e.Seq, 10)
	case name == "":
		name = e.Stage
	}
	t.slice(name, "work", lane, e.Came, busy)
	if inFlow(e) {
		t.arrow(e)
	}
	t.line = append(t.line, `,"args":{`...)
	t.number("seq", e.Seq)
	t.line = append(t.line, ',')
	t.number("items", e.Work.Items)
	t.line = append(t.line, ',')
	t.number("bytes_in", e.Work.BytesIn)
	t.line = append(t.line, ',')
	t.number("bytes_out", e.Work.BytesOut)
	t.line = append(t.line, `,"wait_in_us":`...)
	t.micros(e.Came.Sub(e.Since))
	t.line = append(t.line, `,"wait_out_us":`...)
	t.micros(e.Left.Sub(e.Done))
	if e.Err != nil {
		t.line = append(t.line, `,"error":`...)
		t.text(e.Err.Error())
	}
	t.line = append(t.line, '}')
	t.endSlice()
}

// arrow ties the slice to those of the same Batch at other stages.
func (t *Trace) arrow(e pipeline.Event) {
	t.line = append(t.line, `,"bind_id":"0x`...)
	t.line = append(strconv.AppendInt(t.line, e.Seq, 16), '"')
	if e.Stage != stages.PhaseFetch.String() {
		t.line = append(t.line, `,"flow_in":true`...)
	}
	if e.Stage != stages.PhaseUpload.String() {
		t.line = append(t.line, `,"flow_out":true`...)
	}
}

// slice begins the line of a slice.
func (t *Trace) slice(name, category string, lane int64, from time.Time, took time.Duration) {
	t.head("X", name, lane)
	t.line = append(t.line, `,"cat":"`...)
	t.line = append(t.line, category...)
	t.line = append(t.line, `","ts":`...)
	t.micros(from.Sub(t.start))
	t.line = append(t.line, `,"dur":`...)
	t.micros(took)
}

// head begins the line of an event.
func (t *Trace) head(kind, name string, lane int64) {
	t.line = append(t.line[:0], `{"ph":"`...)
	t.line = append(t.line, kind...)
	t.line = append(t.line, `","pid":1,"tid":`...)
	t.line = strconv.AppendInt(t.line, lane, 10)
	t.line = append(t.line, `,"name":`...)
	t.text(name)
}

func (t *Trace) endSlice() {
	t.line = append(t.line, '}')
	t.write()
}

// write writes the line.
func (t *Trace) write() {
	separator := "\n"
	if t.began {
		separator = ",\n"
	}
	t.began = true
	t.put(separator)
	_, _ = t.w.Write(t.line) // Flush tells of an error
}

// text appends a string, whatever is in it.
func (t *Trace) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			quoted, _ := json.Marshal(s) // no string fails
			t.line = append(t.line, quoted...)
			return
		}
	}
	t.line = append(t.line, '"')
	t.line = append(t.line, s...)
	t.line = append(t.line, '"')
}

func (t *Trace) number(name string, n int64) {
	t.line = append(t.line, '"')
	t.line = append(t.line, name...)
	t.line = append(t.line, '"', ':')
	t.line = strconv.AppendInt(t.line, n, 10)
}

// micros appends a time as the format has it, to the nanosecond.
func (t *Trace) micros(d time.Duration) {
	if d < 0 {
		t.line = append(t.line, '-')
		d = -d
	}
	t.line = strconv.AppendInt(t.line, int64(d/1000), 10)
	n := int64(d % 1000)
	t.line = append(t.line, '.', byte('0'+n/100), byte('0'+n/10%10), byte('0'+n%10))
}

// lane is the number of a lane. A new one is introduced: what its name is, and where it is drawn.
func (t *Trace) lane(k laneKey) int64 {
	id, known := t.lanes[k]
	if !known {
		id = int64(len(t.lanes) + 1)
		t.lanes[k] = id
		t.name("thread_name", id, titleOf(k.stage)+" "+strconv.Itoa(k.worker+1))
		t.sort(id, (stageRank(k.stage)+1)*10_000+k.worker)
	}
	return id
}

// name gives the process or a lane its name.
func (t *Trace) name(kind string, lane int64, name string) {
	t.head("M", kind, lane)
	t.line = append(t.line, `,"args":{"name":`...)
	t.text(name)
	t.line = append(t.line, "}}"...)
	t.write()
}

// sort says where a lane is drawn: the least index at the top.
func (t *Trace) sort(lane int64, index int) {
	t.head("M", "thread_sort_index", lane)
	t.line = append(t.line, `,"args":{`...)
	t.number("sort_index", int64(index))
	t.line = append(t.line, "}}"...)
	t.write()
}

// End writes what is known when the load is over, and everything that was collected: after that the trace is a whole document, also of a load
// that failed with loadErr. It returns the first error of the Writer. Nothing may be observed after it.
func (t *Trace) End(res *coldload.Result, loadErr error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := "load"
	if loadErr != nil {
		name = "failed load"
	}
	t.slice(name, "load", 0, t.start, res.Duration)
	t.endSlice()
	t.counters(res.Duration)
	t.put("\n],")
	summary, err := json.Marshal(summaryOf(res, loadErr))
	if err != nil {
		return errors.Join(err, t.w.Flush())
	}
	t.put(`"otherData":` + string(summary) + "}\n")
	return t.w.Flush()
}

// counters writes what changed over time.
func (t *Trace) counters(took time.Duration) {
	line := t.pace.Timeline(took)
	read, written := line.paces()
	perBin := line.Width.Seconds()
	for i := range line.InFlight {
		at := time.Duration(i) * line.Width
		t.counter("bytes in flight", at, "bytes", strconv.FormatInt(line.InFlight[i], 10))
		t.counter("reading, GB/s", at, "GB/s", gigabytes(read[i], perBin))
		t.counter("writing, GB/s", at, "GB/s", gigabytes(written[i], perBin))
	}
	end := time.Duration(len(line.InFlight)) * line.Width
	t.counter("bytes in flight", end, "bytes", "0")
	t.counter("reading, GB/s", end, "GB/s", "0")
	t.counter("writing, GB/s", end, "GB/s", "0")
}

func gigabytes(n int64, seconds float64) string {
	return strconv.FormatFloat(float64(n)/seconds/1e9, 'f', 3, 64)
}

func (t *Trace) counter(name string, at time.Duration, unit, value string) {
	t.head("C", name, 0)
	t.line = append(t.line, `,"ts":`...)
	t.micros(at)
	t.line = append(t.line, `,"args":{"`+unit+`":`+value+`}}`...)
	t.write()
}

// traceSummary is what the trace says beside its events.
type traceSummary struct {
	Version string     `json:"version"`
	Error   string     `json:"error,omitempty"`
	Seconds float64    `json:"seconds"`
	Phases  []RunPhase `json:"phases"` // as in the result, whole
}

func summaryOf(res *coldload.Result, loadErr error) traceSummary {
	s := traceSummary{Version: coldload.Version, Seconds: res.Duration.Seconds(), Phases: RunPhases(res.Phases)}
	if loadErr != nil {
		s.Error = loadErr.Error()
	}
	return s
}
