package report

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// before and after are two runs of one load: with more budget, and from the page cache.
const before = `{"path":"some/model","sink":"host","version":"0.1.0","layout":"marlin","dtype":"keep","options":{"io":"auto","workers":0,"include":[]},
"seconds":1.9,"bytes_in":5170000000,"bytes_out":5100000000,"tensors_in":18687,"outputs":91,"peak_anon_bytes":5300000000,"result_bytes":5100000000,
"budget":268435456,"budget_peak_bytes":268000000,"wait_budget_seconds":0.5,"read_bytes":{"mmap":0,"pread":0,"direct":5170000000},
"cpu_seconds":1.2,"cpus":2,"device_read_bytes":5170000000,"device_write_bytes":0,"kernels":"avx512","bound_by":"source",
"verdict":"bound by reading: 2.72 GB/s from the device; a warmer cache helps","phases":[
{"name":"plan","workers":1,"items":5,"bytes_in":0,"bytes_out":0,"busy_seconds":0.02,"wait_in_seconds":0,"wait_out_seconds":0,"idle_seconds":1.88},
{"name":"fetch","workers":8,"items":600,"bytes_in":5170000000,"bytes_out":5170000000,"busy_seconds":14,"wait_in_seconds":1,"wait_out_seconds":0.2},
{"name":"gone","workers":1,"items":1,"bytes_in":1,"bytes_out":1,"busy_seconds":0.5,"wait_in_seconds":0,"wait_out_seconds":0},
{"name":"repack","workers":2,"items":9396,"bytes_in":3850000000,"bytes_out":3840000000,"busy_seconds":0.9,"wait_in_seconds":2,"wait_out_seconds":0}]}`

const after = `{"path":"some/model","sink":"host","version":"0.1.0","layout":"marlin","dtype":"keep","options":{"io":"mmap","workers":0,"include":["a*"]},
"seconds":0.38,"bytes_in":5170000000,"bytes_out":5100000000,"tensors_in":18687,"outputs":91,"peak_anon_bytes":5150000000,"result_bytes":5100000000,
"budget":1073741824,"budget_peak_bytes":80000000,"read_bytes":{"mmap":5170000000,"pread":0,"direct":0},
"cpu_seconds":0.7,"cpus":2,"device_read_bytes":null,"device_write_bytes":0,"kernels":"avx512","bound_by":"cpu",
"verdict":"bound by the processors in repack: CPU 97 %; more processors help","phases":[
{"name":"plan","workers":1,"items":5,"bytes_in":0,"bytes_out":0,"busy_seconds":0.02,"wait_in_seconds":0,"wait_out_seconds":0},
{"name":"fetch","workers":2,"items":600,"bytes_in":5170000000,"bytes_out":5170000000,"busy_seconds":0.2,"wait_in_seconds":0.1,"wait_out_seconds":0.4},
{"name":"repack","workers":2,"items":9396,"bytes_in":3850000000,"bytes_out":3840000000,"busy_seconds":0.45,"wait_in_seconds":0.2,"wait_out_seconds":0},
{"name":"new","workers":1,"items":1,"bytes_in":1,"bytes_out":1,"busy_seconds":0.25,"wait_in_seconds":0,"wait_out_seconds":0}]}`

