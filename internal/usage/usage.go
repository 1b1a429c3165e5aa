// Package usage measures what a process takes of its machine: processor time, bytes of devices, how busy the processors and one device are.
// What the system does not tell is marked as unknown and never guessed.
package usage

import (
	"runtime"
	"time"
)

// Unknown stands for a figure that the system does not tell.
const Unknown = -1

// Snapshot is what there is to count at one moment. The difference of two of them is a Used.
type Snapshot struct {
	at            time.Time
	cpu           time.Duration // user and system, of the process; Unknown
	system        time.Duration // of cpu, in the system
	read, written int64         // bytes of block devices that the process caused; Unknown
	throttled     time.Duration // that a quota kept the process's control group waiting; Unknown
	delayed       time.Duration // that threads could run and had no processor, summed over them; Unknown
	machine       ticks         // of all processors
}

// ticks are what the processors of the machine have done, in a unit of the system.
type ticks struct{ idle, all int64 } // all is 0 when it is not known

// Used is what was used between two Snapshots.
type Used struct {
	Wall time.Duration
	// CPU is the user and system time of the whole process; Unknown where the system does not tell, as all that follows.
	CPU time.Duration
	// System is what of CPU the system had: page faults, copies, reading.
	System time.Duration
	// Throttled is how long a CPU quota kept the process waiting, summed over its processors.
	Throttled time.Duration
	// Delayed is how long the process's threads could have run and waited for a processor, summed over them.
	Delayed time.Duration
	// DeviceRead and DeviceWritten are the bytes that the process had block devices read and write. What lies in the page cache, and file
	// systems without a device of this machine, do not count.
	DeviceRead, DeviceWritten int64
	// Idle is the share of the machine's processor time that nobody used, from 0 to 1: other processes count too.
	Idle float64
}

// Since is what was used between before and now.
func (s Snapshot) Since(before Snapshot) Used {
	u := Used{
		Wall: s.at.Sub(before.at), CPU: difference(s.cpu, before.cpu), System: difference(s.system, before.system), Throttled: difference(s.throttled, before.throttled),
		Delayed:    difference(s.delayed, before.delayed),
		DeviceRead: difference(s.read, before.read), DeviceWritten: difference(s.written, before.written), Idle: Unknown,
	}
	if all := s.machine.all - before.machine.all; before.machine.all > 0 && all > 0 {
		u.Idle = min(1, max(0, float64(s.machine.idle-before.machine.idle)/float64(all)))
	}
	return u
}

func difference[T int64 | time.Duration](now, before T) T {
	if now < 0 || before < 0 {
		return Unknown
	}
	return max(0, now-before)
}

// CPUs is how many processors the process may keep busy at once: what the Go scheduler uses, which may be told more than there are, and less where
// a quota allows less.
func CPUs() float64 {
	n := float64(min(runtime.GOMAXPROCS(0), runtime.NumCPU()))
	if q := quota(); q > 0 {
		n = min(n, q)
	}
	return n
}

// Device is a block device at one moment; the zero Device is none.
type Device struct {
	Name string
	stat string // the file that has its figures
	at   time.Time
	// busy is the time with a request in flight, queued the same weighted by how many there were.
	busy, queued time.Duration
}

// DeviceUsed is how busy a device was between two moments, with the requests of everybody.
type DeviceUsed struct {
	Name  string
	Busy  float64 // share of the time with a request in flight, from 0 to 1; Unknown
	Queue float64 // requests in flight on average; Unknown
}

// Since is how busy the device was between before and now.
func (d Device) Since(before Device) DeviceUsed {
	wall := d.at.Sub(before.at)
	if d.stat == "" || before.stat != d.stat || wall <= 0 {
		return DeviceUsed{Busy: Unknown, Queue: Unknown}
	}
	share := func(now, before time.Duration) float64 { return max(0, float64(now-before)/float64(wall)) }
	return DeviceUsed{Name: d.Name, Busy: min(1, share(d.busy, before.busy)), Queue: share(d.queued, before.queued)}
}
