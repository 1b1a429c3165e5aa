package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed" // for the template and its style
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/stages"
)

// Page is a load as one HTML file that needs nothing else: no script, no network, no other file. What comes from the checkpoint, such as names,
// is escaped, and a Content-Security-Policy forbids whatever is not in the file.
type Page struct {
	Load

	Path             string // of the checkpoint
	Err              error  // what the load failed with; nil when it did not
	Stopped          bool   // by the user, who is not told then that it failed
	Budget           int64  // bytes
	Machine, Options []Fact
	Timeline         Timeline
	// Object is the load as JSON: the object that the command prints.
	Object []byte
}

// Fact is a name and a value, as people read them.
type Fact struct{ Name, Value string }

//go:embed page.tmpl
var pageTemplate string

//go:embed page.css
var pageStyle string

// pageHTML parses the template when it is first needed: most programs never do.
var pageHTML = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("page").Funcs(template.FuncMap{"clean": Clean}).Parse(pageTemplate))
})

// WriteHTML writes the page.
func (p Page) WriteHTML(w io.Writer) error {
	v, err := p.view()
	if err != nil {
		return err
	}
	return pageHTML().Execute(w, v)
}

// pageView is what the template shows.
type pageView struct {
	Page

	Version, Title, Summary, Policy string
	Style                           template.CSS
	Figures                         []Fact
	Failure                         []string // what happened, or every fault of a checkpoint that was refused
	HowFar                          string   // a failed load came

	Ticks            []tick // of the time axis
	Lanes, Shares    []laneView
	Charts           []chartView
	Phases           []phaseView
	Together         phaseView
	Slow             []slowView
	SlowKinds        []slowKind
	Kept             []string
	ResultJSON, Line template.JS
}

// mostDrawn is how many bins of time are drawn: more than a pixel each, and a file of some 100 KiB.
const mostDrawn = 256

func (p Page) view() (*pageView, error) {
	line := p.Timeline
	for len(line.InFlight) > mostDrawn {
		line = line.halved()
	}
	series, err := json.Marshal(seriesOf(&line))
	if err != nil {
		return nil, fmt.Errorf("encode the timeline: %w", err)
	}
	v := &pageView{
		Page: p, Version: coldload.Version, Title: p.title(), Figures: p.figures(), Kept: p.kept(),
		Ticks: ticks(time.Duration(len(line.InFlight)) * line.Width), Lanes: p.lanes(&line), Shares: p.shares(), Charts: p.charts(&line),
		Phases: p.phases(), Together: p.together(), ResultJSON: scriptJSON(p.Object), Line: scriptJSON(series),
	}
	v.SlowKinds, v.Slow = p.slow()
	if p.Err == nil {
		v.Summary = p.Headline()
	} else {
		v.Failure, v.HowFar = p.failure(), p.howFar()
	}
	v.setStyle()
	return v, nil
}

// setStyle adds where the ticks are, and has the policy allow this style only. Styles in attributes would need a policy that allows any.
func (v *pageView) setStyle() {
	var b strings.Builder
	b.WriteString(pageStyle)
	for i, t := range v.Ticks {
		fmt.Fprintf(&b, ".t%d{left:%.2f%%}\n", i, t.percent)
	}
	sum := sha256.Sum256([]byte(b.String()))
	v.Style = template.CSS(b.String())
	v.Policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"
}

// scriptJSON makes JSON safe inside a script element, and for whoever reads the file in an editor, without a change of what it says: nothing
// ends the element, nothing steers.
func scriptJSON(object []byte) template.JS {
	if len(object) == 0 {
		return "null"
	}
	var escaped bytes.Buffer
	json.HTMLEscape(&escaped, object)
	var b strings.Builder
	for _, r := range escaped.String() {
		if !unprintable(r) {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return template.JS(b.String())
}

// title is that of the window.
func (p Page) title() string {
	switch {
	case p.Err != nil && p.Stopped:
		return "stopped: " + Clean(p.Path)
	case p.Err != nil:
		return "failed: " + Clean(p.Path)
	}
	return Clean(p.Path) + " " + p.verb() + " in " + Duration(p.Took)
}

func (p Page) verb() string { return cmp.Or(p.Verb, "loaded") }

// figures are what people look for first.
func (p Page) figures() []Fact {
	if p.Err != nil {
		return nil
	}
	s := p.Result.Plan.Summary
	list := []Fact{{"time", Duration(p.Took)}}
	if r := p.pace(); r != "-" {
		list = append(list, Fact{"pace", r + " GB/s"})
	}
	if v := p.Result.Verdict; v.BoundBy != "" {
		list = append(list, Fact{"bound by", boundBy(v)})
	}
	list = append(list, Fact{"in", Bytes(s.BytesIn) + ", " + Plural(int64(p.Result.TensorsIn), "tensor")},
		Fact{"out", Bytes(s.BytesOut) + ", " + Plural(int64(len(p.Result.Plan.Outputs)), "output")})
	if p.PeakAnon > 0 {
		list = append(list, Fact{"peak memory", Bytes(p.PeakAnon)})
	}
	return list
}

// boundBy is what bounded the load in a word, and where.
func boundBy(v coldload.Verdict) string {
	switch v.BoundBy {
	case coldload.BoundBySource:
		return "reading"
	case coldload.BoundBySink:
		return "writing"
	case coldload.BoundByCPU:
		return strings.TrimSuffix("processors in "+Clean(v.Phase), " in ")
	case coldload.BoundByMemory:
		return "memory bandwidth"
	case coldload.BoundByStage:
		return Clean(v.Phase)
	default:
		return v.BoundBy
	}
}

// failure is what a load failed with: every fault of a checkpoint that was refused, else the error.
func (p Page) failure() []string {
	if refused, ok := errors.AsType[*stages.RefusedError](p.Err); ok {
		return Faults(refused.Faults)
	}
	var lines []string
	for l := range strings.Lines(p.Err.Error()) {
		lines = append(lines, Clean(strings.TrimSuffix(l, "\n")))
	}
	return lines
}

// howFar says how far a failed load came.
func (p Page) howFar() string {
	if p.Result.Plan == nil || p.Result.Plan.Summary.Parts == 0 {
		return "It ended after " + Duration(p.Took) + ", before a byte of a tensor was read."
	}
	read, written := p.Result.Phases[stages.PhaseFetch], p.Result.Phases[stages.PhaseUpload]
	s := p.Result.Plan.Summary
	return fmt.Sprintf("It ended after %s, with %s of %s read and %s of %s written.", Duration(p.Took),
		Bytes(read.BytesIn), Bytes(max(s.BytesRead, read.BytesIn)), Bytes(written.BytesOut), Bytes(s.BytesOut-s.Skipped))
}

func (p Page) kept() (list []string) {
	if p.Result.Plan == nil {
		return nil
	}
	for _, k := range p.Result.Plan.Summary.Kept {
		list = append(list, k.Reason+": "+Plural(int64(k.Groups), "module")+", first "+k.Example)
	}
	return list
}
