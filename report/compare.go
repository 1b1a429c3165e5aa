package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Comparison sets two runs side by side: what was before a change, and what is after it.
type Comparison struct {
	A Run `json:"a"`
	B Run `json:"b"`
	// TimeRatio is B's time as a part of A's.
	TimeRatio float64 `json:"time_ratio"`
	// NotComparable says why the times tell nothing about each other; empty when they do.
	NotComparable []string `json:"not_comparable"`
	// Differences are the options and circumstances in which the runs differ.
	Differences []RunDifference `json:"differences"`
	Phases      []PhasePair     `json:"phases"`
}

// RunDifference is one thing in which two runs differ.
type RunDifference struct {
	Name string `json:"name"`
	A    string `json:"a"`
	B    string `json:"b"`
}

// PhasePair is one phase in both runs; nil where a run has no such phase.
type PhasePair struct {
	Name string    `json:"name"`
	A    *RunPhase `json:"a"`
	B    *RunPhase `json:"b"`
	// BusyChange and WaitChange are how much more B took, as a part of what A took: -0.5 is half. Null when A took nothing.
	BusyChange *float64 `json:"busy_change"`
	WaitChange *float64 `json:"wait_change"`
}

// Compare sets b beside a.
func Compare(a, b Run) Comparison {
	return Comparison{
		A: a, B: b, TimeRatio: b.Seconds / a.Seconds,
		NotComparable: notComparable(a, b), Differences: differences(a, b), Phases: phasePairs(a.Phases, b.Phases),
	}
}

// notComparable finds what makes two times those of different work.
func notComparable(a, b Run) []string {
	reasons := []string{}
	add := func(what, of, in string) { reasons = append(reasons, fmt.Sprintf("%s: %s and %s", what, of, in)) }
	if a.BytesIn != b.BytesIn || a.TensorsIn != b.TensorsIn {
		add("not the same checkpoint", fmt.Sprintf("%s in %s", Bytes(a.BytesIn), Plural(a.TensorsIn, "tensor")),
			fmt.Sprintf("%s in %s", Bytes(b.BytesIn), Plural(b.TensorsIn, "tensor")))
	}
	if a.BytesOut != b.BytesOut || a.Outputs != b.Outputs {
		add("not the same result", fmt.Sprintf("%s in %s", Bytes(a.BytesOut), Plural(a.Outputs, "output")),
			fmt.Sprintf("%s in %s", Bytes(b.BytesOut), Plural(b.Outputs, "output")))
	}
	if x, y := sinkKind(a.Sink), sinkKind(b.Sink); x != y {
		add("not the same sink", x, y)
	}
	return reasons
}

// sinkKind is a sink without its folder.
func sinkKind(s string) string {
	kind, _, _ := strings.Cut(s, ":")
	return kind
}

// differences lists what was different, in the order in which a user would look.
func differences(a, b Run) []RunDifference {
	list := []RunDifference{}
	add := func(name, x, y string) {
		if x != y {
			list = append(list, RunDifference{name, x, y})
		}
	}
	add("checkpoint", a.Path, b.Path)
	add("sink", a.Sink, b.Sink)
	add("layout", a.Layout, b.Layout)
	add("dtype", a.DType, b.DType)
	add("budget", BinaryBytes(a.Budget), BinaryBytes(b.Budget))
	for _, name := range slices.Sorted(maps.Keys(union(a.Options, b.Options))) {
		add(name, option(a.Options[name]), option(b.Options[name]))
	}
	add("workers", workers(a.Phases), workers(b.Phases))
	add("read", a.Read.String(), b.Read.String())
	add("kernels", a.Kernels, b.Kernels)
	add("processors", decimal(a.CPUs), decimal(b.CPUs))
	add("version", a.Version, b.Version)
	return list
}

func union(a, b map[string]any) map[string]any {
	both := maps.Clone(a)
	if both == nil {
		both = map[string]any{}
	}
	maps.Copy(both, b)
	return both
}

// option is an option's value as text; "-" where a run does not tell it.
func option(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case []any:
		texts := make([]string, len(v))
		for i := range v {
			texts[i] = option(v[i])
		}
		return cmp.Or(strings.Join(texts, " "), "none")
	default:
		return fmt.Sprint(v)
	}
}

// workers is how many workers each phase had that ran with more than one.
func workers(phases []RunPhase) string {
	var list []string
	for _, p := range phases {
		if p.Workers > 1 {
			list = append(list, fmt.Sprintf("%s %d", p.Name, p.Workers))
		}
	}
	return cmp.Or(strings.Join(list, " "), "1 each")
}

