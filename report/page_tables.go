package report

import (
	"fmt"
	"strconv"
	"time"

	"github.com/coldload/coldload"
)

// phaseView is a row of the table of phases.
type phaseView struct {
	Name, Workers, Items, In, Out, Busy, WaitIn, WaitOut, Idle, Used, Speed string
}

func (p Page) phases() (rows []phaseView) {
	for _, ph := range inOrder(p.Result.Phases) {
		rows = append(rows, phaseView{
			Name: ph.Name, Workers: strconv.Itoa(ph.Workers), Items: Count(ph.Items), In: bytesOrDash(ph.BytesIn), Out: bytesOrDash(ph.BytesOut),
			Busy: seconds(ph.Busy), WaitIn: seconds(ph.WaitIn), WaitOut: seconds(ph.WaitOut), Idle: seconds(ph.Idle),
			Used: share(ph.Busy, p.whole(ph)), Speed: speed(ph, p.Result.Duration),
		})
	}
	return rows
}

// together is the last row: the times of all phases.
func (p Page) together() phaseView {
	var sum coldload.Phase
	for _, ph := range p.Result.Phases {
		sum.Workers += ph.Workers
		sum.Busy, sum.WaitIn, sum.WaitOut, sum.Idle = sum.Busy+ph.Busy, sum.WaitIn+ph.WaitIn, sum.WaitOut+ph.WaitOut, sum.Idle+ph.Idle
	}
	return phaseView{
		Workers: strconv.Itoa(sum.Workers), Busy: seconds(sum.Busy), WaitIn: seconds(sum.WaitIn), WaitOut: seconds(sum.WaitOut),
		Idle: seconds(sum.Idle), Used: share(sum.Busy, p.whole(sum)),
	}
}

// whole is the time that the workers of a phase had.
func (p Page) whole(ph coldload.Phase) time.Duration {
	return time.Duration(ph.Workers) * p.Result.Duration
}

// share is a part of a whole in per cent; "-" of nothing.
func share(part, whole time.Duration) string {
	if whole <= 0 || part <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f %%", 100*part.Seconds()/whole.Seconds())
}

// slowKind is a phase that the slowest Batches spent time in.
type slowKind struct {
	Class, Name string
	index       int
}

// slowView is one of the slowest Batches.
type slowView struct {
	Name, What         string // its first tensor, and what else is known of it
	Read, Busy, Waited string
	State              string // "" when it was written
	Alt                string
	Bars               []bar
}

// bar is a part of a line that is 100 long.
type bar struct {
	Class    string
	From, To string // From and how long it is
}

// slow lists the slowest Batches, and the phases that they spent time in. The longest fills its line.
func (p Page) slow() (kinds []slowKind, list []slowView) {
	for i, name := range flowPhases {
		for _, b := range p.Timeline.Slowest {
			if b.Phases[i] > 0 {
				kinds = append(kinds, slowKind{"f" + strconv.Itoa(i), name, i})
				break
			}
		}
	}
	for _, b := range p.Timeline.Slowest {
		v := slowView{
			Name: Clean(b.Name), Read: Bytes(b.Read), Busy: millis(b.Busy), Waited: millis(b.Ended - b.Began - b.Busy), Alt: "busy " + millis(b.Busy) + " ms",
		}
		v.Name, v.What = p.describe(b)
		switch {
		case b.Err != nil:
			v.State = "failed"
		case !b.Done:
			v.State = "not written"
		}
		at := 0.0
		for _, k := range kinds {
			long := 100 * float64(b.Phases[k.index]) / float64(max(1, p.Timeline.Slowest[0].Busy))
			v.Bars = append(v.Bars, bar{k.Class, number(at), number(long)})
			v.Alt += ", " + k.Name + " " + millis(b.Phases[k.index])
			at += long
		}
		list = append(list, v)
	}
	return kinds, list
}

