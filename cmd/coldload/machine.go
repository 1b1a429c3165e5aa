package main

import (
	"bufio"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/report"
)

// machineFacts are what a load's figures depend on. What the system does not tell is left out.
func machineFacts(res *coldload.Result) []report.Fact {
	facts := []report.Fact{
		{Name: "processor", Value: procField("/proc/cpuinfo", "model name")},
		{Name: "processors", Value: strconv.Itoa(runtime.NumCPU()) + ", of which used " + strconv.Itoa(min(runtime.GOMAXPROCS(0), runtime.NumCPU()))},
		{Name: "kernels", Value: res.Kernels},
		{Name: "memory", Value: memory()},
		{Name: "system", Value: strings.TrimSpace(runtime.GOOS + "/" + runtime.GOARCH + " " + firstLine("/proc/sys/kernel/osrelease"))},
		{Name: "program", Value: "coldload " + coldload.Version + ", " + runtime.Version()},
		{Name: "read by", Value: readBy(res.Read)},
	}
	known := facts[:0]
	for _, f := range facts {
		if f.Value != "" {
			known = append(known, f)
		}
	}
	return known
}

func readBy(r coldload.Read) string {
	var ways []string
	for _, w := range []struct {
		name  string
		bytes int64
	}{{"mmap", r.Mmap}, {"pread", r.Pread}, {"direct", r.Direct}} {
		if w.bytes > 0 {
			ways = append(ways, w.name+" "+report.Bytes(w.bytes))
		}
	}
	return strings.Join(ways, ", ")
}

func memory() string {
	kib, err := strconv.ParseInt(strings.TrimSuffix(procField("/proc/meminfo", "MemTotal"), " kB"), 10, 64)
	if err != nil {
		return ""
	}
	return report.Bytes(kib << 10)
}

// procField is the first value of a name in a file of lines "name: value"; "" when it is not there.
func procField(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if key, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func firstLine(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return line
}
