package report

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/coldload/coldload"
)

// Run is a load or pack as its JSON object describes it: what two of them are compared by.
type Run struct {
	// Name is where it was read from.
	Name string `json:"file"`

	Path    string         `json:"path"`
	Sink    string         `json:"sink"`
	Version string         `json:"version"`
	Layout  string         `json:"layout"`
	DType   string         `json:"dtype"`
	Options map[string]any `json:"options"`
	Kernels string         `json:"kernels"`

	Seconds   float64 `json:"seconds"`
	BytesIn   int64   `json:"bytes_in"`
	BytesOut  int64   `json:"bytes_out"`
	TensorsIn int64   `json:"tensors_in"`
	Outputs   int64   `json:"outputs"`

	PeakAnon    int64   `json:"peak_anon_bytes"`
	ResultBytes int64   `json:"result_bytes"`
	Budget      int64   `json:"budget"`
	BudgetPeak  int64   `json:"budget_peak_bytes"`
	Read        RunRead `json:"read_bytes"`

	CPU           *float64 `json:"cpu_seconds"` // nil when it is not known, as the next two
	CPUs          float64  `json:"cpus"`
	DeviceRead    *int64   `json:"device_read_bytes"`
	DeviceWritten *int64   `json:"device_write_bytes"`

	BoundBy string     `json:"bound_by"`
	Verdict string     `json:"verdict"`
	Phases  []RunPhase `json:"phases"`
}

// RunRead is how many bytes were read in which way.
type RunRead struct {
	Mmap   int64 `json:"mmap"`
	Pread  int64 `json:"pread"`
	Direct int64 `json:"direct"`
}

func (r RunRead) String() string {
	return fmt.Sprintf("mmap %s, pread %s, direct %s", bytesOrDash(r.Mmap), bytesOrDash(r.Pread), bytesOrDash(r.Direct))
}

// RunPhase is one phase of a Run; times in seconds, summed over its workers.
type RunPhase struct {
	Name     string  `json:"name"`
	Workers  int64   `json:"workers"`
	Items    int64   `json:"items"`
	BytesIn  int64   `json:"bytes_in"`
	BytesOut int64   `json:"bytes_out"`
	Busy     float64 `json:"busy_seconds"`
	WaitIn   float64 `json:"wait_in_seconds"`
	WaitOut  float64 `json:"wait_out_seconds"`
	Idle     float64 `json:"idle_seconds"`
}

// RunPhases are the phases of a Result as a Run has them; nil when there are none.
func RunPhases(phases []coldload.Phase) (list []RunPhase) {
	for _, p := range phases {
		list = append(list, RunPhase{
			Name: p.Name, Workers: int64(p.Workers), Items: p.Items, BytesIn: p.BytesIn, BytesOut: p.BytesOut,
			Busy: p.Busy.Seconds(), WaitIn: p.WaitIn.Seconds(), WaitOut: p.WaitOut.Seconds(), Idle: p.Idle.Seconds(),
		})
	}
	return list
}

func (p *RunPhase) wait() float64 { return p.WaitIn + p.WaitOut }

func (p *RunPhase) bytes() string {
	if p == nil {
		return "-"
	}
	return bytesOrDash(max(p.BytesIn, p.BytesOut))
}

func (p *RunPhase) busy() string {
	if p == nil {
		return "-"
	}
	return seconds(duration(p.Busy))
}

func (p *RunPhase) waited() string {
	if p == nil {
		return "-"
	}
	return seconds(duration(p.wait()))
}

// ErrNotARun is in the chain of the error when something is not the description of a load or pack.
var ErrNotARun = errors.New("is not what load or pack wrote with --json or --report")

// Where an HTML report has the JSON object.
var (
	dataBegin = []byte(`<script type="application/json" id="coldload-result">`)
	dataEnd   = []byte(`</script>`)
)

// mostPhases bounds what is believed of a file: a load has nine phases and the stages of its user.
const mostPhases = 1000

// leastSeconds is less than any run took.
const leastSeconds = 1e-6

// longest is more seconds than any run took.
const longest = 1e9

// ParseRun reads the JSON object of a load or pack, or an HTML report that has it inside.
func ParseRun(name string, data []byte) (Run, error) {
	if _, after, ok := bytes.Cut(data, dataBegin); ok {
		if data, _, ok = bytes.Cut(after, dataEnd); !ok {
			return Run{}, fmt.Errorf("%w: the data of the HTML report has no end", ErrNotARun)
		}
	}
	var kind struct {
		Error *string `json:"error"`
	}
	if err := json.Unmarshal(data, &kind); err != nil {
		return Run{}, fmt.Errorf("%w: %w", ErrNotARun, err)
	}
	if kind.Error != nil {
		return Run{}, fmt.Errorf("%w: that run failed: %s", ErrNotARun, Clean(*kind.Error))
	}
	var r Run
	if err := json.Unmarshal(data, &r); err != nil {
		return Run{}, fmt.Errorf("%w: %w", ErrNotARun, err)
	}
	r.Name = name
	if err := r.check(); err != nil {
		return Run{}, fmt.Errorf("%w: %w", ErrNotARun, err)
	}
	return r, nil
}

// check refuses figures that no run has.
func (r *Run) check() error {
	if r.Phases == nil || 0 <= r.Seconds && r.Seconds < leastSeconds {
		return errors.New("it has no phases or no seconds")
	}
	if len(r.Phases) > mostPhases {
		return fmt.Errorf("%d phases", len(r.Phases))
	}
	if min(r.BytesIn, r.BytesOut, r.TensorsIn, r.Outputs, r.PeakAnon, r.ResultBytes, r.Budget, r.BudgetPeak, r.Read.Mmap, r.Read.Pread, r.Read.Direct,
		value(r.DeviceRead), value(r.DeviceWritten)) < 0 {
		return errors.New("a number of bytes is negative")
	}
	if min(r.Seconds, value(r.CPU), r.CPUs) < 0 || max(r.Seconds, value(r.CPU), r.CPUs) > longest {
		return errors.New("a time that cannot be")
	}
	for _, p := range r.Phases {
		if min(p.Workers, p.Items, p.BytesIn, p.BytesOut) < 0 || min(p.Busy, p.WaitIn, p.WaitOut, p.Idle) < 0 || max(p.Busy, p.WaitIn, p.WaitOut, p.Idle) > longest {
			return fmt.Errorf("figures of the phase %q that cannot be", Clean(p.Name))
		}
	}
	return nil
}
