package verdict

import (
	"testing"
	"time"
)

// base is a load of 10 s that reads 10 GB from a device with 8 fetchers, on 4 processors, where nothing is the limit yet.
func base() Figures {
	return Figures{
		Total: 10*time.Second + 100*time.Millisecond, Prelude: 100 * time.Millisecond, Flow: 10 * time.Second, Index: 40 * time.Millisecond,
		CPU: 8 * time.Second, System: time.Second, PreludeCPU: 80 * time.Millisecond, CPUs: 4, Processors: 4, Idle: 0.8, Throttled: 0,
		DeviceRead: 10e9, From: Device{Name: "sda", Busy: 0.3, Queue: 0.5}, Budget: 256 << 20,
		Phases: []Phase{
			phase("fetch", Fetches, 8, 0.2), phase("decode", Computes, 4, 0.1), phase("fuse", Computes, 4, 0), phase("repack", Computes, 4, 0.1),
			phase("upload", Uploads, 1, 0.05),
		},
	}
}

// phase is one that was busy for a share of 10 s and waited for input for the rest.
func phase(name string, kind Kind, workers int, used float64) Phase {
	all := time.Duration(workers) * 10 * time.Second
	busy := time.Duration(used * float64(all))
	return Phase{Name: name, Kind: kind, Workers: workers, BytesIn: 10e9, BytesOut: 10e9, Busy: busy, WaitIn: all - busy}
}

func set(f *Figures, name string, used float64) {
	for i := range f.Phases {
		if p := &f.Phases[i]; p.Name == name {
			*p = phase(name, p.Kind, p.Workers, used)
			return
		}
	}
	panic(name)
}

func reading(f *Figures) {
	set(f, "fetch", 0.95)
	f.From = Device{Name: "sda", Busy: 0.97, Queue: 7}
}

func computing(f *Figures) {
	set(f, "repack", 0.9)
	f.CPU, f.Idle = 39*time.Second, 0.02
}

