package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"html"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/stages"
)

// somePage is a page with something in every place; name is in all that come from a checkpoint.
func somePage(name string) Page {
	r := NewRecorder(epoch)
	for i := range int64(30) {
		through(r, i, int(60*i), 60)
	}
	e := visit(name, 1, 0, 1, 500, 1, pipeline.Work{})
	e.Name = name
	r.Observe(e)
	late := visit("fetch", 99, 1800, 0, 100, 0, pipeline.Work{BytesIn: 7})
	late.Name = name
	r.Observe(late)
	l := someLoad()
	for _, p := range []string{"fetch", "upload"} {
		l.Result.Phases = append(l.Result.Phases, coldload.Phase{
			Name: p, Workers: 2, Items: 3, BytesIn: 1e9, BytesOut: 1e9, Busy: time.Second, WaitIn: time.Second, WaitOut: time.Second, Idle: time.Second,
			First: epoch, Last: epoch.Add(2 * time.Second),
		})
	}
	l.Result.Phases = slices.Insert(l.Result.Phases, 0, coldload.Phase{Name: "discover", Workers: 1}, coldload.Phase{Name: "index", Workers: 1})
	l.Result.Phases = slices.Insert(l.Result.Phases, 3, l.Result.Phases[6]) // fetch, where it belongs
	l.Result.Phases = append(l.Result.Phases, coldload.Phase{Name: name, Workers: 1, Busy: time.Second})
	l.Result.Verdict = coldload.Verdict{BoundBy: coldload.BoundByStage, Phase: name, Sentence: "bound by " + name + "; help " + name, Advice: "help " + name}
	l.Result.BudgetPeak = 100 << 20
	l.Result.Notes, l.Result.Warnings = []string{"note " + name}, []string{"warning " + name}
	l.Result.Plan.Summary.Kept = []plan.Kept{{Reason: "reason " + name, Groups: 2, Example: name}}
	object, err := json.Marshal(map[string]any{"seconds": 2.1, "path": name})
	if err != nil {
		panic(err)
	}
	return Page{
		Load: l, Path: name, Budget: 256 << 20,
		Machine: []Fact{{"processor", name}}, Options: []Fact{{"--include", name}}, Timeline: r.Timeline(2 * time.Second), Object: object,
	}
}

func render(t *testing.T, p Page) string {
	t.Helper()
	var b strings.Builder
	if err := p.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// script is the text of the JSON element with an id.
func script(t *testing.T, page, id string) []byte {
	t.Helper()
	_, rest, ok := strings.Cut(page, `<script type="application/json" id="`+id+`">`)
	if !ok {
		t.Fatalf("no element %s", id)
	}
	text, _, _ := strings.Cut(rest, "</script>")
	return []byte(text)
}

// TestPageIsSelfContained: nothing in it could make a browser ask for something, and the policy would forbid it.
func TestPageIsSelfContained(t *testing.T) {
	t.Parallel()
	page := render(t, somePage("model"))
	for _, forbidden := range []string{"http:", "https:", "//", "src=", "url(", "@import", "<link", "<img", "<iframe", "<object", " style=", " onclick", "javascript"} {
		if i := strings.Index(page, forbidden); i >= 0 {
			t.Errorf("%q is in the page: ...%.80s", forbidden, page[max(0, i-40):])
		}
	}
	if n := strings.Count(page, "<script"); n != 2 {
		t.Errorf("%d script elements, want the two with JSON", n)
	}
	style := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(page)
	policy := regexp.MustCompile(`http-equiv="Content-Security-Policy" content="([^"]*)"`).FindStringSubmatch(page)
	if style == nil || policy == nil {
		t.Fatal("no style or no policy")
	}
	sum := sha256.Sum256([]byte(style[1]))
	want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"
	if got := html.UnescapeString(policy[1]); got != want {
		t.Errorf("policy %q, want %q", got, want)
	}
	if policyAt, styleAt := strings.Index(page, "Content-Security-Policy"), strings.Index(page, "<style>"); policyAt > styleAt {
		t.Error("the policy comes after the style")
	}
}

// TestPageHostile: whatever a checkpoint calls its tensors, it stays text.
func TestPageHostile(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		`</script><script>alert(1)</script>`, `<img src=x onerror=alert(1)>`, `"><svg onload=alert(1)>`, `'; alert(1); '`, `{{.Path}}`, "<!--", "]]>",
		`</title><b>`, "\u2028\u2029", "a\x1b[2Jb\nc\u202ed\xff", "javascript:alert(1)", `&lt;b&gt;`,
	} {
		page := render(t, somePage(name))
		plain := render(t, somePage("model"))
		tags := regexp.MustCompile(`<[a-zA-Z/!][^>]*>`)
		shape := func(s string) (list []string) {
			for _, tag := range tags.FindAllString(s, -1) {
				list = append(list, strings.Fields(strings.Trim(tag, "<>"))[0])
			}
			return list
		}
		if got, want := shape(page), shape(plain); !slices.Equal(got, want) {
			t.Errorf("%q changes what elements there are", name)
		}
		if strings.ContainsAny(page, "\x1b\u202e\u2028\u2029") || !utf8.ValidString(page) {
			t.Errorf("%q: characters that steer are in the page", name)
		}
		var object struct{ Path string }
		if err := json.Unmarshal(script(t, page, "coldload-result"), &object); err != nil || object.Path != strings.ToValidUTF8(name, "\ufffd") {
			t.Errorf("%q: the object says %q, %v", name, object.Path, err)
		}
		if !json.Valid(script(t, page, "coldload-timeline")) {
			t.Errorf("%q: the timeline is no JSON", name)
		}
		shown := html.UnescapeString(page)
		if want := "bound by " + Clean(name); !strings.Contains(shown, want) {
			t.Errorf("%q is not shown as %q", name, want)
		}
	}
}

