//go:build unix

package usage

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is the user and system time of all threads of the process, and the system's part of it.
func cpuTime() (all, system time.Duration) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return Unknown, Unknown
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), time.Duration(ru.Stime.Nano())
}