// describe names a Batch by its first tensor and says what becomes of it, as the Plan has it.
func (p Page) describe(b Slow) (name, what string) {
	if p.Result.Plan == nil {
		return Clean(b.Name), ""
	}
	batch := p.Result.Plan.BatchNamed(b.Name)
	if batch == nil {
		return Clean(b.Name), ""
	}
	tensors, outputs := map[string]bool{}, map[int]bool{}
	for i := range batch.Parts {
		for k := range batch.Parts[i].Inputs {
			if t := batch.Parts[i].Inputs[k].Tensor; !tensors[t] {
				tensors[t] = true
				if name == "" {
					name = t
				}
			}
		}
	}
	for _, s := range batch.Slabs {
		outputs[s.Output] = true
	}
	what = fmt.Sprintf("batch %d", batch.Seq)
	if n := len(tensors) - 1; n > 0 {
		what += ", with " + Plural(int64(n), "more tensor")
	}
	if batch.IsScan() {
		return Clean(name), what + ", a scan"
	}
	first := batch.Outputs[batch.Slabs[0].Output].Name
	if what += ", into " + Clean(first); len(outputs) > 1 {
		what += fmt.Sprintf(" and %s more", Count(int64(len(outputs)-1)))
	}
	if name == "" {
		name = first
	}
	return Clean(name), what
}

func millis(d time.Duration) string { return strconv.FormatFloat(float64(d)/1e6, 'f', 2, 64) }

// pageSeries is what the pictures are drawn from, for programs.
type pageSeries struct {
	BinSeconds float64    `json:"bin_seconds"`
	BytesRead  []int64    `json:"bytes_read"`    // by fetch, in every bin
	BytesOut   []int64    `json:"bytes_written"` // by upload
	InFlight   []int64    `json:"bytes_in_flight"`
	Lanes      []pageLane `json:"lanes"`
	Slowest    []pageSlow `json:"slowest"`
}

// pageLane is one worker; times are in thousandths of a bin.
type pageLane struct {
	Stage   string  `json:"stage"`
	Worker  int     `json:"worker"`
	Busy    []int64 `json:"busy,omitempty"`
	WaitIn  []int64 `json:"wait_in,omitempty"`
	WaitOut []int64 `json:"wait_out,omitempty"`
}

type pageSlow struct {
	Seq     int64              `json:"seq"`
	Name    string             `json:"name"`
	Began   float64            `json:"began_seconds"`
	Ended   float64            `json:"ended_seconds"`
	Busy    float64            `json:"busy_seconds"`
	Phases  map[string]float64 `json:"phases"`
	Read    int64              `json:"bytes_read"`
	Written bool               `json:"written"`
}

func seriesOf(t *Timeline) pageSeries {
	s := pageSeries{BinSeconds: t.Width.Seconds(), InFlight: t.InFlight, Lanes: []pageLane{}, Slowest: []pageSlow{}}
	s.BytesRead, s.BytesOut = t.paces()
	for _, l := range t.Lanes {
		s.Lanes = append(s.Lanes, pageLane{
			Stage: l.Stage, Worker: l.Worker, Busy: thousandths(l.Busy, t.Width), WaitIn: thousandths(l.WaitIn, t.Width), WaitOut: thousandths(l.WaitOut, t.Width),
		})
	}
	for _, b := range t.Slowest {
		slow := pageSlow{
			Seq: b.Seq, Name: b.Name, Began: b.Began.Seconds(), Ended: b.Ended.Seconds(), Busy: b.Busy.Seconds(), Phases: map[string]float64{}, Read: b.Read, Written: b.Done,
		}
		for i, name := range flowPhases {
			if b.Phases[i] > 0 {
				slow.Phases[name] = b.Phases[i].Seconds()
			}
		}
		s.Slowest = append(s.Slowest, slow)
	}
	return s
}

// thousandths are times as parts of a bin; nil when there are none.
func thousandths(times []int64, width time.Duration) []int64 {
	parts, some := make([]int64, len(times)), false
	for i, n := range times {
		parts[i] = (1000*n + int64(width)/2) / int64(width)
		some = some || n > 0
	}
	if !some {
		return nil
	}
	return parts
}
