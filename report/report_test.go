package report

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

func TestUnits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ got, want string }{
		{Bytes(0), "0 B"},
		{Bytes(999), "999 B"},
		{Bytes(1000), "1.00 kB"},
		{Bytes(-1500), "-1.50 kB"},
		{Bytes(9995), "10.0 kB"},
		{Bytes(99950), "100 kB"},
		{Bytes(999499), "999 kB"},
		{Bytes(999500), "1.00 MB"},
		{Bytes(5170000000), "5.17 GB"},
		{Bytes(math.MaxInt64), "9.22 EB"},
		{BinaryBytes(256 << 20), "256 MiB"},
		{BinaryBytes(1536 << 10), "1536 KiB"},
		{BinaryBytes(1000), "1,000 B"},
		{BinaryBytes(0), "0 B"},
		{Count(0), "0"},
		{Count(999), "999"},
		{Count(1000), "1,000"},
		{Count(-1234567), "-1,234,567"},
		{Plural(1, "shard"), "1 shard"},
		{Plural(0, "fault"), "0 faults"},
		{Plural(2000, "batch"), "2,000 batches"},
		{Duration(0), "0 ms"},
		{Duration(999 * time.Millisecond), "999 ms"},
		{Duration(1234 * time.Millisecond), "1.23 s"},
		{Duration(59 * time.Second), "59.0 s"},
		{Duration(336 * time.Second), "5 min 36 s"},
		{Duration(2*time.Hour + 5*time.Minute), "2 h 05 min"},
		{rate(1e9, 2*time.Second), "0.50"},
		{rate(0, time.Second), "-"},
		{rate(1, 0), "-"},
		{Clean("model.häuser.0"), "model.häuser.0"},
		{Clean("a\x1b[2Jb\nc\u202ed\xff"), `a\x1b[2Jb\nc\u202ed\ufffd`},
	} {
		if c.got != c.want {
			t.Errorf("%q, want %q", c.got, c.want)
		}
	}
}

func someLoad() Load {
	p := &plan.Plan{Outputs: make([]stages.Output, 12), Summary: plan.Summary{BytesIn: 5.17e9, BytesOut: 5.1e9}}
	return Load{
		Result: &coldload.Result{
			Plan: p, TensorsIn: 18687, Duration: 2 * time.Second,
			Phases: []coldload.Phase{
				{Name: "plan", Workers: 1, Items: 20000, Busy: 12 * time.Millisecond},
				{
					Name: "repack", Workers: 2, Items: 9396, BytesIn: 3.85e9, BytesOut: 3.84e9,
					Busy: 3 * time.Second, WaitIn: 400 * time.Millisecond, WaitOut: 41 * time.Millisecond, Idle: 559 * time.Millisecond,
				},
				{Name: "commit", Workers: 1},
			},
			Notes:    []string{"a note"},
			Warnings: []string{"odd\nname"},
			Verdict:  coldload.Verdict{BoundBy: coldload.BoundByCPU, Sentence: "bound by the processors in repack: CPU 97 %; more processors help"},
		},
		Took: 2100 * time.Millisecond, Where: " in host memory", PeakAnon: 5.2e9,
	}
}

func TestLoadText(t *testing.T) {
	t.Parallel()
	const want = `loaded 5.17 GB (18,687 tensors) as 5.10 GB in host memory, took 2.10 s, 2.46 GB/s, peak memory 5.20 GB

phase   workers   items       in      out  busy s  wait in s  wait out s  idle s  used  GB/s
plan          1  20,000        -        -   0.012      0.000       0.000   0.000   1 %     -
repack        2   9,396  3.85 GB  3.84 GB   3.000      0.400       0.041   0.559  75 %  1.28
commit        1       0        -        -   0.000      0.000       0.000   0.000     -     -

Times are summed over the workers: busy, waiting and idle (not there yet, or
gone) make up the load. used: the part of the load that a worker was busy. GB/s:
of one worker while it was busy.

bound by the processors in repack: CPU 97 %; more processors help

notes
  - a note

warnings
  - odd\nname
`
	if got := someLoad().Text(0); got != want {
		t.Errorf("got\n%s", got)
	}
}

// A narrow terminal gets fewer columns, never broken lines; the times stay.
func TestPhasesFit(t *testing.T) {
	t.Parallel()
	l := someLoad()
	for _, width := range []int{120, 80, 70, 60, 50, 40} {
		for line := range strings.Lines(Phases(l.Result.Phases, l.Result.Duration, width)) {
			if line == "\n" { // the legend follows
				break
			}
			if n := len(strings.TrimSuffix(line, "\n")); n > max(width, 39) {
				t.Errorf("%d columns in a terminal of %d: %s", n, width, line)
			}
			if strings.HasPrefix(line, "repack") && (!strings.Contains(line, "3.000") || !strings.Contains(line, "0.041")) {
				t.Errorf("width %d hides times: %s", width, line)
			}
		}
	}
}

