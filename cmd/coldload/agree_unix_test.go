//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/report"
	"github.com/coldload/coldload/stages"
)

// toldLoad is one load in all places that tell of it.
type toldLoad struct {
	*loaded

	table   string // stdout without --json
	printed map[string]any
	steps   map[string]any // the trace file
	page    string
	inPage  map[string]any
	spans   map[string]map[string]any // attributes by name of the span
}

// loadToAll loads a small model once, and has every place tell of it.
func loadToAll(t *testing.T) *toldLoad {
	t.Helper()
	dir := t.TempDir()
	checkpoint := filepath.Join(dir, "checkpoint")
	if _, err := synth.Write(t.Context(), checkpoint, synth.Options{Model: "tiny-moe", Layers: 1}); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	e := testEnv(&out, &errs)
	exporter := tracetest.NewInMemoryExporter()
	e.otel.traces.exporters = []string{exporterOTLP}
	e.exports = &telemetry{traces: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))}
	o := newLoadFlags()
	o.report, o.trace = filepath.Join(dir, "page.html"), filepath.Join(dir, "trace.json")
	l, err := load(t.Context(), e, &o, checkpoint, e.start)
	if err != nil || l.drawn != nil {
		t.Fatal(err, l.drawn)
	}
	defer func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	}()
	all := &toldLoad{loaded: l, steps: traceObject(t, o.trace), inPage: pageObject(t, o.report), spans: map[string]map[string]any{}}
	if err := l.print(e, &o); err != nil {
		t.Fatal(err)
	}
	all.table = out.String()
	out.Reset()
	o.json = true
	if err := l.print(e, &o); err != nil {
		t.Fatal(err)
	}
	all.printed = result{exitDone, out.String(), errs.String()}.object(t)
	text, err := os.ReadFile(o.report)
	if err != nil {
		t.Fatal(err)
	}
	all.page = string(text)
	for _, s := range exporter.GetSpans() {
		attrs := map[string]any{}
		for _, kv := range s.Attributes {
			attrs[string(kv.Key)] = kv.Value.AsInterface()
		}
		all.spans[s.Name] = attrs
	}
	return all
}

// TestAllPlacesAgree: spans, trace file, page, JSON object and table of one load have all phases with the same figures, the bytes are those
// of the plan, and the verdict is one.
func TestAllPlacesAgree(t *testing.T) {
	t.Parallel()
	l := loadToAll(t)
	if !reflect.DeepEqual(l.inPage, l.printed) {
		t.Errorf("in the page:\n%v\nprinted:\n%v", l.inPage, l.printed)
	}
	about, _ := l.steps["otherData"].(map[string]any)
	if !reflect.DeepEqual(about["phases"], l.printed["phases"]) {
		t.Errorf("in the trace:\n%v\nprinted:\n%v", about["phases"], l.printed["phases"])
	}
	names := []string{}
	for _, p := range l.Result.Phases {
		names = append(names, p.Name)
		l.checkPhase(t, p)
	}
	if want := stages.Phases(); !slices.Equal(names, namesOf(want)) || len(objectsOf(l.printed, "phases")) != len(want) {
		t.Errorf("phases %v, want %v", names, want)
	}
	plan := map[string]any{"bytes_in": float64(l.Result.Plan.Summary.BytesIn), "bytes_out": float64(l.Result.Plan.Summary.BytesOut)}
	checkBytes(t, l.steps, l.printed, plan)
	l.checkPlan(t)
	l.checkVerdict(t)
}

func namesOf(phases []stages.Phase) (names []string) {
	for _, p := range phases {
		names = append(names, p.String())
	}
	return names
}