// TestPageSays: the figures of the load are on the page, in text that needs no picture.
func TestPageSays(t *testing.T) {
	t.Parallel()
	page := html.UnescapeString(render(t, somePage("model")))
	for _, want := range []string{
		"loaded 5.17 GB (18,687 tensors) as 5.10 GB in host memory, took 2.10 s, 0.48 GB/s, peak memory 5.20 GB",
		"<dt>bound by</dt><dd>model</dd>", `<p class="verdict">bound by model; help model</p>`,
		`aria-label="fetch: busy 23 % of the load, waiting for input -, waiting to hand on -"`,
		`aria-label="fetch, busy 25 %, waiting to hand on 25 %, waiting for input 25 %, idle 25 %"`,
		`aria-label="reading over time: 1.00 GB in 2.00 s, 0.50 GB/s on average`,
		`aria-label="bytes in flight over time: at most 105 MB of the budget of 268 MB"`,
		`<tr><th scope="row">repack</th><td>2</td><td>9,396</td><td>3.85 GB</td><td>3.84 GB</td><td>3.000</td><td>0.400</td><td>0.041</td><td>0.559</td><td>75 %</td><td>1.28</td></tr>`,
		`<th scope="row">together</th>`, "note model", "warning model", "reason model: 2 modules, first model",
		"<dt>processor</dt><dd>model</dd>", "<dt>--include</dt><dd>model</dd>",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("not on the page: %s", want)
		}
	}
	var line pageSeries
	if err := json.Unmarshal(script(t, page, "coldload-timeline"), &line); err != nil {
		t.Fatal(err)
	}
	if total(line.BytesRead) != 307 || total(line.BytesOut) != 270 || len(line.Lanes) != 6 || len(line.Slowest) != 20 || len(line.InFlight) > mostDrawn {
		t.Errorf("the timeline: %+v", line)
	}
}

// TestPageOfFailure says what failed and how far the load came, with and without a plan.
func TestPageOfFailure(t *testing.T) {
	t.Parallel()
	p := somePage("model")
	p.Err = errors.New("repack: batch 7: <oh>\n  more")
	p.Result.Plan.Summary.Parts, p.Result.Plan.Summary.BytesRead = 5, 5.17e9
	page := html.UnescapeString(render(t, p))
	for _, want := range []string{
		"The load failed", "<p>repack: batch 7: <oh></p><p>  more</p>", "It ended after 2.10 s, with 1.00 GB of 5.17 GB read", "not written", "<title>failed: model</title>",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("not on the page: %s", want)
		}
	}
	p = Page{
		Load: Load{Result: failedResult(), Took: 10 * time.Millisecond}, Path: "model", Timeline: NewRecorder(epoch).Timeline(10 * time.Millisecond),
		Err: &stages.RefusedError{Faults: []stages.Fault{{Code: stages.CodeNotFound, File: "a", Problem: "is gone"}, {Code: stages.CodeNotFound, File: "b", Problem: "too"}}},
	}
	page = html.UnescapeString(render(t, p))
	for _, want := range []string{"<p>a: is gone</p><p>b: too</p>", "It ended after 10 ms, before a byte of a tensor was read."} {
		if !strings.Contains(page, want) {
			t.Errorf("not on the page: %s", want)
		}
	}
	if !bytes.Equal(script(t, page, "coldload-result"), []byte("null")) {
		t.Error("there is a result")
	}
}

