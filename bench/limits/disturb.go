package main

import "fmt"

// traffic is what the machine did during a run.
type traffic struct {
	Wall       float64 `json:"wall_seconds"`
	Processors int     `json:"processors"`
	OwnCPU     float64 `json:"own_cpu_seconds"`    // of this process and of those that it started
	Kernel     float64 `json:"kernel_cpu_seconds"` // of the kernel's own threads, which write for us
	OtherCPU   float64 `json:"other_cpu_seconds"`  // of all others, with what the hypervisor took
	Steal      float64 `json:"steal_seconds"`      // what the hypervisor took
	OwnDisk    int64   `json:"own_disk_bytes"`
	OtherDisk  int64   `json:"other_disk_bytes"`
	// PSI counts seconds in which something waited, ours included: recorded, and not part of the rule.
	PSI map[string]float64 `json:"pressure_seconds"`
}

// The rule, fixed before anything was measured: a run is disturbed when others used more than a tenth of the processors' time, or moved
// more than 16 MiB to or from disks and more than a twentieth of the bytes that the run is about. The system counts time in hundredths of a
// second; three of them are allowed for that.
const (
	cpuShare   = 0.10
	cpuGrain   = 0.03
	diskShare  = 0.05
	diskAtMost = 16 << 20
)

// disturbed says by what the run was disturbed; empty when it was not.
func (t traffic) disturbed(bytes int64) string {
	if all := t.Wall * float64(t.Processors); t.OtherCPU > cpuShare*all+cpuGrain {
		return fmt.Sprintf("others used %.0f %% of the processors", 100*t.OtherCPU/all)
	}
	if t.OtherDisk > max(diskAtMost, int64(diskShare*float64(bytes))) {
		return fmt.Sprintf("others moved %d MB to or from disks", t.OtherDisk/1e6)
	}
	return ""
}