// checkPhase compares one phase in the JSON object, in its span, in the table, in the page's table and in the lines of the page's picture.
func (l *toldLoad) checkPhase(t *testing.T, p coldload.Phase) {
	t.Helper()
	span := l.spans["coldload.phase."+p.Name]
	for _, o := range objectsOf(l.printed, "phases") {
		if o["name"] != p.Name {
			continue
		}
		for key, attr := range map[string]string{
			"workers": "stage.workers", "items": "items", "bytes_in": "bytes.in", "bytes_out": "bytes.out",
			"busy_seconds": "time.busy", "wait_in_seconds": "time.wait_in", "wait_out_seconds": "time.wait_out",
		} {
			if got, want := fmt.Sprint(span["coldload."+attr]), fmt.Sprint(o[key]); !sameNumber(got, want) {
				t.Errorf("%s: coldload.%s is %s in the span, %s is %s in the JSON object", p.Name, attr, got, key, want)
			}
		}
		if o["bytes_in"] != float64(p.BytesIn) || o["bytes_out"] != float64(p.BytesOut) || o["busy_seconds"] != p.Busy.Seconds() {
			t.Errorf("%s: %v in the JSON object, %+v in the result", p.Name, o, p)
		}
	}
	row := tableRow(l.table, p.Name)
	if want := []string{report.Bytes(p.BytesIn), report.Bytes(p.BytesOut), fmt.Sprintf("%.3f", p.Busy.Seconds())}; len(row) != 11 ||
		!slices.Equal(row[3:6], noneAsDash(want)) {
		t.Errorf("%s: the table has %q, want %q", p.Name, row, want)
	}
	if inPage := pageRow(l.page, p.Name); !slices.Equal(inPage, row) {
		t.Errorf("%s: the page's table has %q, the table %q", p.Name, inPage, row)
	}
	if busy, fault := l.drawnBusy(t, p.Name); math.Abs(busy-p.Busy.Seconds()) > fault {
		t.Errorf("%s: drawn as busy for %f s, was for %f s", p.Name, busy, p.Busy.Seconds())
	}
}

// sameNumber compares numbers that were written as integers or not.
func sameNumber(a, b string) bool {
	var x, y float64
	_, err1 := fmt.Sscan(a, &x)
	_, err2 := fmt.Sscan(b, &y)
	return err1 == nil && err2 == nil && x == y
}

// noneAsDash is how tables show no bytes.
func noneAsDash(cells []string) []string {
	for i, c := range cells {
		if c == "0 B" {
			cells[i] = "-"
		}
	}
	return cells
}

var (
	gaps  = regexp.MustCompile(`  +`)
	cells = regexp.MustCompile(`<t[dh][^>]*>([^<]*)</t[dh]>`)
)

// tableRow is the row of a phase in the table on stdout.
func tableRow(text, phase string) []string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, phase+" ") {
			return gaps.Split(strings.TrimRight(line, "\n"), -1)
		}
	}
	return nil
}

// pageRow is the row of a phase in the page.
func pageRow(page, phase string) (row []string) {
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, `<tr><th scope="row">`+phase+`</th>`) {
			for _, c := range cells.FindAllStringSubmatch(line, -1) {
				row = append(row, c[1])
			}
		}
	}
	return row
}

// series is what the page's pictures are drawn from.
type series struct {
	Bin     float64 `json:"bin_seconds"`
	Read    []int64 `json:"bytes_read"`
	Written []int64 `json:"bytes_written"`
	Lanes   []struct {
		Stage string
		Busy  []int64
	}
}