// TestPageBoundBy has a word for every cause; a page without one says none.
func TestPageBoundBy(t *testing.T) {
	t.Parallel()
	for v, want := range map[coldload.Verdict]string{
		{BoundBy: coldload.BoundBySource, Phase: "fetch"}: "<dd>reading</dd>",
		{BoundBy: coldload.BoundBySink, Phase: "upload"}:  "<dd>writing</dd>",
		{BoundBy: coldload.BoundByCPU, Phase: "repack"}:   "<dd>processors in repack</dd>",
		{BoundBy: coldload.BoundByCPU}:                    "<dd>processors</dd>",
		{BoundBy: coldload.BoundByMemory}:                 "<dd>memory bandwidth</dd>",
		{BoundBy: coldload.BoundByBudget, Phase: "fetch"}: "<dd>budget</dd>",
	} {
		p := somePage("model")
		p.Result.Verdict = v
		if page := render(t, p); !strings.Contains(page, "<dt>bound by</dt>"+want) || strings.Contains(page, `class="verdict"`) {
			t.Errorf("%+v: the page does not say %s alone", v, want)
		}
	}
	p := somePage("model")
	p.Result.Verdict = coldload.Verdict{Sentence: "too short to judge"}
	if page := render(t, p); strings.Contains(page, "<dt>bound by</dt>") || !strings.Contains(page, `<p class="verdict">too short to judge</p>`) {
		t.Error("a verdict that names no limit is not shown as it is")
	}
}

// TestPageIsARun: coldload report takes a page for the run that it shows.
func TestPageIsARun(t *testing.T) {
	t.Parallel()
	p := somePage("</script>")
	p.Object = []byte(`{"path":"</script>","seconds":2.5,"bytes_in":7,"verdict":"bound by <reading>","phases":[{"name":"fetch","busy_seconds":1.5}]}`)
	run, err := ParseRun("a.html", []byte(render(t, p)))
	if err != nil || run.Path != "</script>" || run.Seconds != 2.5 || run.BytesIn != 7 || run.Verdict != "bound by <reading>" || len(run.Phases) != 1 || run.Phases[0].Busy != 1.5 {
		t.Errorf("%+v, %v", run, err)
	}
}

func TestTicks(t *testing.T) {
	t.Parallel()
	labels := func(span time.Duration) (list []string) {
		for _, k := range ticks(span) {
			list = append(list, k.Label)
		}
		return list
	}
	for _, c := range []struct {
		span time.Duration
		want []string
	}{
		{33 * time.Millisecond, []string{"0 ms", "5 ms", "10 ms", "15 ms", "20 ms", "25 ms", "30 ms"}},
		{1100 * time.Millisecond, []string{"0.0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1.0 s"}},
		{5 * time.Second, []string{"0 s", "1 s", "2 s", "3 s", "4 s"}},
		{500 * time.Microsecond, []string{"0.0 ms", "0.1 ms", "0.2 ms", "0.3 ms", "0.4 ms"}},
		{1000 * time.Second, []string{"0 s", "200 s", "400 s", "600 s", "800 s"}},
	} {
		if got := labels(c.span); !slices.Equal(got, c.want) {
			t.Errorf("%v: %q, want %q", c.span, got, c.want)
		}
	}
}

func TestArea(t *testing.T) {
	t.Parallel()
	if got, want := area([]float64{0, 0, 0}, []float64{1, 0.5, 0.5}), "M0 0H1V50H3V100H0Z"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := area([]float64{0.25, 0.5}, []float64{1, 1}), "M0 0H2V50H1V75H0Z"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestManyWorkers are drawn together.
func TestManyWorkers(t *testing.T) {
	t.Parallel()
	p := somePage("model")
	r := NewRecorder(epoch)
	for i := range mostLanes + 1 {
		e := visit("decode", int64(i), 0, 0, 1000, 0, pipeline.Work{})
		e.Worker = i
		r.Observe(e)
	}
	p.Timeline = r.Timeline(2 * time.Second)
	page := html.UnescapeString(render(t, p))
	if want := `aria-label="decode, 9 workers together: busy 50 % of the load`; !strings.Contains(page, want) {
		t.Errorf("not on the page: %s", want)
	}
}