// verifying has the source hashed beside the load.
func verifying(f *Figures, used float64) {
	f.Phases = append([]Phase{phase("verify source", Verifies, 2, used)}, f.Phases...)
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		change    func(*Figures)
		by, phase string
		sentence  string
	}{
		{
			"reading a device", reading, Source, "fetch",
			"bound by reading: 1.00 GB/s from the device, sda 97 % busy, CPU 20 %; a second device or a warmer cache helps, more workers will not",
		},
		{
			"reading a device that is not busy", func(f *Figures) { set(f, "fetch", 0.95) }, Source, "fetch",
			"bound by reading: 1.00 GB/s from the device, sda 30 % busy, CPU 20 %; a faster source or a warmer cache helps, more processors will not",
		},
		{"reading a device that has nothing to do", func(f *Figures) {
			reading(f)
			f.From.Busy = 0.1
		}, Source, "fetch", "bound by reading: 1.00 GB/s from the device, sda 10 % busy, CPU 20 %; the device has little to do: look for a limit above it, " +
			"as io.max of the control group, or give it more fetchers (now 8)"},
		{
			"one fetcher of a network", func(f *Figures) {
				set(f, "fetch", 0.95)
				f.Phases[0].Workers, f.Phases[0].Busy = 1, 9500*time.Millisecond
				f.DeviceRead, f.From = 0, Device{Busy: Unknown, Queue: Unknown}
			}, Source, "fetch",
			"bound by reading: 1.00 GB/s, 95 % of the fetchers' time, CPU 20 %; more fetchers (now 1) or a faster source help, more processors will not",
		},
		{"reading, nothing known of the system", func(f *Figures) {
			reading(f)
			f.CPU, f.System, f.PreludeCPU, f.Idle, f.Throttled, f.DeviceRead = Unknown, Unknown, Unknown, Unknown, Unknown, Unknown
			f.From, f.To = Device{Busy: Unknown, Queue: Unknown}, Device{Busy: Unknown, Queue: Unknown}
		}, Source, "fetch", "bound by reading: 1.00 GB/s, 95 % of the fetchers' time; a faster source or a warmer cache helps, more processors will not"},
		{
			"reading is the most, not much", func(f *Figures) { set(f, "fetch", 0.5) }, Source, "fetch",
			"mostly bound by reading: 1.00 GB/s from the device, sda 30 % busy, CPU 20 %; a faster source or a warmer cache helps, more processors will not",
		},

		{
			"processors", computing, CPU, "repack",
			"bound by the processors in repack: CPU 98 %, repack has 89 % of the work, sda 30 % busy; " +
				"more processors help, or coldload pack once, so that every load only reads; more workers or a faster disk will not",
		},
		{"processors in the system", func(f *Figures) {
			computing(f)
			f.System = 30 * time.Second
		}, CPU, "repack", "bound by the processors in repack: CPU 98 % (77 % of it the system's: page faults and copies), repack has 89 % of the work, " +
			"sda 30 % busy; more processors help, more workers or a faster disk will not"},
		{"processors, nearly all", func(f *Figures) {
			computing(f)
			f.CPU, f.Idle = 29*time.Second, 0.2
		}, CPU, "repack", "bound by the processors in repack: CPU 72 %, repack has 89 % of the work, sda 30 % busy; " +
			"more processors help, or coldload pack once, so that every load only reads; more workers or a faster disk will not"},
		{"processors of a pack", func(f *Figures) {
			computing(f)
			set(f, "repack", 0.3)
			f.Phases[4] = phase("upload", Uploads, 8, 0.5)
			f.Packing = true
		}, CPU, "upload", "bound by the processors in upload: CPU 98 %, upload has 71 % of the work, sda 30 % busy; " +
			"more processors help, more workers or a faster disk will not"},
		{"processors of a pack that waits for its disk", func(f *Figures) {
			computing(f)
			set(f, "repack", 0.3)
			f.Phases[4] = phase("upload", Uploads, 8, 0.5)
			f.Packing, f.DeviceWritten = true, 5e9
		}, CPU, "repack", "bound by the processors in repack: CPU 98 %, repack has 75 % of the work, sda 30 % busy; " +
			"more processors help, more workers or a faster disk will not"},
		{"processors that write what stays in memory", func(f *Figures) {
			computing(f)
			set(f, "repack", 0.3)
			f.Phases[4] = phase("upload", Uploads, 8, 0.5)
			f.Packing, f.DeviceWritten = true, 5e9-1
		}, CPU, "upload", "bound by the processors in upload: CPU 98 %, upload has 71 % of the work, sda 30 % busy; " +
			"more processors help, more workers or a faster disk will not"},
		{"processors of a load that only reads and writes", func(f *Figures) {
			f.Phases = []Phase{phase("fetch", Fetches, 8, 0.4), phase("upload", Uploads, 8, 0.5)}
			f.CPU, f.DeviceWritten = 39*time.Second, 10e9
		}, CPU, "fetch", "bound by the processors in fetch: CPU 98 %, fetch has 100 % of the work, sda 30 % busy; more processors help, a faster disk will not"},
		{"processors without instruction sets", func(f *Figures) {
			computing(f)
			f.Generic = true
		}, CPU, "repack", "bound by the processors in repack: CPU 98 %, repack has 89 % of the work, sda 30 % busy; " +
			"a processor with AVX2 or AVX-512 helps, since the kernels run without; a faster disk will not"},
		{"one processor of four", func(f *Figures) {
			computing(f)
			f.CPUs, f.CPU, f.Idle = 1, 11*time.Second, 0.7
		}, CPU, "repack", "bound by the processors in repack: CPU 100 %, repack has 89 % of the work, sda 30 % busy; " +
			"only 1 of 4 processors may be used: more of them (GOMAXPROCS, CPU affinity) help"},
		{"a quota", func(f *Figures) {
			set(f, "repack", 0.9)
			f.CPUs, f.CPU, f.Throttled = 1.5, 12*time.Second, 9*time.Second
		}, CPU, "repack", "bound by the processors in repack: CPU 80 %, a quota kept it waiting for 9.00 s, repack has 89 % of the work, sda 30 % busy; " +
			"a larger CPU quota of the control group helps, more workers will not"},
		{"other programs", func(f *Figures) {
			set(f, "repack", 0.9)
			f.CPU, f.Delayed, f.Idle = 16*time.Second, 20*time.Second, 0.01
		}, CPU, "repack", "bound by the processors in repack: CPU 40 %, threads waited 20.00 s for a processor, the machine 99 % busy, repack has 89 % of the work, sda 30 % busy; " +
			"other programs take the rest: a quieter machine helps, more workers will not"},
		{"other programs, nobody knows how busy", func(f *Figures) {
			set(f, "repack", 0.9)
			f.CPU, f.Delayed, f.Idle = 16*time.Second, 20*time.Second, Unknown
		}, CPU, "repack", "bound by the processors in repack: CPU 40 %, threads waited 20.00 s for a processor, repack has 89 % of the work, sda 30 % busy; " +
			"other programs take the rest: a quieter machine helps, more workers will not"},
		{"threads that wait for each other, a slow sink", func(f *Figures) {
			set(f, "upload", 0.9)
			f.CPU, f.Delayed, f.Idle = 24*time.Second, 13*time.Second, 0.4
		}, Sink, "upload", "bound by writing: 1.00 GB/s, the sink at work for 90 % of the time, CPU 60 %; a faster sink helps, more workers or a larger budget will not"},
		{"threads that wait for each other, a slow device", func(f *Figures) {
			reading(f)
			f.CPU, f.Delayed, f.Idle = 24*time.Second, 13*time.Second, 0.4
		}, Source, "fetch", "bound by reading: 1.00 GB/s from the device, sda 97 % busy, CPU 60 %; a second device or a warmer cache helps, more workers will not"},
		{"threads that wait for each other, an idle machine", func(f *Figures) {
			reading(f)
			f.CPU, f.Delayed, f.Idle = 8*time.Second, 30*time.Second, 0.8
		}, Source, "fetch", "bound by reading: 1.00 GB/s from the device, sda 97 % busy, CPU 20 %; a second device or a warmer cache helps, more workers will not"},
		{"others had just as much as counts", func(f *Figures) {
			set(f, "repack", 0.9)
			f.CPU, f.Delayed, f.Idle = 24*time.Second, 13*time.Second, 0.24
		}, CPU, "repack", "bound by the processors in repack: CPU 60 %, threads waited 13.00 s for a processor, the machine 76 % busy, repack has 89 % of the work, sda 30 % busy; " +
			"other programs take the rest: a quieter machine helps, more workers will not"},
		{
			"other programs while a device is slow", func(f *Figures) {
				reading(f)
				f.Delayed, f.Idle = 6*time.Second, 0.01
			}, Source, "fetch",
			"bound by reading: 1.00 GB/s from the device, sda 97 % busy, CPU 20 %; a second device or a warmer cache helps, more workers will not",
		},
		{"an inserted stage", func(f *Figures) {
			computing(f)
			set(f, "repack", 0.1)
			f.Phases = append(f.Phases, phase("mine", Inserted, 4, 0.9))
		}, CPU, "mine", "bound by the processors in mine: CPU 98 %, mine has 81 % of the work, sda 30 % busy; " +
			"a cheaper stage mine or more processors help, a faster disk will not"},
		{"the page cache", func(f *Figures) {
			set(f, "fetch", 0.4)
			f.CPU, f.DeviceRead, f.Idle = 37*time.Second, 0, 0.05
		}, CPU, "fetch", "bound by the processors in fetch: CPU 92 %, fetch has 79 % of the work, sda 30 % busy; more processors help, a faster disk will not"},
		{"the page cache with few fetchers", func(f *Figures) {
			f.Phases[0] = phase("fetch", Fetches, 1, 0.98)
			f.CPU, f.DeviceRead = 14*time.Second, 0
		}, CPU, "fetch", "bound by the workers of fetch: its 1 worker was busy 98 % of the time, CPU 35 %, sda 30 % busy; " +
			"more workers for it (now 1) help, a faster disk will not"},
		{
			"one worker", func(f *Figures) { f.CPU, f.Phases[3] = 14*time.Second, phase("repack", Computes, 1, 0.97) }, CPU, "repack",
			"bound by the workers of repack: its 1 worker was busy 97 % of the time, CPU 35 %, sda 30 % busy; more workers for it (now 1) help, a faster disk will not",
		},
		{"a stage that computes on a busy machine", func(f *Figures) {
			f.CPU, f.Delayed = 4*time.Second, 15*time.Second
			f.Phases = append(f.Phases, phase("mine", Inserted, 2, 0.97))
		}, CPU, "mine", "bound by the workers of mine: its 2 workers were busy 97 % of the time, CPU 10 %, sda 30 % busy; more workers for it (now 2) help, a faster disk will not"},
		{"a source that waits, of files in the page cache", func(f *Figures) {
			set(f, "fetch", 0.95)
			f.DeviceRead = 0
		}, Source, "fetch", "bound by reading: 1.00 GB/s, 95 % of the fetchers' time, CPU 20 %; a faster source or a warmer cache helps, more processors will not"},
		{"nothing but reading, which computes", func(f *Figures) {
			f.Phases, f.CPU = []Phase{phase("verify", Fetches, 4, 1)}, 40*time.Second
		}, CPU, "verify", "bound by the processors in verify: CPU 100 %, verify has 100 % of the work, sda 30 % busy; more processors help, a faster disk will not"},
		{"a stage that waits", func(f *Figures) {
			f.CPU = 4 * time.Second
			f.Phases = append(f.Phases, phase("mine", Inserted, 2, 0.97))
		}, Stage, "mine", "bound by stage mine: its 2 workers were busy 97 % of the time, CPU 10 %, so it waits for something of its own; " +
			"more workers for it (now 2) or less waiting in it help, a faster disk will not"},

		{"memory", func(f *Figures) {
			computing(f)
			f.CopySpeed = func() float64 { return 8e9 }
		}, Memory, "", "bound by memory bandwidth: 6.00 GB/s read and written by the kernels, 8.00 GB/s in a plain copy, CPU 98 %; " +
			"faster memory or more of its channels help, more workers will not"},
		{"far from a copy", func(f *Figures) {
			computing(f)
			f.CopySpeed = func() float64 { return 9e9 }
		}, CPU, "repack", "bound by the processors in repack: CPU 98 %, repack has 89 % of the work, sda 30 % busy; " +
			"more processors help, or coldload pack once, so that every load only reads; more workers or a faster disk will not"},

		{
			"a sink", func(f *Figures) { set(f, "upload", 0.9) }, Sink, "upload",
			"bound by writing: 1.00 GB/s, the sink at work for 90 % of the time, CPU 20 %; a faster sink helps, more workers or a larger budget will not",
		},
		{"a device that is written to", func(f *Figures) {
			set(f, "upload", 0.9)
			f.Packing, f.To = true, Device{Name: "sdb", Busy: 0.99, Queue: 4}
		}, Sink, "upload", "bound by writing: 1.00 GB/s, the sink at work for 90 % of the time, sdb 99 % busy, CPU 20 %; " +
			"a faster or second device for the target helps, more workers or a larger budget will not"},
		{
			"a commit", func(f *Figures) { f.Commit = 6 * time.Second }, Sink, "commit",
			"bound by writing: 1.00 GB/s, making it durable took 6.00 s of 10.00 s, CPU 20 %; a faster sink helps, more workers or a larger budget will not",
		},

		{
			"the budget", starved, Budget, "fetch",
			"bound by the budget: Batches waited 70 % of the time for room in it, 1.6 of 8 fetchers had one to read, CPU 20 %; " +
				"a larger budget helps (--budget 64MiB; now 16MiB), more workers will not",
		},
		{"a budget with a device that has enough to do", func(f *Figures) {
			starved(f)
			f.From = Device{Name: "sda", Busy: 0.95, Queue: 3}
		}, Source, "fetch", "mostly bound by reading: 1.00 GB/s from the device, sda 95 % busy, CPU 20 %; a second device or a warmer cache helps, more workers will not"},
		{"admission waits because the end is slow", func(f *Figures) {
			starved(f)
			set(f, "upload", 0.9)
		}, Sink, "upload", "bound by writing: 1.00 GB/s, the sink at work for 90 % of the time, CPU 20 %; a faster sink helps, more workers or a larger budget will not"},
		{"admission waits because processors are slow", func(f *Figures) {
			starved(f)
			computing(f)
		}, CPU, "repack", "bound by the processors in repack: CPU 98 %, repack has 89 % of the work, sda 60 % busy; " +
			"more processors help, or coldload pack once, so that every load only reads; more workers or a faster disk will not"},

		{
			"headers from a disk", func(f *Figures) { f.Prelude, f.Index = 6*time.Second, 5*time.Second }, Source, "index",
			"bound by headers and planning: 6.00 s of 10.10 s before the first byte, with 1 % of one processor; " +
				"a faster or warmer place for the headers helps, more budget will not",
		},
		{"hashing the source", func(f *Figures) {
			verifying(f, 0.95)
			f.CPU, f.Idle = 20*time.Second, 0.5
		}, CPU, "verify source", "bound by hashing the source: 1.00 GB/s, its 2 workers were busy 95 % of the time, CPU 50 %, sda 30 % busy; " +
			"more and smaller shards help, since each is hashed by one worker, or a source that need not be verified; a faster disk will not"},
		{"hashing one shard", func(f *Figures) {
			verifying(f, 0.5)
			f.CPU = 12 * time.Second
		}, CPU, "verify source", "mostly bound by hashing the source: 1.00 GB/s, its 2 workers were busy 50 % of the time, CPU 30 %, sda 30 % busy; " +
			"more and smaller shards help, since each is hashed by one worker, or a source that need not be verified; a faster disk will not"},
		{"hashing the source from a slow disk", func(f *Figures) {
			verifying(f, 0.95)
			f.From = Device{Name: "sda", Busy: 0.97, Queue: 2}
		}, Source, "verify source", "bound by hashing the source: 1.00 GB/s, its 2 workers were busy 95 % of the time, CPU 20 %, sda 97 % busy; " +
			"a faster disk or a warmer cache helps, or a source that need not be verified; more workers will not"},
		{"processors that hash the source", func(f *Figures) {
			verifying(f, 0.95)
			f.CPU, f.Idle = 39*time.Second, 0.02
			f.Phases[0].Workers, f.Phases[0].Busy = 4, 38*time.Second
		}, CPU, "verify source", "bound by the processors in verify source: CPU 98 %, verify source has 61 % of the work, sda 30 % busy; " +
			"more processors help, or a source that need not be verified; a faster disk will not"},
		{"what was verified is read again from a device", func(f *Figures) {
			verifying(f, 0.2)
			reading(f)
			f.DeviceRead = 20e9
		}, Source, "fetch", "bound by reading: 2.00 GB/s from the device, sda 97 % busy, CPU 20 %; " +
			"a second device or a warmer cache helps, more workers will not"},
		{"only hashing", func(f *Figures) {
			verifying(f, 0.95)
			set(f, "fetch", 0)
			f.Phases[1].BytesIn, f.CPU = 0, 20*time.Second
		}, CPU, "verify source", "bound by hashing the source: 1.00 GB/s, its 2 workers were busy 95 % of the time, CPU 50 %, sda 30 % busy; " +
			"more and smaller shards help, since each is hashed by one worker, or a source that need not be verified; a faster disk will not"},
		{"a header's computing", func(f *Figures) {
			f.Prelude, f.PreludeCPU, f.Index = 6*time.Second, 3*time.Second, 5*time.Second
		}, CPU, "index", "bound by headers and planning: 6.00 s of 10.10 s before the first byte, with 50 % of one processor; " +
			"fewer or larger tensors help, a faster disk or more workers will not"},
		{"headers on a crowded machine", func(f *Figures) {
			f.Prelude, f.Index, f.PreludeDelayed, f.PreludeIdle = 6*time.Second, 5*time.Second, 3*time.Second, 0.02
		}, CPU, "index", "bound by headers and planning: 6.00 s of 10.10 s before the first byte, with 1 % of one processor; " +
			"threads waited 3.00 s for a processor that other programs had: a quieter machine helps, more budget will not"},
		{"headers, threads that wait for each other", func(f *Figures) {
			f.Prelude, f.Index, f.PreludeDelayed, f.PreludeIdle = 6*time.Second, 5*time.Second, 3*time.Second, 0.9
		}, Source, "index", "bound by headers and planning: 6.00 s of 10.10 s before the first byte, with 1 % of one processor; " +
			"a faster or warmer place for the headers helps, more budget will not"},
		{
			"planning", func(f *Figures) { f.Prelude, f.PreludeCPU = 6*time.Second, 6*time.Second }, CPU, "plan",
			"bound by headers and planning: 6.00 s of 10.10 s before the first byte, with 100 % of one processor; " +
				"fewer or larger tensors help, a faster disk or more workers will not",
		},
		{
			"a prelude of which nothing is known", func(f *Figures) { f.Prelude, f.PreludeCPU = 6*time.Second, Unknown }, None, "plan",
			"bound by headers and planning: 6.00 s of 10.10 s before the first byte; fewer or larger tensors help, a faster disk or more workers will not",
		},
		{
			"short", func(f *Figures) { f.Total = 49 * time.Millisecond }, None, "",
			"too short to judge: 49 ms; times of less than 50 ms are mostly beginning and end",
		},
		{"nothing read", func(f *Figures) { f.Phases[0].BytesIn = 0 }, None, "", "nothing was read: there is nothing to judge"},
		{"nothing run", func(f *Figures) { f.Phases = nil }, None, "", "nothing was read: there is nothing to judge"},
		{"nothing was busy", func(f *Figures) {
			nothing(f)
			set(f, "decode", 0.2)
		}, CPU, "decode", "mostly bound by decode, with no limit reached: its 4 workers were busy 20 % of the time, CPU 20 %, sda 30 % busy; more workers may help a little"},
		{"nothing was busy on one processor of four", func(f *Figures) {
			nothing(f)
			f.Phases[1] = phase("decode", Computes, 1, 0.5)
			f.CPU, f.CPUs = 6800*time.Millisecond, 1
		}, CPU, "decode", "mostly bound by decode, with no limit reached: its 1 worker was busy 50 % of the time, CPU 68 %, sda 30 % busy; " +
			"only 1 of 4 processors may be used: more of them (GOMAXPROCS, CPU affinity) may help"},
		{"nothing was busy on the only processor", func(f *Figures) {
			nothing(f)
			f.Phases[1] = phase("decode", Computes, 1, 0.5)
			f.CPU, f.CPUs, f.Processors = 6800*time.Millisecond, 1, 1
		}, CPU, "decode", "mostly bound by decode, with no limit reached: its 1 worker was busy 50 % of the time, CPU 68 %, sda 30 % busy; more processors may help a little"},
		{"one processor of four, others on the rest", func(f *Figures) {
			reading(f)
			f.CPU, f.CPUs, f.Delayed, f.Idle = 6*time.Second, 1, 6*time.Second, 0.75
		}, Source, "fetch", "bound by reading: 1.00 GB/s from the device, sda 97 % busy, CPU 60 %; a second device or a warmer cache helps, more workers will not"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := base()
			c.change(&f)
			v := Judge(f)
			if v.BoundBy != c.by || v.Phase != c.phase || v.Sentence != c.sentence {
				t.Errorf("bound by %q, phase %q:\n%s\nwant %q, %q:\n%s", v.BoundBy, v.Phase, v.Sentence, c.by, c.phase, c.sentence)
			}
		})
	}
}