func parsed(t *testing.T, name, data string) Run {
	t.Helper()
	r, err := ParseRun(name, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCompareText(t *testing.T) {
	t.Parallel()
	const want = `A  a.json: 5.17 GB (18,687 tensors) as 5.10 GB to host, took 1.90 s, 2.72 GB/s
B  b.json: 5.17 GB (18,687 tensors) as 5.10 GB to host, took 380 ms, 13.61 GB/s

B took 0.20 of A's time: 380 ms instead of 1.90 s, 13.61 instead of 2.72 GB/s

different  A                                B
budget     256 MiB                          1 GiB
include    none                             a*
io         auto                             mmap
workers    fetch 8 repack 2                 fetch 2 repack 2
read       mmap -, pread -, direct 5.17 GB  mmap 5.17 GB, pread -, direct -

phase   bytes A  bytes B  busy s A      B  change  wait s A      B  change
plan          -        -     0.020  0.020     0 %     0.000  0.000       -
fetch   5.17 GB  5.17 GB    14.000  0.200   -99 %     1.200  0.500   -58 %
gone        1 B        -     0.500      -       -     0.000      -       -
repack  3.85 GB  3.85 GB     0.900  0.450   -50 %     2.000  0.200   -90 %
new           -      1 B         -  0.250       -         -  0.000       -

resource                     A        B  change
peak memory            5.30 GB  5.15 GB    -3 %
result in memory       5.10 GB  5.10 GB     0 %
budget in use at most   268 MB  80.0 MB   -70 %
read from devices      5.17 GB        -       -
written to devices         0 B      0 B       -
CPU s                    1.200    0.700   -42 %

A  bound by reading: 2.72 GB/s from the device; a warmer cache helps
B  bound by the processors in repack: CPU 97 %; more processors help
`
	got := Compare(parsed(t, "a.json", before), parsed(t, "b.json", after)).Text(0)
	if got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestCompareFits(t *testing.T) {
	t.Parallel()
	c := Compare(parsed(t, "a.json", before), parsed(t, "b.json", after))
	for _, width := range []int{120, 80, 60} {
		for line := range strings.Lines(c.Text(width)) {
			if n := len(strings.TrimSuffix(line, "\n")); n > width && !strings.HasPrefix(line, "A ") && !strings.HasPrefix(line, "B ") && !strings.HasPrefix(line, "read ") {
				t.Errorf("%d columns in %d: %s", n, width, line)
			}
		}
	}
}

// Runs of different work are shown, with what makes them so.
func TestCompareOtherWork(t *testing.T) {
	t.Parallel()
	a, b := parsed(t, "a.json", before), parsed(t, "b.json", after)
	if c := Compare(a, b); len(c.NotComparable) != 0 {
		t.Errorf("%q", c.NotComparable)
	}
	b.BytesIn, b.Outputs, b.Sink = 2.55e9, 40, "file:x"
	c := Compare(a, b)
	want := []string{
		"not the same checkpoint: 5.17 GB in 18,687 tensors and 2.55 GB in 18,687 tensors",
		"not the same result: 5.10 GB in 91 outputs and 5.10 GB in 40 outputs",
		"not the same sink: host and file",
	}
	if fmt.Sprint(c.NotComparable) != fmt.Sprint(want) {
		t.Errorf("%q", c.NotComparable)
	}
	text := c.Text(0)
	if !strings.Contains(text, want[0]) || !strings.Contains(text, "(not comparable)") || !strings.Contains(text, "fetch ") {
		t.Error(text)
	}
	a.Sink = "file:y" // two packs into two folders did the same
	if c := Compare(a, b); strings.Contains(fmt.Sprint(c.NotComparable), "sink") {
		t.Errorf("%q", c.NotComparable)
	}
}

// Names from a file cannot steer the terminal.
func TestCompareIsClean(t *testing.T) {
	t.Parallel()
	evil := strings.NewReplacer(`"some/model"`, `"\u001b[2J"`, `"fetch"`, `"\u001b[3J"`, `"host"`, `"h\u001b"`, `"io"`, `"\u001b[4J"`, "bound by", `\u001b[5J`).Replace(before)
	c := Compare(parsed(t, "\x1b[1Ja", evil), parsed(t, "b", after))
	if text := c.Text(0) + c.Headline(); strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
}

func TestParseRunOfHTML(t *testing.T) {
	t.Parallel()
	page := "<!doctype html><title>x</title>" + string(dataBegin) + before + "</script><p>more</p>"
	if r, err := ParseRun("r.html", []byte(page)); err != nil || r.Seconds != 1.9 || r.Name != "r.html" || len(r.Phases) != 4 {
		t.Errorf("%+v, %v", r, err)
	}
}

// What is no run is refused with a reason, never taken for one.
func TestParseRunRefuses(t *testing.T) {
	t.Parallel()
	swap := func(old, by string) string {
		if !strings.Contains(before, old) {
			t.Fatal(old)
		}
		return strings.Replace(before, old, by, 1)
	}
	for name, c := range map[string]struct{ data, says string }{
		"nothing":          {"", ErrNotARun.Error()},
		"text":             {"loaded 5 GB", "invalid character"},
		"half":             {before[:len(before)/2], ErrNotARun.Error()},
		"more":             {before + "{}", "after top-level value"},
		"a list":           {"[]", ErrNotARun.Error()},
		"null":             {"null", "no phases or no seconds"},
		"another object":   {`{"a":1}`, "no phases or no seconds"},
		"a failure":        {`{"error":"read \u001b error","faults":[]}`, `that run failed: read \x1b error`},
		"no phases":        {swap(`"phases"`, `"fases"`), "no phases"},
		"no seconds":       {swap(`"seconds"`, `"sec"`), "no seconds"},
		"zero seconds":     {swap(`1.9`, `0`), "no seconds"},
		"NaN":              {swap(`1.9`, `NaN`), ErrNotARun.Error()},
		"a huge number":    {swap(`1.9`, `1e999`), ErrNotARun.Error()},
		"a long time":      {swap(`1.9`, `1e12`), "a time that cannot be"},
		"a negative time":  {swap(`1.9`, `-1`), "a time that cannot be"},
		"a negative phase": {swap(`"busy_seconds":14`, `"busy_seconds":-14`), `figures of the phase "fetch"`},
		"negative bytes":   {swap(`5170000000`, `-1`), "a number of bytes is negative"},
		"a fraction":       {swap(`5170000000`, `0.5`), ErrNotARun.Error()},
		"text for a time":  {swap(`1.9`, `"1.9"`), ErrNotARun.Error()},
		"twice":            {swap(`"dtype"`, `"layout"`), "duplicate"},
		"no UTF-8":         {swap(`host`, "\xff"), ErrNotARun.Error()},
		"many phases":      {swap(`"phases":[`, `"phases":[`+strings.Repeat("{},", 2000)), "2004 phases"},
		"half a page":      {string(dataBegin) + before, "has no end"},
		"an empty page":    {string(dataBegin) + "</script>", ErrNotARun.Error()},
	} {
		if r, err := ParseRun("x", []byte(c.data)); !errors.Is(err, ErrNotARun) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %+v, error %v, want one with %q", name, r, err, c.says)
		}
	}
}

func FuzzParseRun(f *testing.F) {
	for _, s := range []string{before, after, string(dataBegin) + before + string(dataEnd), `{"error":"x"}`, "{}", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRun("x", data)
		if err != nil {
			if !errors.Is(err, ErrNotARun) {
				t.Error(err)
			}
			return
		}
		c := Compare(r, r)
		if text := c.Text(80); c.TimeRatio != 1 || strings.ContainsAny(text, "\x1b\r") {
			t.Errorf("%q", text)
		}
	})
}

func TestPercentChange(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{-1: "-100 %", 0.004: "0 %", -0.006: "-1 %", 0.5: "+50 %", 8.99: "+899 %", 9: "x10", 1233: "x1.23e+03"} {
		if got := percentChange(&v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	if got := percentChange(change(0, 5)); got != "-" {
		t.Error(got)
	}
}
