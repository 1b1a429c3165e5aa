package verdict

import (
	"fmt"
	"strconv"
	"time"
)

// cpu says how much of the processors the process used; empty when it is not known.
func (j *judge) cpu() string {
	if j.CPU < 0 || j.CPUs <= 0 {
		return ""
	}
	return "CPU " + percent(min(1, j.cpuShare))
}

// device says how busy a device was; empty when there is none, or when it is not known.
func (j *judge) device(d Device) string {
	if d.Name == "" || d.Busy < 0 {
		return ""
	}
	return d.Name + " " + percent(d.Busy) + " busy"
}

func workers(p *Phase) string {
	if p.Workers == 1 {
		return "its 1 worker was"
	}
	return fmt.Sprintf("its %d workers were", p.Workers)
}

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

func gigabytes(rate float64) string { return fmt.Sprintf("%.2f GB/s", rate/1e9) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// decimal is a number with one digit behind the point, if there is something to show there.
func decimal(v float64) string {
	s := strconv.FormatFloat(v, 'f', 1, 64)
	if whole := s[:len(s)-2]; s == whole+".0" {
		return whole
	}
	return s
}

// binary is a size as --budget takes it.
func binary(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%dGiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%dKiB", n>>10)
	default:
		return fmt.Sprintf("%d", n)
	}
}