func (l *toldLoad) series(t *testing.T) (o series) {
	t.Helper()
	_, rest, _ := strings.Cut(l.page, `id="coldload-timeline">`)
	text, _, _ := strings.Cut(rest, "</script>")
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// drawnBusy is how long the lines of a phase are busy, in seconds, and what rounding may have changed.
func (l *toldLoad) drawnBusy(t *testing.T, phase string) (busy, fault float64) {
	t.Helper()
	o := l.series(t)
	for _, lane := range o.Lanes {
		if lane.Stage == phase {
			busy += float64(total(lane.Busy)) * o.Bin / 1000
			fault += float64(len(lane.Busy)) * o.Bin / 1000
		}
	}
	return busy, fault
}

func total(list []int64) (sum int64) {
	for _, n := range list {
		sum += n
	}
	return sum
}

// checkPlan compares the bytes of the phases with the plan's: what was read, what was made, what was written.
func (l *toldLoad) checkPlan(t *testing.T) {
	t.Helper()
	s, ph := l.Result.Plan.Summary, l.Result.Phases
	fetch, upload := ph[stages.PhaseFetch], ph[stages.PhaseUpload]
	var made, parts int64
	for _, p := range ph[stages.PhaseDecode : stages.PhaseRepack+1] {
		made, parts = made+p.BytesOut, parts+p.Items
	}
	if fetch.BytesIn != s.BytesRead || made != s.BytesOut || upload.BytesOut != s.BytesOut || parts != int64(s.Parts) {
		t.Errorf("read %d, made %d of %d Parts, wrote %d; the plan has %+v", fetch.BytesIn, made, parts, upload.BytesOut, s)
	}
	if o := l.series(t); total(o.Read) != s.BytesRead || total(o.Written) != s.BytesOut {
		t.Errorf("drawn: read %d, wrote %d; the plan has %+v", total(o.Read), total(o.Written), s)
	}
	for key, want := range map[string]int64{"coldload.bytes.in": s.BytesIn, "coldload.bytes.out": s.BytesOut} {
		if got := l.spans["coldload.load"][key]; got != want {
			t.Errorf("%s is %v in the root span, the plan has %d", key, got, want)
		}
	}
	if l.printed["bytes_in"] != float64(s.BytesIn) || l.printed["bytes_out"] != float64(s.BytesOut) {
		t.Errorf("%v and %v bytes printed, the plan has %+v", l.printed["bytes_in"], l.printed["bytes_out"], s)
	}
}

// checkVerdict wants the one sentence everywhere.
func (l *toldLoad) checkVerdict(t *testing.T) {
	t.Helper()
	v := l.Result.Verdict
	if v.Sentence == "" {
		t.Fatal("no verdict")
	}
	if !strings.Contains(l.table, "\n"+v.Sentence+"\n") {
		t.Errorf("the table does not say %q:\n%s", v.Sentence, l.table)
	}
	if l.printed["verdict"] != v.Sentence || l.printed["bound_by"] != v.BoundBy {
		t.Errorf("printed: %v, %v; the verdict is %+v", l.printed["bound_by"], l.printed["verdict"], v)
	}
	if want := `<p class="verdict">` + v.Sentence + "</p>"; !strings.Contains(html.UnescapeString(l.page), want) {
		t.Errorf("the page does not say %q", v.Sentence)
	}
	root := l.spans["coldload.load"]
	by, _ := root["coldload.bound_by"].(string) // not there when nothing can be said
	if root["coldload.verdict"] != v.Sentence || by != v.BoundBy {
		t.Errorf("the root span says %v, %v; the verdict is %+v", root["coldload.bound_by"], root["coldload.verdict"], v)
	}
}

// TestReportReadsPages: a page stands for the run that it shows, beside an object of --json, whichever comes first. One of a load that
// failed is refused.
func TestReportReadsPages(t *testing.T) {
	t.Parallel()
	page := filepath.Join(t.TempDir(), "b.html")
	if r := command(t, "pack", fixture(gptqFixture), filepath.Join(t.TempDir(), "packed"), "--report", page, "--budget", "8MiB"); r.code != exitDone {
		t.Fatal(r.err)
	}
	object, printed := saved(t, fixture(gptqFixture))
	runs := map[string]map[string]any{object: printed, page: pageObject(t, page)}
	for _, files := range [][]string{{object, page}, {page, object}} {
		r := command(t, "report", files[0], files[1], "--json")
		if r.code != exitDone || r.err != "" {
			t.Fatalf("exit code %d: %s", r.code, r.err)
		}
		o := r.object(t)
		for i, letter := range []string{"a", "b"} {
			got, _ := o[letter].(map[string]any)
			if got["file"] != files[i] || len(got) < 10 {
				t.Errorf("%s is %v, want that of %s", letter, got, files[i])
			}
			for key, v := range got {
				if key != "file" && !sameJSON(t, v, runs[files[i]][key]) {
					t.Errorf("%s: %s is %v, %s has %v", letter, key, v, files[i], runs[files[i]][key])
				}
			}
		}
		if r := command(t, "report", files[0], files[1]); r.code != exitDone || !strings.Contains(r.out, "8 MiB") {
			t.Errorf("exit code %d:\n%s%s", r.code, r.out, r.err)
		}
	}
	failed := filepath.Join(t.TempDir(), "failed.html")
	command(t, "load", broken(t), "--report", failed)
	if r := command(t, "report", object, failed); r.code != exitUsage || !strings.Contains(r.err, "that run failed") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
}
