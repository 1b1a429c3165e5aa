//go:build !linux

package usage

import (
	"runtime"
	"time"
)

// Now takes a Snapshot of what this system tells without more ado: the processor time.
func Now() Snapshot {
	s := Snapshot{at: time.Now(), read: Unknown, written: Unknown, throttled: Unknown, delayed: Unknown}
	s.cpu, s.system = cpuTime()
	return s
}

// quota is not known here.
func quota() float64 { return 0 }

// DeviceOf finds no device: this system does not tell what it does.
func DeviceOf(string) Device { return Device{} }

// Now is the device as it is now.
func (d Device) Now() Device { return d }

// Processors is how many processors the machine has, as far as is known.
func Processors() int { return runtime.NumCPU() }
