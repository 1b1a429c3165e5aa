//go:build !unix

package usage

import "time"

// cpuTime is not known here.
func cpuTime() (all, system time.Duration) { return Unknown, Unknown }
