package verdict

import (
	"fmt"
	"math"
)

// processors is for a load that had all the processor time that it could get.
func (j *judge) processors() Verdict {
	if speed, moved := j.memoryBound(); speed > 0 {
		advice := "faster memory or more of its channels help, more workers will not"
		return verdict(Memory, "", "bound by memory bandwidth: "+list(
			gigabytes(moved)+" read and written by the kernels", gigabytes(speed)+" in a plain copy", j.cpu()), advice)
	}
	p := j.worked()
	sentence := "bound by the processors in " + p.Name + ": " + list(j.cpu()+j.system(), j.lacking(), p.Name+" has "+percent(j.part(p))+" of the work", j.device(j.From))
	return verdict(CPU, p.Name, sentence, j.processorAdvice(p))
}

// lacking says why the process had not all processors of the machine.
func (j *judge) lacking() string {
	switch {
	case j.throttled():
		return "a quota kept it waiting for " + seconds(j.Throttled)
	case j.cpuShare < full && j.crowded():
		return list("threads waited "+seconds(j.Delayed)+" for a processor", j.machine())
	default:
		return ""
	}
}

// machine says how busy the machine was; empty when it is not known.
func (j *judge) machine() string {
	if j.Idle < 0 {
		return ""
	}
	return "the machine " + percent(1-j.Idle) + " busy"
}

func (j *judge) processorAdvice(p *Phase) string {
	switch {
	case j.throttled() || j.CPUs < math.Trunc(j.CPUs)+1 && j.CPUs != math.Trunc(j.CPUs):
		return "a larger CPU quota of the control group helps, more workers will not"
	case j.cpuShare < full && j.crowded():
		return "other programs take the rest: a quieter machine helps, more workers will not"
	case j.Processors > 0 && j.CPUs < float64(j.Processors):
		return fmt.Sprintf("only %s of %d processors may be used: more of them (GOMAXPROCS, CPU affinity) help", decimal(j.CPUs), j.Processors)
	case p.Kind == Verifies:
		return "more processors help, or a source that need not be verified; a faster disk will not"
	case p.Kind == Inserted:
		return "a cheaper stage " + p.Name + " or more processors help, a faster disk will not"
	case j.Generic && p.Kind == Computes:
		return "a processor with AVX2 or AVX-512 helps, since the kernels run without; a faster disk will not"
	case p.Kind == Fetches:
		return "more processors help, a faster disk will not"
	case j.Packed || j.Packing || j.inSystem():
		return "more processors help, more workers or a faster disk will not"
	default:
		return "more processors help, or coldload pack once, so that every load only reads; more workers or a faster disk will not"
	}
}

// inSystem: most of the processor time was the system's, which a cheaper phase does not spare.
func (j *judge) inSystem() bool { return j.System > 0 && j.System >= j.CPU/2 }

func (j *judge) system() string {
	if !j.inSystem() {
		return ""
	}
	return " (" + percent(j.System.Seconds()/j.CPU.Seconds()) + " of it the system's: page faults and copies)"
}

// worked is the phase that had most of the work on processors; fetching, when all others waited for devices.
func (j *judge) worked() (most *Phase) {
	for i := range j.Phases {
		if p := &j.Phases[i]; !j.waitsForDevice(p) && (most == nil || p.Busy > most.Busy) {
			most = p
		}
	}
	if most == nil {
		return j.fetch
	}
	return most
}

// part is what share of all busy time on processors p has.
func (j *judge) part(p *Phase) float64 {
	sum := 0.0
	for i := range j.Phases {
		if q := &j.Phases[i]; q == p || !j.waitsForDevice(q) {
			sum += q.Busy.Seconds()
		}
	}
	return p.Busy.Seconds() / max(sum, 1e-9)
}

// waitsForDevice: the phase reads or writes a device. Being busy is waiting for it then, which needs no processor; bytes that come from memory
// or go there are work.
func (j *judge) waitsForDevice(p *Phase) bool {
	return p.Kind == Fetches && j.fromDevice() || p.Kind == Uploads && j.toDevice()
}

// toDevice: most of what was written went to a device.
func (j *judge) toDevice() bool {
	return j.upload != nil && j.DeviceWritten > 0 && float64(j.DeviceWritten) >= mostly*float64(j.upload.BytesOut)
}

// fromDevice: most of what was fetched came from a device. What was verified came first.
func (j *judge) fromDevice() bool {
	return j.DeviceRead >= 0 && float64(j.DeviceRead-j.verified()) >= mostly*float64(j.fetch.BytesIn)
}

// fromMemory: the checkpoint lies on a device, and most of what was read did not come from there: the page cache had it. Such reading is
// work for processors, if they had that much to do: a source of one's own may wait for something else. Of file systems without a device
// nobody knows.
func (j *judge) fromMemory() bool {
	return j.DeviceRead >= 0 && j.From.Name != "" && !j.fromDevice() && !j.waitsInside(j.fetch)
}

// waitsInside: the process wanted less processor time than half of what the phase was busy. What other phases computed is not the phase's;
// beside a fetch that reads the page cache they are busy too while they wait for a processor, so nothing is taken away for them.
func (j *judge) waitsInside(p *Phase) bool {
	wanted := j.CPU + max(0, j.Delayed)
	for i := range j.Phases {
		if q := &j.Phases[i]; q != p && p.Kind != Fetches && (q.Kind == Computes || q.Kind == Inserted) {
			wanted -= q.Busy
		}
	}
	return j.CPU >= 0 && wanted.Seconds() < mostly*p.Busy.Seconds()
}

// memoryBound compares what the kernels move with a copy; both 0 when memory is not the limit, or nobody knows.
func (j *judge) memoryBound() (speed, moved float64) {
	if j.CopySpeed == nil || j.Generic || j.throttled() || j.CPUs < float64(j.Processors) {
		return 0, 0
	}
	for _, p := range j.Phases {
		if p.Kind == Computes {
			moved += float64(p.BytesIn + p.BytesOut)
		}
	}
	moved /= j.window.Seconds()
	if moved <= 0 {
		return 0, 0
	}
	if speed = j.CopySpeed(); speed <= 0 || moved < nearCopy*speed {
		return 0, 0
	}
	return speed, moved
}
