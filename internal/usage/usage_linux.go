package usage

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Now takes a Snapshot. It reads four small files and one of each thread: some hundred microseconds.
func Now() Snapshot {
	s := Snapshot{at: time.Now(), read: Unknown, written: Unknown, throttled: throttled(), delayed: delayed(), machine: machine()}
	s.cpu, s.system = cpuTime()
	if f, err := os.ReadFile("/proc/self/io"); err == nil {
		s.read, s.written = field(f, "read_bytes:"), field(f, "write_bytes:")
	}
	return s
}

// field is the number after a name at the start of a line; Unknown when there is none.
func field(file []byte, name string) int64 {
	for line := range bytes.Lines(file) {
		words := bytes.Fields(line)
		if len(words) >= 2 && string(words[0]) == name {
			if n, err := strconv.ParseInt(string(words[1]), 10, 64); err == nil {
				return n
			}
		}
	}
	return Unknown
}

// delayed adds up what the scheduler says of each thread: time on a processor, time that it waited for one, and how often it ran. Of threads
// that have ended nothing is left; the Go runtime keeps its own.
func delayed() time.Duration {
	const tasks = "/proc/self/task"
	threads, err := os.ReadDir(tasks)
	if err != nil {
		return Unknown
	}
	sum := time.Duration(Unknown)
	for _, t := range threads {
		file, err := os.ReadFile(filepath.Join(tasks, t.Name(), "schedstat"))
		if err != nil { // it has ended, or this kernel does not count
			continue
		}
		if words := bytes.Fields(file); len(words) == 3 {
			if ns, err := strconv.ParseInt(string(words[1]), 10, 64); err == nil {
				sum = max(sum, 0) + time.Duration(ns)
			}
		}
	}
	return sum
}

// machine reads the first line of /proc/stat only: the file is long where there are many processors.
func machine() ticks {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return ticks{}
	}
	defer func() { _ = f.Close() }() // opened for reading
	line, err := bufio.NewReaderSize(f, 512).ReadString('\n')
	if err != nil {
		return ticks{}
	}
	return parseMachine(line)
}

// parseMachine reads "cpu user nice system idle iowait irq softirq steal ...": idle and iowait are nobody's. What the host of a virtual
// machine took (steal) was not to be had. Guests are in user already.
func parseMachine(line string) ticks {
	words := strings.Fields(line)
	if len(words) < 6 || words[0] != "cpu" {
		return ticks{}
	}
	var t ticks
	for i, w := range words[1:min(len(words), 9)] {
		n, err := strconv.ParseInt(w, 10, 64)
		if err != nil {
			return ticks{}
		}
		t.all += n
		if i == 3 || i == 4 {
			t.idle += n
		}
	}
	return t
}

// Processors is how many processors the machine has, those that the process may not use too.
func Processors() int {
	file, err := os.ReadFile("/proc/stat")
	if err != nil {
		return runtime.NumCPU()
	}
	return max(runtime.NumCPU(), countProcessors(file))
}

// countProcessors counts the lines "cpu0 ...", "cpu1 ..."; the first one, "cpu ...", is their sum.
func countProcessors(stat []byte) (n int) {
	for line := range bytes.Lines(stat) {
		name, _, _ := bytes.Cut(line, []byte(" "))
		if len(name) > len("cpu") && bytes.HasPrefix(name, []byte("cpu")) {
			n++
		}
	}
	return n
}

// groupFile is a file of the control group of this process that concerns processors: of version 2 or, by its other name, of version 1.
func groupFile(v2, v1 string) (file []byte, isV2 bool) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, false
	}
	for line := range bytes.Lines(groups) {
		_, rest, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		controllers, path, _ := strings.Cut(rest, ":")
		place, name := "/sys/fs/cgroup", v2
		switch {
		case strings.Contains(","+controllers+",", ",cpu,"):
			place, name = filepath.Join(place, controllers), v1
		case controllers != "":
			continue
		}
		for _, p := range []string{filepath.Join(place, path, name), filepath.Join(place, name)} { // in a container the path may be the host's
			if file, err := os.ReadFile(p); err == nil {
				return file, controllers == ""
			}
		}
	}
	return nil, false
}

func throttled() time.Duration {
	file, v2 := groupFile("cpu.stat", "cpu.stat")
	if v2 {
		if us := field(file, "throttled_usec"); us != Unknown {
			return time.Duration(us) * time.Microsecond
		}
		return Unknown
	}
	return time.Duration(field(file, "throttled_time")) // nanoseconds
}

// quota is how many processors the control group may use; 0 for no limit, or when the system does not tell.
func quota() float64 {
	file, v2 := groupFile("cpu.max", "cpu.cfs_quota_us")
	words := strings.Fields(string(file))
	if v2 && len(words) == 2 {
		return ratio(words[0], words[1])
	}
	if len(words) == 1 {
		period, _ := groupFile("cpu.max", "cpu.cfs_period_us")
		return ratio(words[0], strings.TrimSpace(string(period)))
	}
	return 0
}

// ratio of two numbers; 0 when one is none, as "max" and -1 are for no limit.
func ratio(quota, period string) float64 {
	q, err := strconv.ParseFloat(quota, 64)
	if err != nil || q <= 0 {
		return 0
	}
	p, err := strconv.ParseFloat(period, 64)
	if err != nil || p <= 0 {
		return 0
	}
	return q / p
}

// DeviceOf finds the device that the file system of path lies on, and what it has done so far; the zero Device when there is none of this
// machine, as for network file systems.
func DeviceOf(path string) Device {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}
	}
	number := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	link, err := os.Readlink(number)
	if err != nil {
		return Device{}
	}
	return Device{Name: filepath.Base(link), stat: number + "/stat"}.Now()
}

// Now is the device as it is now.
func (d Device) Now() Device {
	if d.stat == "" {
		return d
	}
	file, err := os.ReadFile(d.stat)
	if err != nil {
		return Device{}
	}
	busy, queued, ok := parseDevice(string(file))
	if !ok {
		return Device{}
	}
	d.at, d.busy, d.queued = time.Now(), busy, queued
	return d
}

// parseDevice reads the tenth and eleventh number of a device's stat file, milliseconds both.
func parseDevice(file string) (busy, queued time.Duration, ok bool) {
	words := strings.Fields(file)
	if len(words) < 11 {
		return 0, 0, false
	}
	b, err := strconv.ParseInt(words[9], 10, 64)
	if err != nil {
		return 0, 0, false
	}
	q, err := strconv.ParseInt(words[10], 10, 64)
	if err != nil {
		return 0, 0, false
	}
	return time.Duration(b) * time.Millisecond, time.Duration(q) * time.Millisecond, true
}