func decimal(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// phasePairs puts the phases of both together: those of a in their order, then those that only b has.
func phasePairs(a, b []RunPhase) []PhasePair {
	list := []PhasePair{}
	rest := slices.Clone(b)
	for i := range a {
		p := PhasePair{Name: a[i].Name, A: &a[i]}
		if at := slices.IndexFunc(rest, func(q RunPhase) bool { return q.Name == p.Name }); at >= 0 {
			q := rest[at]
			p.B, rest = &q, slices.Delete(rest, at, at+1)
			p.BusyChange, p.WaitChange = change(p.A.Busy, q.Busy), change(p.A.wait(), q.wait())
		}
		list = append(list, p)
	}
	for i := range rest {
		list = append(list, PhasePair{Name: rest[i].Name, B: &rest[i]})
	}
	return list
}

func change(a, b float64) *float64 {
	if a <= 0 {
		return nil
	}
	c := b/a - 1
	if math.IsInf(c, 0) {
		return nil
	}
	return &c
}

// Headline is the comparison in one line.
func (c Comparison) Headline() string {
	line := fmt.Sprintf("B took %.2f of A's time: %s instead of %s, %s instead of %s GB/s", c.TimeRatio,
		inSeconds(c.B.Seconds), inSeconds(c.A.Seconds), rate(c.B.BytesIn, duration(c.B.Seconds)), rate(c.A.BytesIn, duration(c.A.Seconds)))
	if len(c.NotComparable) > 0 {
		line += " (not comparable)"
	}
	return line
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

func inSeconds(s float64) string { return Duration(duration(s)) }

// Text is the comparison at most width columns wide where that is possible; 0 sets no bound.
func (c Comparison) Text(width int) string {
	var b strings.Builder
	for _, r := range []struct {
		letter string
		Run
	}{{"A", c.A}, {"B", c.B}} {
		fmt.Fprintf(&b, "%s  %s: %s (%s) as %s to %s, took %s, %s GB/s\n", r.letter, Clean(r.Name), Bytes(r.BytesIn), Plural(r.TensorsIn, "tensor"),
			Bytes(r.BytesOut), Clean(r.Sink), inSeconds(r.Seconds), rate(r.BytesIn, duration(r.Seconds)))
	}
	b.WriteString("\n" + wrap(c.Headline(), width) + "\n")
	writeList(&b, "not comparable, since these are not the same work", c.NotComparable)
	c.writeDifferences(&b, width)
	b.WriteString("\n")
	c.writePhases(&b, width)
	b.WriteString("\n")
	c.writeResources(&b, width)
	for _, v := range []struct{ letter, sentence string }{{"A", c.A.Verdict}, {"B", c.B.Verdict}} {
		b.WriteString("\n" + wrap(v.letter+"  "+cmp.Or(Clean(v.sentence), "no verdict"), width))
	}
	b.WriteString("\n")
	return b.String()
}

func (c Comparison) writeDifferences(b *strings.Builder, width int) {
	if len(c.Differences) == 0 {
		b.WriteString("\nno difference in options\n")
		return
	}
	b.WriteString("\n")
	t := table{columns: []column{{title: "different"}, {title: "A"}, {title: "B"}}}
	for _, d := range c.Differences {
		t.add(Clean(d.Name), Clean(d.A), Clean(d.B))
	}
	t.write(b, width)
}

func (c Comparison) writePhases(b *strings.Builder, width int) {
	t := table{columns: []column{
		{title: "phase"},
		{title: "bytes A", right: true, drop: 3},
		{title: "bytes B", right: true, drop: 2},
		{title: "busy s A", right: true},
		{title: "B", right: true},
		{title: "change", right: true, drop: 1},
		{title: "wait s A", right: true},
		{title: "B", right: true},
		{title: "change", right: true, drop: 1},
	}}
	for _, p := range c.Phases {
		t.add(Clean(p.Name), p.A.bytes(), p.B.bytes(), p.A.busy(), p.B.busy(), percentChange(p.BusyChange), p.A.waited(), p.B.waited(), percentChange(p.WaitChange))
	}
	t.write(b, width)
}

// writeResources is the table of memory and processors.
func (c Comparison) writeResources(b *strings.Builder, width int) {
	t := table{columns: []column{{title: "resource"}, {title: "A", right: true}, {title: "B", right: true}, {title: "change", right: true, drop: 1}}}
	bytes := func(name string, x, y int64) {
		t.add(name, bytesOrDash(x), bytesOrDash(y), percentChange(change(float64(x), float64(y))))
	}
	bytes("peak memory", c.A.PeakAnon, c.B.PeakAnon)
	bytes("result in memory", c.A.ResultBytes, c.B.ResultBytes)
	bytes("budget in use at most", c.A.BudgetPeak, c.B.BudgetPeak)
	addKnown(&t, "read from devices", c.A.DeviceRead, c.B.DeviceRead, Bytes)
	addKnown(&t, "written to devices", c.A.DeviceWritten, c.B.DeviceWritten, Bytes)
	addKnown(&t, "CPU s", c.A.CPU, c.B.CPU, func(s float64) string { return seconds(duration(s)) })
	t.write(b, width)
}

// value is 0 for what is not known.
func value[T int64 | float64](v *T) T {
	if v == nil {
		return 0
	}
	return *v
}

// addKnown adds a row of figures that the system may not have told.
func addKnown[T int64 | float64](t *table, name string, a, b *T, text func(T) string) {
	show := func(v *T) string {
		if v == nil {
			return "-"
		}
		return text(*v)
	}
	by := "-"
	if a != nil && b != nil {
		by = percentChange(change(float64(*a), float64(*b)))
	}
	t.add(name, show(a), show(b), by)
}

// percentChange is a change as people read it; times ten and more are factors.
func percentChange(c *float64) string {
	switch {
	case c == nil:
		return "-"
	case *c >= 9:
		return fmt.Sprintf("x%.3g", *c+1)
	case math.Abs(*c) < 0.005:
		return "0 %"
	default:
		return fmt.Sprintf("%+.0f %%", 100**c)
	}
}