// nothing is a load in which no phase did anything.
func nothing(f *Figures) {
	for i, p := range f.Phases {
		f.Phases[i] = phase(p.Name, p.Kind, p.Workers, 0)
	}
}

// starved is a load whose fetchers have too few Batches: each takes long, whatever its size.
func starved(f *Figures) {
	f.Budget, f.WaitBudget = 16<<20, 7*time.Second
	f.From = Device{Name: "sda", Busy: 0.6, Queue: 0.9}
}

// A copy is measured only when it can decide something.
func TestCopyIsAskedRarely(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Figures){
		"reading": reading,
		"short":   func(f *Figures) { f.Total = time.Millisecond },
		"generic": func(f *Figures) { computing(f); f.Generic = true },
		"quota":   func(f *Figures) { computing(f); f.Throttled = time.Minute },
		"limited": func(f *Figures) { computing(f); f.Processors = 8 },
	} {
		f := base()
		change(&f)
		f.CopySpeed = func() float64 {
			t.Errorf("%s: a copy was measured", name)
			return 1
		}
		if v := Judge(f); v.BoundBy == Memory {
			t.Errorf("%s: %+v", name, v)
		}
	}
	f := base()
	computing(&f)
	f.CopySpeed = func() float64 { return 0 }
	if v := Judge(f); v.BoundBy != CPU {
		t.Errorf("a copy that could not be measured: %+v", v)
	}
}

// Figures of all kinds of nonsense have a verdict all the same.
func TestJudgeNeverFails(t *testing.T) {
	t.Parallel()
	times := []time.Duration{Unknown, 0, 1, time.Second, 1 << 62}
	for _, flow := range times {
		for _, cpu := range times {
			for _, workers := range []int{0, 1} {
				f := base()
				f.Total, f.Flow, f.Commit, f.CPU, f.WaitBudget = time.Second, flow, cpu, cpu, flow
				for i := range f.Phases {
					f.Phases[i].Workers, f.Phases[i].Busy = workers, cpu
				}
				if v := Judge(f); v.Sentence == "" {
					t.Errorf("flow %v, CPU %v: nothing", flow, cpu)
				}
			}
		}
	}
}

func TestSizes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0", 1023: "1023", 1 << 10: "1KiB", 16 << 20: "16MiB", 1 << 30: "1GiB", 1<<30 + 1: "1024MiB"} {
		if got := binary(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for v, want := range map[float64]string{1: "1", 1.5: "1.5", 0: "0", 7.96: "8"} {
		if got := decimal(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}
