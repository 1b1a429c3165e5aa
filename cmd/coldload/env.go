package main

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/coldload/coldload/stages/discover"
)

// env is what the commands have of the world around them; tests give their own.
type env struct {
	start    time.Time // what a load took is counted from here
	in       io.Reader
	out, err io.Writer
	outTTY   func() (width int, ok bool) // whether out is a terminal, and how wide
	errTTY   func() (width int, ok bool)
	noColour bool   // nothing is coloured: NO_COLOR is set
	hubCache string // folder of the Hugging Face cache
	// disableCPU is a list of the processor's features that kernels must not use.
	disableCPU string
	otel       telemetrySettings
	exports    *telemetry // once something is observed; until flush
}

// envDisableCPU takes instruction sets away from the kernels, to look for a fault in one or to measure an older processor: a list of
// avx512vbmi, avx512 and avx2 with commas between. One that is taken away takes the better ones with it.
const envDisableCPU = "COLDLOAD_CPU_DISABLE"

// processEnv is the env of this process. It is the only place that reads the environment.
func processEnv() *env {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "" // then the cache is found by its variables, or not at all
	}
	return &env{
		start: started,
		in:    os.Stdin,
		out:   &output{os.Stdout}, err: os.Stderr,
		outTTY: terminal(os.Stdout), errTTY: terminal(os.Stderr),
		noColour:   os.Getenv("NO_COLOR") != "",
		hubCache:   discover.HubCacheFromEnv(os.Getenv, home),
		disableCPU: os.Getenv(envDisableCPU),
		otel:       telemetryFromEnv(os.Getenv),
	}
}

// terminal tells whether f is a terminal that a line can be redrawn on.
func terminal(f *os.File) func() (int, bool) {
	dumb := os.Getenv("TERM") == "dumb"
	return func() (int, bool) {
		if dumb || !term.IsTerminal(int(f.Fd())) {
			return 0, false
		}
		width, _, err := term.GetSize(int(f.Fd()))
		if err != nil || width <= 0 {
			width = 80
		}
		return width, true
	}
}

// output is stdout; its errors tell when the reader has gone.
type output struct{ w io.Writer }

func (o *output) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = errReaderGone
	}
	return n, err
}
