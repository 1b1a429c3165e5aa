package report

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/stages"
)

// Load is what there is to say of a finished load.
type Load struct {
	Result *coldload.Result
	// Took is what the user waited: from the start of the program to the last byte in its final layout.
	Took time.Duration
	// Verb is what was done; empty is "loaded".
	Verb string
	// Where says where the result is and follows its size: " in host memory", ", discarded".
	Where string
	// PeakAnon is the most anonymous memory that the process had, in bytes; 0 when the system does not tell.
	PeakAnon int64
}

// Headline is the load in one line.
func (l Load) Headline() string {
	s := l.Result.Plan.Summary
	line := fmt.Sprintf("%s %s (%s) as %s%s, took %s", cmp.Or(l.Verb, "loaded"), Bytes(s.BytesIn), Plural(int64(l.Result.TensorsIn), "tensor"),
		Bytes(s.BytesOut), l.Where, Duration(l.Took))
	if r := l.pace(); r != "-" {
		line += ", " + r + " GB/s"
	}
	if l.PeakAnon > 0 {
		line += ", peak memory " + Bytes(l.PeakAnon)
	}
	return line
}

// pace is that of what was read, which is less than all in a run that goes on with an earlier one; "-" when nothing was, or there is no telling.
func (l Load) pace() string {
	n := l.Result.Plan.Summary.BytesIn
	for _, p := range l.Result.Phases {
		if p.Name == stages.PhaseFetch.String() {
			n = min(n, p.BytesIn)
		}
	}
	return rate(n, l.Took)
}

// Text is the headline, the phase table, the verdict, what stayed raw and what was odd, at most width columns wide where that is possible; 0 sets no bound.
func (l Load) Text(width int) string {
	var b strings.Builder
	b.WriteString(wrap(l.Headline(), width) + "\n\n")
	b.WriteString(Phases(l.Result.Phases, l.Result.Duration, width))
	if v := l.Result.Verdict.Sentence; v != "" {
		b.WriteString("\n" + wrap(Clean(v), width) + "\n")
	}
	writeKept(&b, l.Result.Plan.Summary)
	writeList(&b, "notes", l.Result.Notes)
	writeList(&b, "warnings", l.Result.Warnings)
	return b.String()
}

// Phases is the table of phases of a load that took the given time. Times are as measured, summed over the workers of a phase.
func Phases(phases []coldload.Phase, took time.Duration, width int) string {
	t := table{columns: []column{
		{title: "phase"},
		{title: "workers", right: true, drop: 3},
		{title: "items", right: true, drop: 4},
		{title: "in", right: true, drop: 2},
		{title: "out", right: true, drop: 1},
		{title: "busy s", right: true},
		{title: "wait in s", right: true},
		{title: "wait out s", right: true},
		{title: "idle s", right: true, drop: 7},
		{title: "used", right: true, drop: 5},
		{title: "GB/s", right: true, drop: 6},
	}}
	for _, p := range inOrder(phases) {
		used := "-"
		if whole := time.Duration(p.Workers) * took; whole > 0 && p.Busy > 0 {
			used = fmt.Sprintf("%.0f %%", 100*p.Busy.Seconds()/whole.Seconds())
		}
		t.add(p.Name, strconv.Itoa(p.Workers), Count(p.Items), bytesOrDash(p.BytesIn), bytesOrDash(p.BytesOut),
			seconds(p.Busy), seconds(p.WaitIn), seconds(p.WaitOut), seconds(p.Idle), used, speed(p, took))
	}
	var b strings.Builder
	t.write(&b, width)
	b.WriteString("\n" + wrap("Times are summed over the workers: busy, waiting and idle (not there yet, or gone) make up the load. "+
		"used: the part of the load that a worker was busy. GB/s: of one worker while it was busy.", cmp.Or(min(width, legendWidth), legendWidth)) + "\n")
	return b.String()
}

// legendWidth is what is easy to read, where there is room for it.
const legendWidth = 80

// speed is what one busy worker does; "-" when it was busy for too short a time to tell.
func speed(p coldload.Phase, took time.Duration) string {
	if p.Busy < took*time.Duration(p.Workers)/100 {
		return "-"
	}
	return rate(max(p.BytesIn, p.BytesOut), p.Busy)
}

func bytesOrDash(n int64) string {
	if n == 0 {
		return "-"
	}
	return Bytes(n)
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 3, 64) }

// writeList prints lines under a title; nothing when there are none.
func writeList(b *strings.Builder, title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	b.WriteString("\n" + title + "\n")
	for _, l := range lines {
		b.WriteString("  - " + Clean(l) + "\n")
	}
}
