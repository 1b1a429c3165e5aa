package main

import (
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

// counters are the system's, at one moment.
type counters struct {
	at          time.Time
	busy, steal float64 // processor seconds of the machine
	kernel      float64 // of the kernel's own threads
	own         float64 // of this process and of those that it waited for
	ownDisk     int64
	disk        int64 // bytes read and written by all disks
	psi         map[string]float64
}

// look reads the counters. A counter that the system does not have stays 0.
func look() (*counters, error) {
	c := &counters{psi: map[string]float64{}}
	if err := c.machine(); err != nil {
		return c, err
	}
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var r unix.Rusage
		if err := unix.Getrusage(who, &r); err != nil {
			return c, fmt.Errorf("getrusage: %w", err)
		}
		c.own += seconds(r.Utime) + seconds(r.Stime)
		c.ownDisk += 512 * (r.Inblock + r.Oublock)
	}
	c.kernel = kernelThreads()
	c.disk = disks()
	for _, what := range []string{"cpu", "io", "memory"} {
		c.psi[what] = pressure(what)
	}
	c.at = time.Now()
	return c, nil
}

func seconds(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

// hertz is what the kernel counts processor time in, for users.
const hertz = 100

// machine reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
func (c *counters) machine() error {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) < 9 {
		return fmt.Errorf("/proc/stat begins with %q", line)
	}
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		c.busy += number(f[i]) / hertz
	}
	c.steal = number(f[8]) / hertz
	return nil
}

// number is 0 for what is none.
func number(s string) float64 {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0
	}
	return n
}

// kernelThreads is the processor time of the threads that the kernel has for itself; 0 where they are not seen.
func kernelThreads() (total float64) {
	const isKernelThread = 0x00200000
	list, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, name := range list {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(b), ") ") // behind the name
		if f := strings.Fields(rest); len(f) > 12 && int64(number(f[6]))&isKernelThread != 0 {
			total += (number(f[11]) + number(f[12])) / hertz
		}
	}
	return total
}

// disks are the bytes that whole disks read and wrote.
func disks() (total int64) {
	list, _ := filepath.Glob("/sys/block/*/stat")
	for _, name := range list {
		if virtual(filepath.Base(filepath.Dir(name))) {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if f := strings.Fields(string(b)); len(f) > 6 {
			total += 512 * int64(number(f[2])+number(f[6]))
		}
	}
	return total
}

// virtual disks pass on what others do, or lie in memory.
func virtual(disk string) bool {
	for _, prefix := range []string{"loop", "ram", "zram", "dm-", "md"} {
		if strings.HasPrefix(disk, prefix) {
			return true
		}
	}
	return false
}

// pressure is the total of "some" in /proc/pressure.
func pressure(what string) float64 {
	b, err := os.ReadFile("/proc/pressure/" + what)
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	_, total, _ := strings.Cut(line, "total=")
	return number(total) / 1e6
}

// since is what went on from a to c.
func (c *counters) since(a *counters) traffic {
	t := traffic{
		Wall: c.at.Sub(a.at).Seconds(), Processors: runtime.NumCPU(),
		OwnCPU: c.own - a.own, Kernel: c.kernel - a.kernel, Steal: c.steal - a.steal,
		OwnDisk: c.ownDisk - a.ownDisk, PSI: map[string]float64{},
	}
	t.OtherCPU = max(0, c.busy-a.busy-t.OwnCPU-t.Kernel)
	t.OtherDisk = max(0, c.disk-a.disk-t.OwnDisk)
	for what := range c.psi {
		t.PSI[what] = c.psi[what] - a.psi[what]
	}
	return t
}
