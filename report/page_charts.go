package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/stages"
)

// tick is a mark of the time axis.
type tick struct {
	Class, Label string
	percent      float64 // from the left
}

// ticks are round times, four to eight of them.
func ticks(span time.Duration) (list []tick) {
	step := niceAbove(span.Seconds()/8, 1, 2, 5)
	for i := 0; ; i++ {
		at := float64(i) * step
		if at > span.Seconds()*0.97 {
			return list
		}
		list = append(list, tick{Class: "t" + strconv.Itoa(i), Label: axisTime(at, step), percent: 100 * at / span.Seconds()})
	}
}

// niceAbove is the least of the numbers times a power of ten that is not below v.
func niceAbove(v float64, numbers ...float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range numbers {
		if m*power >= v*(1-1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// axisTime is a round time, with the digits that its step needs.
func axisTime(at, step float64) string {
	unit, name := 1.0, " s"
	if step < 0.1 {
		unit, name = 1e3, " ms"
	}
	digits := max(0, -int(math.Floor(math.Log10(step*unit)+1e-9)))
	return strconv.FormatFloat(at*unit, 'f', digits, 64) + name
}

// number is a coordinate.
func number(v float64) string { return strconv.FormatFloat(math.Round(v*10)/10, 'f', -1, 64) }

// layer is an area of a picture, between two lines.
type layer struct{ Class, Path string }

// laneView is a line of a picture: a worker through time, or a phase as shares of its time.
type laneView struct {
	Name, Value, Alt string
	Columns          int // how wide the picture is, in its own units; 100 high
	Layers           []layer
	Bars             []bar
	First            bool // of its stage
}

// mostLanes is how many workers of a stage are drawn apart; more are drawn together, and those that were there for a moment only.
const mostLanes = 8

// lanes draws what every worker did. Stages that are no phases are shown when they took some time.
func (p Page) lanes(t *Timeline) (list []laneView) {
	byStage := map[string][]Lane{}
	var order []string
	for _, l := range t.Lanes {
		if byStage[l.Stage] == nil {
			order = append(order, l.Stage)
		}
		byStage[l.Stage] = append(byStage[l.Stage], l)
	}
	for _, stage := range order {
		lanes := byStage[stage]
		sum := t.Of(stage)
		if !isPhase(stage) && stage != admission && sum.Busy < p.Result.Duration/50 {
			continue
		}
		title := titleOf(stage)
		if len(lanes) > mostLanes || len(lanes) > 1 && sum.Busy+sum.WaitIn+sum.WaitOut < p.Result.Duration/50 {
			list = append(list, p.lane(fmt.Sprintf("%s ×%d", title, len(lanes)), fmt.Sprintf("%s, %d workers together", title, len(lanes)), lanes, t.Width))
		} else {
			for i := range lanes {
				name := title
				if len(lanes) > 1 {
					name += " " + strconv.Itoa(i+1)
				}
				list = append(list, p.lane(name, name, lanes[i:i+1], t.Width))
				list[len(list)-1].First = i == 0
			}
			continue
		}
		list[len(list)-1].First = true
	}
	return list
}

// lane draws some workers in one line.
func (p Page) lane(name, long string, lanes []Lane, width time.Duration) laneView {
	n := len(lanes[0].Busy)
	var sum Sums
	busy, out, in := make([]float64, n), make([]float64, n), make([]float64, n)
	whole := float64(len(lanes)) * float64(width)
	for _, l := range lanes {
		sum.add(l.Sums)
		for i := range n {
			busy[i] += float64(l.Busy[i]) / whole
			out[i] += float64(l.WaitOut[i]) / whole
			in[i] += float64(l.WaitIn[i]) / whole
		}
	}
	time := p.whole(coldload.Phase{Workers: len(lanes)})
	return laneView{
		Name: Clean(name), Columns: n, Layers: stack([]string{"busy", "out", "in"}, busy, out, in), Value: share(sum.Busy, time),
		Alt: Clean(long) + ": busy " + share(sum.Busy, time) + " of the load, waiting for input " + share(sum.WaitIn, time) +
			", waiting to hand on " + share(sum.WaitOut, time),
	}
}

// stack draws parts of a whole on top of one another, the first at the bottom.
func stack(classes []string, parts ...[]float64) (layers []layer) {
	base := make([]float64, len(parts[0]))
	for i, part := range parts {
		top, some := make([]float64, len(part)), false
		for k, v := range part {
			top[k] = min(1, base[k]+v)
			some = some || v > 0.0005
		}
		if some {
			layers = append(layers, layer{classes[i], area(base, top)})
		}
		base = top
	}
	return layers
}

// area is the path around what lies between two lines of steps, in a picture 100 high.
func area(base, top []float64) string {
	var b strings.Builder
	y := func(v float64) string { return number(100 * (1 - v)) }
	now := y(top[0])
	b.WriteString("M0 " + now)
	for i := 1; i < len(top); i++ {
		if next := y(top[i]); next != now {
			b.WriteString("H" + strconv.Itoa(i) + "V" + next)
			now = next
		}
	}
	last := len(base) - 1
	now = y(base[last])
	b.WriteString("H" + strconv.Itoa(len(top)) + "V" + now)
	for i := last - 1; i >= 0; i-- {
		if next := y(base[i]); next != now {
			b.WriteString("H" + strconv.Itoa(i+1) + "V" + next)
			now = next
		}
	}
	b.WriteString("H0Z")
	return b.String()
}

// shares draws for every phase how its workers' time is made up.
func (p Page) shares() (list []laneView) {
	for _, ph := range inOrder(p.Result.Phases) {
		whole := p.whole(ph)
		name := Clean(ph.Name)
		if ph.Workers > 1 {
			name += " ×" + strconv.Itoa(ph.Workers)
		}
		v := laneView{Name: name, Value: share(ph.Busy, whole), First: true, Alt: Clean(ph.Name)}
		at := 0.0
		for _, part := range []struct {
			class, says string
			took        time.Duration
		}{
			{"busy", "busy", ph.Busy}, {"out", "waiting to hand on", ph.WaitOut}, {"in", "waiting for input", ph.WaitIn}, {"idle", "idle", ph.Idle},
		} {
			long := 100 * part.took.Seconds() / max(1e-9, whole.Seconds())
			v.Bars = append(v.Bars, bar{part.class, number(at), number(long)})
			v.Alt += ", " + part.says + " " + share(part.took, whole)
			at += long
		}
		list = append(list, v)
	}
	return list
}

// chartView is a curve over time.
type chartView struct {
	Name, Class, Alt string
	Top              string // what the upper edge, or the line of the limit, stands for
	Value            string // the figure to remember
	Columns          int
	Path             string
	Limit            string // height of the line of the limit; "" when there is none
}

// mostPaces is how many bins the curves of reading and writing have.
const mostPaces = 80

// charts draws the pace of reading and writing, on one scale, and the memory in flight.
func (p Page) charts(t *Timeline) []chartView {
	read, written := t.paces()
	width := t.Width
	for len(read) > mostPaces { // Batches are large: in short bins some have one and others none
		add := func(a, b int64) int64 { return a + b }
		read, written, width = pairs(read, add), pairs(written, add), 2*width
	}
	perBin := 1e9 * width.Seconds()
	most := float64(max(slices.Max(read), slices.Max(written))) / perBin
	top := niceAbove(most, 1, 1.5, 2, 3, 4, 5, 6, 8)
	pace := func(name, class string, bytes []int64, ph stages.Phase) chartView {
		whole := p.Result.Phases[ph]
		n, d := whole.BytesIn, whole.Last.Sub(whole.First)
		if ph == stages.PhaseUpload {
			n = whole.BytesOut
		}
		c := curve(name, class, bytes, perBin*top)
		c.Top = "to " + strconv.FormatFloat(top, 'g', 3, 64) + " GB/s"
		c.Value = "-"
		if r := rate(n, d); r != "-" {
			c.Value = "ø " + r + " GB/s"
		}
		c.Alt = fmt.Sprintf("%s over time: %s in %s, %s GB/s on average, at most %.2f GB/s", name, Bytes(n), Duration(d), rate(n, d), float64(slices.Max(bytes))/perBin)
		return c
	}
	limit := max(p.Budget, slices.Max(t.InFlight), 1)
	flight := curve("in flight", "flight", t.InFlight, 1.05*float64(limit))
	if flight.Value = "-"; p.Result.BudgetPeak > 0 {
		flight.Value = "max " + share(time.Duration(p.Result.BudgetPeak), time.Duration(p.Budget))
	}
	flight.Alt = fmt.Sprintf("bytes in flight over time: at most %s of the budget of %s", Bytes(p.Result.BudgetPeak), Bytes(p.Budget))
	if p.Budget > 0 {
		flight.Top = "of " + BinaryBytes(p.Budget)
		flight.Limit = number(100 * (1 - float64(p.Budget)/(1.05*float64(limit))))
	}
	return []chartView{
		pace("reading", "read", read, stages.PhaseFetch), pace("writing", "written", written, stages.PhaseUpload), flight,
	}
}

// curve draws heights in steps; top is the upper edge.
func curve(name, class string, heights []int64, top float64) chartView {
	line := make([]float64, len(heights))
	for i, h := range heights {
		line[i] = float64(h) / max(top, 1)
	}
	return chartView{Name: name, Class: class, Columns: len(heights), Path: area(make([]float64, len(line)), line)}
}