func TestWrap(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		width int
		want  string
	}{
		{0, "one two 33 % four"},
		{17, "one two 33 % four"},
		{16, "one two 33 %\nfour"},
		{10, "one two\n33 % four"},
		{9, "one two\n33 % four"},
		{7, "one two\n33 %\nfour"},
		{1, "one\ntwo\n33 %\nfour"},
	} {
		if got := wrap("one two 33 % four", c.width); got != c.want {
			t.Errorf("%d: %q, want %q", c.width, got, c.want)
		}
	}
}

func somePlan() Plan {
	outputs := []stages.Output{
		{Name: "embed.weight", DType: safetensors.BF16, Shape: []int64{4, 2}, Layout: stages.LayoutRaw, Kind: stages.KindKept, Size: 16},
		{Name: "layers.0.q.weight", DType: safetensors.F16, Shape: []int64{2}, Layout: stages.LayoutRaw, Kind: stages.KindCast, Size: 4},
		{Name: "layers.1.q.weight", DType: safetensors.F16, Shape: []int64{2}, Layout: stages.LayoutRaw, Kind: stages.KindCast, Size: 4},
		{Name: "layers.2.q.weight", DType: safetensors.F16, Shape: []int64{3}, Layout: stages.LayoutRaw, Kind: stages.KindCast, Size: 6},
		{Name: "\x1b[2J", DType: safetensors.I32, Layout: stages.LayoutMarlin, Kind: stages.KindRepacked, Size: 4},
	}
	return Plan{
		Path: "some/path", DType: "f16", Budget: 256 << 20,
		Plan: &plan.Plan{
			Outputs: outputs, Notes: []string{"a note"},
			Summary: plan.Summary{
				Family: "Qwen3-MoE", Format: "gptq", Layout: stages.LayoutMarlin, Tensors: 9, Shards: 2, Modules: 4, Groups: 1, Parts: 9,
				BytesIn: 40, BytesRead: 50, BytesOut: 34, Ignored: 1, IgnoredIn: 2, LargestBatch: 50, LargestName: "embed.weight",
				Kept: []plan.Kept{{Reason: "N is 48", Groups: 2, Example: "layers.0.o"}},
			},
		},
	}
}

func TestPlanText(t *testing.T) {
	t.Parallel()
	const want = `checkpoint  some/path
family      Qwen3-MoE
format      gptq
holds       9 tensors in 2 shards, 40 B
ignored     1 tensor, 2 B
modules     4 recognised, loaded as 1
asked for   layout marlin, dtype f16

outputs by kind
  kind      outputs  bytes  what is done
  kept            1   16 B  as in the file
  cast            3   14 B  in another dtype
  repacked        1    4 B  in the kernel's layout (fused and stacked where the names say so)
  all             5   34 B

outputs
  output (* is any number)  count  kind      layout  dtype  shape   bytes
  embed.weight                  1  kept      raw     BF16   [4, 2]   16 B
  layers.*.q.weight             2  cast      raw     F16    [2]       8 B
  layers.*.q.weight             1  cast      raw     F16    [3]       6 B
  \x1b[2J                       1  repacked  marlin  I32    []        4 B

kept raw: what layout marlin cannot hold
  - N is 48: 2 modules, first layers.0.o

work        9 parts in 0 batches, the largest costs 50 B (with embed.weight)
reads       50 B, 24.0 % of it gaps and bytes read again
memory      at most 67.1 MB with the result in memory (load --to host), 67.1 MB without (--to discard); budget 256 MiB
disk        about 421 B for the outputs as files

notes
  - a note
`
	if got := somePlan().Text(0); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestRefusedPlanText(t *testing.T) {
	t.Parallel()
	p := somePlan()
	p.Plan.Faults = []stages.Fault{{File: "a.safetensors", Tensor: "x", Problem: "is missing", Advice: "get it again"}}
	got := p.Text(0)
	if !strings.HasSuffix(got, "\nfaults: this checkpoint is refused\n  - a.safetensors: x: is missing; get it again\n") || strings.Contains(got, "memory") {
		t.Error(got)
	}
	if h := p.Headline(); !strings.Contains(h, "refused: 1 fault") {
		t.Error(h)
	}
}

// Hundreds of thousands of names that have nothing in common neither fill the screen nor the memory, and every byte is counted.
func TestManyUnlikeOutputs(t *testing.T) {
	t.Parallel()
	outputs := make([]stages.Output, 3*mostGroups)
	for i := range outputs {
		outputs[i] = stages.Output{Name: strings.Repeat("x", i%200+1) + string(rune('a'+i/200)), Size: 1}
	}
	groups, others := groupOutputs(outputs)
	var sum int64
	for _, g := range groups {
		sum += g.bytes
	}
	if len(groups) != mostGroups || sum+others.bytes != int64(len(outputs)) || others.count != others.bytes {
		t.Errorf("%d groups of %d bytes, %d others", len(groups), sum, others.count)
	}
	p := Plan{Plan: &plan.Plan{Outputs: outputs}}
	if text := p.Text(0); strings.Count(text, "\n") > mostLines+30 || !strings.Contains(text, "others (all of them: --json)") {
		t.Error(text)
	}
}
