package main

import (
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/report"
)

// How often the bar is redrawn, and over how long a time the rate is taken.
const (
	barEvery  = 100 * time.Millisecond
	barWindow = 50 // redraws
)

// bar is the line on a terminal that says how far a command is: bytes, rate, and the time to the very end. It is never at 100 %: when the
// last byte is written it names what is left to do, and when that is done it is gone.
type bar struct {
	w     io.Writer
	tty   func() (int, bool)
	doing string // "loading"
	last  string // what remains when every byte is written: "committing"
	start time.Time

	mu          sync.Mutex // guards doing too
	done, total int64
	samples     []sample // of the last redraws

	quit  chan struct{}
	ended chan struct{}
}

// sample is how far it was at a moment.
type sample struct {
	at   time.Time
	done int64
}

// startBar shows a bar on stderr; nil when that is no terminal or nobody wants one.
func startBar(e *env, quiet bool, doing, last string) *bar {
	if _, ok := e.errTTY(); !ok || quiet {
		return nil
	}
	b := &bar{w: e.err, tty: e.errTTY, doing: doing, last: last, start: time.Now(), quit: make(chan struct{}), ended: make(chan struct{})}
	go b.run()
	return b
}

// stop removes the bar. A nil bar has nothing to stop.
func (b *bar) stop() {
	if b == nil {
		return
	}
	close(b.quit)
	<-b.ended
}

// load takes the progress of a load.
func (b *bar) load(p coldload.Progress) { b.update(p.Written, p.Total) }

// step takes the progress of something that comes before, under its own name.
func (b *bar) step(doing string) func(done, total int64) {
	main := b.doing
	return func(done, total int64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.doing, b.done, b.total = doing, done, total
		if done == total {
			b.doing, b.done, b.total, b.samples = main, 0, 0, nil
		}
	}
}

// update notes how far it is; it costs a lock.
func (b *bar) update(done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done, b.total = done, total
}

// eraseLine moves to the start of the line and clears it.
const eraseLine = "\r\x1b[K"

func (b *bar) run() {
	defer close(b.ended)
	tick := time.NewTicker(barEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.quit:
			_, _ = io.WriteString(b.w, eraseLine) // a terminal that is gone needs no bar
			return
		case now := <-tick.C:
			width, _ := b.tty()
			_, _ = io.WriteString(b.w, eraseLine+cut(b.line(now), width-1))
		}
	}
}

// line is what the bar shows now.
func (b *bar) line(now time.Time) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	done, total := b.done, b.total
	if total == 0 {
		return fmt.Sprintf("%s: reading headers and planning, %s", b.doing, report.Duration(now.Sub(b.start)))
	}
	b.samples = append(b.samples, sample{now, done})
	if len(b.samples) > barWindow {
		b.samples = b.samples[1:]
	}
	if done >= total {
		return fmt.Sprintf("%s: all %s written, %s", b.doing, report.Bytes(total), b.last)
	}
	// Down to a whole per cent that is below 100: what is not done does not look done.
	percent := min(99, int(float64(done)/float64(total)*100))
	line := fmt.Sprintf("%s: %s of %s, %d %%", b.doing, report.Bytes(done), report.Bytes(total), percent)
	if r := b.rate(); r > 0 {
		return line + fmt.Sprintf(", %.2f GB/s, %s left", r/1e9, inSeconds(float64(total-done)/r))
	}
	return line
}

// inSeconds is a time to come: no digit of it that cannot be known.
func inSeconds(s float64) string {
	if s < 100 {
		return fmt.Sprintf("%.0f s", math.Ceil(s))
	}
	return report.Duration(time.Duration(s) * time.Second)
}

// rate is the bytes per second of the last redraws; 0 when nothing moved.
func (b *bar) rate() float64 {
	first, last := b.samples[0], b.samples[len(b.samples)-1]
	if len(b.samples) == 1 {
		first = sample{at: b.start}
	}
	took := last.at.Sub(first.at).Seconds()
	if took <= 0 {
		return 0
	}
	return float64(last.done-first.done) / took
}

// cut shortens a line to the columns that there are.
func cut(s string, width int) string {
	if r := []rune(s); width > 0 && len(r) > width {
		return string(r[:width])
	}
	return s
}
