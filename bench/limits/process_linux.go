package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// told is what our program says with --json.
type told struct {
	Seconds float64 `json:"seconds"`
	Result  int64   `json:"result_bytes"`
	Budget  int64   `json:"budget"`
	Tensors int64   `json:"tensors_in"`
}

// allowed is the design's bound of anonymous memory.
func (t told) allowed() int64 { return t.Result + t.Budget + 64<<20 + 400*t.Tensors }

// build makes the program, once.
func build(ctx context.Context, to string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", to, "github.com/coldload/coldload/cmd/coldload")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build coldload: %w\n%s", err, out)
	}
	return nil
}

// runProgram runs our program as a user does. Its seconds are its own: from the start of main to the last byte in its place. Its memory is
// looked at from here.
func runProgram(ctx context.Context, program string, args ...string) (reading, error) {
	var out, log bytes.Buffer
	cmd := exec.CommandContext(ctx, program, append(args, "--json", "--quiet")...)
	cmd.Stdout, cmd.Stderr = &out, &log
	if err := cmd.Start(); err != nil {
		return reading{}, err
	}
	ended := make(chan struct{})
	var peak int64
	var gap time.Duration
	err := workers(2, func(worker int) error {
		if worker == 0 {
			defer close(ended)
			return cmd.Wait()
		}
		peak, gap = watchMemory(cmd.Process.Pid, ended)
		return nil
	})
	if err != nil {
		return reading{}, fmt.Errorf("%s: %w\n%s%s", strings.Join(cmd.Args, " "), err, out.Bytes(), log.Bytes())
	}
	var t told
	if err := json.Unmarshal(out.Bytes(), &t); err != nil || t.Seconds <= 0 {
		return reading{}, errors.Join(err, fmt.Errorf("%s said %.200s", strings.Join(cmd.Args, " "), out.Bytes()))
	}
	return reading{Seconds: t.Seconds, Peak: peak, Allowed: t.allowed(), Result: t.Result, Gap: gap.Seconds()}, nil
}

// lookEvery is half of the longest time that may pass between two looks.
const lookEvery = 5 * time.Millisecond

// watchMemory is the most anonymous memory that a process has until it has ended, and the longest time between two looks. It runs in a
// thread of its own that ends with it, before others where that is allowed: on processors that are busy it would come too late.
func watchMemory(pid int, ended <-chan struct{}) (peak int64, gap time.Duration) {
	runtime.LockOSThread()
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0) // without the right to, gaps are longer: they are told
	f, err := os.Open(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0 // it has ended
	}
	defer f.Close()
	buf, last := make([]byte, 128), time.Now()
	pause := unix.NsecToTimespec(lookEvery.Nanoseconds())
	for {
		peak = max(peak, anonymous(f, buf))
		gap = max(gap, time.Since(last))
		last = time.Now()
		_ = unix.Nanosleep(&pause, nil) // of this thread, with its priority; Go's timers run in any; cut short is no harm
		select {
		case <-ended:
			return peak, gap
		default:
		}
	}
}

// anonymous is what is resident and not shared; 0 when it cannot be read.
func anonymous(f *os.File, buf []byte) int64 {
	n, _ := f.ReadAt(buf, 0) // less than the buffer, with io.EOF
	fields := strings.Fields(string(buf[:n]))
	if len(fields) < 3 {
		return 0
	}
	resident, err1 := strconv.ParseInt(fields[1], 10, 64)
	shared, err2 := strconv.ParseInt(fields[2], 10, 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return (resident - shared) * int64(os.Getpagesize())
}
