package report

import (
	"strconv"
	"strings"

	"github.com/coldload/coldload/stages"
)

// Outputs whose names differ only in numbers and which are alike in all else make one line of the plan. A hostile checkpoint may have a
// line for every tensor, so there are bounds on what is kept and on what is printed.
const (
	mostGroups = 4096
	mostLines  = 60
)

// outputGroup is Outputs that are alike.
type outputGroup struct {
	name  string // with * for numbers
	first *stages.Output
	count int64
	bytes int64
}

// groupOutputs groups the Outputs, in the order of the first of each; others are those that found no place.
func groupOutputs(outputs []stages.Output) (groups []*outputGroup, others outputGroup) {
	found := map[string]*outputGroup{}
	var key []byte
	for i := range outputs {
		o := &outputs[i]
		key = appendPattern(key[:0], o.Name)
		n := len(key)
		key = appendTraits(key, o)
		g := found[string(key)] // does not allocate
		switch {
		case g == nil && len(groups) == mostGroups:
			g = &others
		case g == nil:
			g = &outputGroup{name: string(key[:n]), first: o}
			found[string(key)] = g
			groups = append(groups, g)
		}
		g.count++
		g.bytes += o.Size
	}
	return groups, others
}

// appendPattern appends the name with * in place of components that are numbers.
func appendPattern(b []byte, name string) []byte {
	for start := 0; start <= len(name); {
		end := strings.IndexByte(name[start:], '.')
		if end < 0 {
			end = len(name)
		} else {
			end += start
		}
		if start > 0 {
			b = append(b, '.')
		}
		if part := name[start:end]; isNumber(part) {
			b = append(b, '*')
		} else {
			b = append(b, part...)
		}
		start = end + 1
	}
	return b
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// appendTraits appends what Outputs of one group have in common beside the name.
func appendTraits(b []byte, o *stages.Output) []byte {
	b = append(b, 0)
	b = append(b, o.Kind...)
	b = append(b, 0)
	b = append(b, o.Layout...)
	b = append(b, 0, byte(o.DType))
	for _, d := range o.Shape {
		b = strconv.AppendInt(append(b, ' '), d, 10)
	}
	return b
}

// writeOutputs lists the Outputs, alike ones in one line.
func (p Plan) writeOutputs(b *strings.Builder, width int) {
	if len(p.Plan.Outputs) == 0 {
		return
	}
	groups, others := groupOutputs(p.Plan.Outputs)
	t := table{indent: "  ", columns: []column{
		{title: "output (* is any number)"},
		{title: "count", right: true},
		{title: "kind", drop: 1},
		{title: "layout", drop: 4},
		{title: "dtype", drop: 2},
		{title: "shape", drop: 3},
		{title: "bytes", right: true},
	}}
	for i, g := range groups {
		if i >= mostLines {
			others.count += g.count
			others.bytes += g.bytes
			continue
		}
		t.add(Clean(g.name), Count(g.count), string(g.first.Kind), string(g.first.Layout), g.first.DType.String(), shape(g.first.Shape), Bytes(g.bytes))
	}
	if others.count > 0 {
		t.add("others (all of them: --json)", Count(others.count), "", "", "", "", Bytes(others.bytes))
	}
	b.WriteString("\noutputs\n")
	t.write(b, width)
}

func shape(dims []int64) string {
	parts := make([]string, len(dims))
	for i, d := range dims {
		parts[i] = strconv.FormatInt(d, 10)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}
