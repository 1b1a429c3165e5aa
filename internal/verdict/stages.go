package verdict

import "fmt"

// slowest is for a load whose processors had time left: it asks which stage the others waited for.
func (j *judge) slowest() Verdict {
	read, write, work := j.used(j.fetch), j.writing(), j.busiest(Computes, Inserted)
	if j.fromMemory() {
		read, work = 0, j.busiest(Fetches, Computes, Inserted)
	}
	verify := j.used(j.verify)
	switch most := max(read, write, verify, j.used(work)); {
	case most < busy && j.budgetWaits():
		return j.budget()
	case j.verify != nil && verify == most:
		return j.verifying()
	case write == most:
		return j.sink()
	case read == most:
		return j.source()
	case j.cpuShare >= nearlyFull:
		return j.processors()
	default:
		return j.fewWorkers(work)
	}
}

// writing is the share of Flow in which the sink was at work; Commit is all its own.
func (j *judge) writing() float64 {
	return (j.used(j.upload)*j.window.Seconds() + j.Commit.Seconds()) / max(j.Flow.Seconds(), 1e-9)
}

// budgetWaits: admission waited although neither the device nor what follows had enough to do, so that more in flight would have helped.
func (j *judge) budgetWaits() bool {
	saturated := j.From.Busy >= deviceBusy && j.From.Queue >= deepQueue && j.fromDevice()
	return j.WaitBudget.Seconds() >= waits*j.window.Seconds() && j.share(j.fetch, j.fetch.WaitIn) >= waits && !saturated
}

func (j *judge) budget() Verdict {
	advice := fmt.Sprintf("a larger budget helps (--budget %s; now %s), more workers will not", binary(4*j.Budget), binary(j.Budget))
	return verdict(Budget, j.fetch.Name, "bound by the budget: "+list(
		"Batches waited "+percent(min(1, j.WaitBudget.Seconds()/j.window.Seconds()))+" of the time for room in it",
		fmt.Sprintf("%s of %d fetchers had one to read", decimal(j.used(j.fetch)*float64(j.fetch.Workers)), j.fetch.Workers), j.cpu()), advice)
}

// verifying is for a load that waited for the hashes of its source: for reading it, unless they took the processors.
func (j *judge) verifying() Verdict {
	p := j.verify
	by, advice := CPU, "more and smaller shards help, since each is hashed by one worker, or a source that need not be verified; a faster disk will not"
	if j.CPU.Seconds() < mostly*p.Busy.Seconds() {
		by, advice = Source, "a faster disk or a warmer cache helps, or a source that need not be verified; more workers will not"
	}
	hedge := ""
	if j.used(p) < busy {
		hedge = "mostly "
	}
	return verdict(by, p.Name, hedge+"bound by hashing the source: "+list(
		gigabytes(float64(p.BytesIn)/j.window.Seconds()), workers(p)+" busy "+percent(j.used(p))+" of the time", j.cpu(), j.device(j.From)), advice)
}

// source is for a load that waited for reading.
func (j *judge) source() Verdict {
	rate := float64(j.fetch.BytesIn) / j.window.Seconds()
	where, device := "", ""
	if j.fromDevice() && j.From.Name != "" {
		where, device = " from the device", j.device(j.From)
		rate = float64(j.DeviceRead) / j.window.Seconds()
	}
	waiting := ""
	if device == "" {
		waiting = percent(j.used(j.fetch)) + " of the fetchers' time"
	}
	hedge := ""
	if j.used(j.fetch) < busy {
		hedge = "mostly "
	}
	return verdict(Source, j.fetch.Name, hedge+"bound by reading: "+list(gigabytes(rate)+where, device, waiting, j.cpu()), j.sourceAdvice())
}

func (j *judge) sourceAdvice() string {
	switch device := j.fromDevice() && j.From.Name != ""; {
	case device && j.From.Busy >= 0 && j.From.Busy < idleDevice && j.used(j.fetch) >= busy:
		return fmt.Sprintf("the device has little to do: look for a limit above it, as io.max of the control group, or give it more fetchers (now %d)", j.fetch.Workers)
	case device && j.From.Busy >= deviceBusy:
		return "a second device or a warmer cache helps, more workers will not"
	case j.fetch.Workers <= 2:
		return fmt.Sprintf("more fetchers (now %d) or a faster source help, more processors will not", j.fetch.Workers)
	default:
		return "a faster source or a warmer cache helps, more processors will not"
	}
}

// sink is for a load that waited for writing.
func (j *judge) sink() Verdict {
	what, where, device := fmt.Sprintf("the sink at work for %s of the time", percent(j.writing())), "", ""
	if j.To.Name != "" {
		device = j.device(j.To)
	}
	if j.upload != nil && j.upload.BytesOut > 0 {
		where = gigabytes(float64(j.upload.BytesOut) / j.Flow.Seconds())
	}
	if j.Commit >= j.Flow/2 {
		what = "making it durable took " + seconds(j.Commit) + " of " + seconds(j.Flow)
	}
	advice := "a faster sink helps, more workers or a larger budget will not"
	if j.Packing {
		advice = "a faster or second device for the target helps, more workers or a larger budget will not"
	}
	hedge := ""
	if j.writing() < busy {
		hedge = "mostly "
	}
	name := "commit"
	if j.upload != nil && j.Commit < j.Flow/2 {
		name = j.upload.Name
	}
	return verdict(Sink, name, hedge+"bound by writing: "+list(where, what, device, j.cpu()), advice)
}

// fewWorkers is for a phase that is busy while processors are idle: it has too few workers, or waits for something of its own.
func (j *judge) fewWorkers(p *Phase) Verdict {
	busyFor := fmt.Sprintf("%s busy %s of the time", workers(p), percent(j.used(p)))
	switch {
	case j.used(p) < busy:
		return verdict(CPU, p.Name, "mostly bound by "+p.Name+", with no limit reached: "+list(busyFor, j.cpu(), j.device(j.From)),
			j.littleAdvice(p))
	case j.waitsInside(p):
		return verdict(Stage, p.Name, "bound by stage "+p.Name+": "+list(busyFor, j.cpu()+", so it waits for something of its own"),
			fmt.Sprintf("more workers for it (now %d) or less waiting in it help, a faster disk will not", p.Workers))
	default:
		return verdict(CPU, p.Name, "bound by the workers of "+p.Name+": "+list(busyFor, j.cpu(), j.device(j.From)),
			fmt.Sprintf("more workers for it (now %d) help, a faster disk will not", p.Workers))
	}
}

// littleAdvice is for a phase that is the nearest to a limit and not near. More workers than processors would only wait for each other.
func (j *judge) littleAdvice(p *Phase) string {
	switch {
	case j.cpuShare < mostly || float64(p.Workers) < j.CPUs:
		return "more workers may help a little"
	case j.CPUs < float64(j.Processors):
		return fmt.Sprintf("only %s of %d processors may be used: more of them (GOMAXPROCS, CPU affinity) may help", decimal(j.CPUs), j.Processors)
	default:
		return "more processors may help a little"
	}
}
