package main

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/report"
)

// How often a bar is redrawn, how often a line is written where nothing can be redrawn, and over how long a time rates are taken.
const (
	barEvery  = 100 * time.Millisecond
	logEvery  = 5 * time.Second
	barWindow = 5 * time.Second
)

// verifying is what the phase table calls the hashing of the source.
const verifying = "verify source"

// bar says on stderr how far a command is: bytes, rate, and the time to the very end, and the same of each phase that moves. On a terminal
// it redraws its lines in place and leaves none behind; elsewhere it writes a line every few seconds. It is never at 100 %: when the last
// byte is written it names what is left to do, and when that is done it is gone.
type bar struct {
	w      io.Writer
	tty    func() (width int, ok bool)
	colour bool
	doing  string // "loading"
	last   string // what remains when every byte is written: "committing"
	start  time.Time

	mu     sync.Mutex // guards all below, and doing
	whole  track
	beside track // what goes on beside the load; of no bytes when nothing does
	phases []*track
	began  time.Time // when the first byte was about to move
	ended  time.Time // when every byte was written

	drawn string // what is on the terminal now

	quit chan struct{}
	gone chan struct{}
}

// startBar shows a bar on stderr; nil when nobody wants one.
func startBar(e *env, quiet bool, doing, last string) *bar {
	if quiet {
		return nil
	}
	b := newBar(e, doing, last)
	go b.run()
	return b
}

func newBar(e *env, doing, last string) *bar {
	now := time.Now()
	return &bar{
		w: e.err, tty: e.errTTY, colour: !e.noColour, doing: doing, last: last, start: now, began: now,
		quit: make(chan struct{}), gone: make(chan struct{}),
	}
}

// stop removes the bar. A nil bar has nothing to stop.
func (b *bar) stop() {
	if b == nil {
		return
	}
	close(b.quit)
	<-b.gone
}

// load takes the progress of a load; it costs a lock.
func (b *bar) load(p coldload.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole.done, b.whole.total = p.Written, p.Total
	if b.phases == nil {
		b.began = time.Now()
		b.phases = make([]*track, len(p.Phases))
		for i := range b.phases {
			b.phases[i] = &track{}
		}
	}
	for i, q := range p.Phases {
		b.phases[i].name, b.phases[i].done, b.phases[i].total = q.Name, q.Bytes, q.Total
	}
}

// hashing takes the progress of hashing the source, which comes before the load or goes on beside it, as a line like those of the phases.
func (b *bar) hashing() func(done, total int64) {
	main := b.doing
	return func(done, total int64) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.phases != nil {
			b.beside.name, b.beside.done, b.beside.total = verifying, done, total
			return
		}
		b.doing, b.whole.done, b.whole.total = "reading the source for its hashes", done, total
		if done == total {
			b.doing, b.whole = main, track{}
		}
	}
}

// update notes how far it is; it costs a lock.
func (b *bar) update(done, total int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.whole.done, b.whole.total = done, total
}

func (b *bar) run() {
	defer close(b.gone)
	every := logEvery
	if _, ok := b.tty(); ok {
		every = barEvery
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-b.quit:
			b.write(b.erase())
			return
		case now := <-tick.C:
			b.write(b.show(now))
		}
	}
}

// write is for a terminal, or a reader, that may be gone: then nobody needs a bar.
func (b *bar) write(text string) { _, _ = io.WriteString(b.w, text) }

// show is what is written to stderr at a tick.
func (b *bar) show(now time.Time) string {
	width, ok := b.tty()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !ok {
		return b.logLine(now)
	}
	return b.erase() + b.draw(now, width)
}

// The terminal's own words: to the start of the line, up some lines, clear all below.
const (
	toStart    = "\r"
	up         = "\x1b[%dA"
	clearBelow = "\x1b[J"
	bold       = "\x1b[1m"
	faint      = "\x1b[2m"
	normal     = "\x1b[0m"
)

// erase removes what is drawn. When the terminal has become narrower meanwhile, it has broken lines into several.
func (b *bar) erase() string {
	width, ok := b.tty()
	if !ok || b.drawn == "" {
		return ""
	}
	rows := 0
	for line := range strings.SplitSeq(b.drawn, "\n") {
		rows += max(1, (utf8.RuneCountInString(line)+width-1)/max(width, 1))
	}
	b.drawn = ""
	if rows == 1 {
		return toStart + clearBelow
	}
	return toStart + fmt.Sprintf(up, rows-1) + clearBelow
}

// draw is the lines that the bar shows now, each within the width.
func (b *bar) draw(now time.Time, width int) string {
	lines := []string{b.headline(now, width-1)}
	if b.whole.done < b.whole.total {
		lines = append(lines, b.phaseLines(now)...)
	}
	for i := range lines {
		lines[i] = cut(lines[i], width-1)
	}
	b.drawn = strings.Join(lines, "\n")
	if !b.colour {
		return b.drawn
	}
	style := bold // of the first
	for i := range lines {
		lines[i] = style + lines[i] + normal
		style = faint
	}
	return strings.Join(lines, "\n")
}

// logLine is the bar in one line, where nothing can be redrawn.
func (b *bar) logLine(now time.Time) string {
	line := b.headline(now, 0)
	var moving []string
	for _, p := range b.tracks() {
		if p.done > 0 && b.whole.done < b.whole.total {
			moving = append(moving, p.name+" "+report.Bytes(p.done))
		}
	}
	if len(moving) > 0 {
		line += " (" + strings.Join(moving, ", ") + ")"
	}
	return "coldload: " + line + "\n"
}

// headline says how far the whole is, and when it ends, in a line of at most width columns if it can; 0 sets no bound. The end is what people
// wait for: the rate and the whole go before it.
func (b *bar) headline(now time.Time, width int) string {
	w := &b.whole
	if w.total == 0 {
		return fmt.Sprintf("%s: reading headers and planning, %s", b.doing, report.Duration(now.Sub(b.start)))
	}
	w.sample(b.began, now)
	if w.done >= w.total {
		if b.ended.IsZero() {
			b.ended = now
		}
		last := b.last
		if b.beside.done < b.beside.total {
			last = b.beside.name + " " + b.beside.amount()
		}
		return fmt.Sprintf("%s: all %s written, %s, %s", b.doing, report.Bytes(w.total), last, report.Duration(now.Sub(b.ended)))
	}
	// Down to a whole per cent that is below 100: what is not done does not look done.
	percent := min(99, int(float64(w.done)/float64(w.total)*100))
	line := fmt.Sprintf("%s: %s of %s, %d %%", b.doing, report.Bytes(w.done), report.Bytes(w.total), percent)
	r := w.rate()
	if r <= 0 {
		return line
	}
	left := fmt.Sprintf(", %s left", inSeconds(float64(w.total-w.done)/r))
	for _, try := range []string{line + fmt.Sprintf(", %.2f GB/s", r/1e9), line, fmt.Sprintf("%s: %d %%", b.doing, percent)} {
		if line = try + left; width <= 0 || utf8.RuneCountInString(line) <= width {
			break
		}
	}
	return line
}

// tracks are what goes on beside the load, and the phases.
func (b *bar) tracks() []*track { return append([]*track{&b.beside}, b.phases...) }

// phaseLines are the phases that have put something out, lined up.
func (b *bar) phaseLines(now time.Time) (lines []string) {
	names, amounts := 0, 0
	for _, p := range b.tracks() {
		p.sample(b.began, now)
		names, amounts = max(names, utf8.RuneCountInString(p.name)), max(amounts, utf8.RuneCountInString(p.amount()))
	}
	for _, p := range b.tracks() {
		if p.done == 0 {
			continue
		}
		line := fmt.Sprintf("  %-*s  %-*s", names, report.Clean(p.name), amounts, p.amount())
		if r := p.rate(); r > 0 {
			line += fmt.Sprintf("  %.2f GB/s", r/1e9)
		}
		if p.total > 0 && p.done >= p.total {
			line += "  done"
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}

// track is how far something is, now and in the last seconds.
type track struct {
	name        string
	done, total int64 // total is 0 when nobody knows
	samples     []sample
}

// sample is how far it was at a moment.
type sample struct {
	at   time.Time
	done int64
}

// amount is how much is done, and of how much.
func (t *track) amount() string {
	if t.total == 0 {
		return report.Bytes(t.done)
	}
	return report.Bytes(t.done) + " of " + report.Bytes(t.total)
}

// sample notes how far it is, and forgets what was long ago but for the last sample of then. Nothing was done at the start.
func (t *track) sample(start, now time.Time) {
	if len(t.samples) == 0 {
		t.samples = append(t.samples, sample{at: start})
	}
	t.samples = append(t.samples, sample{now, t.done})
	for len(t.samples) > 2 && now.Sub(t.samples[1].at) >= barWindow {
		t.samples = t.samples[1:]
	}
}

// rate is the bytes per second of the last seconds; 0 when nothing moved.
func (t *track) rate() float64 {
	if len(t.samples) < 2 {
		return 0
	}
	first, last := t.samples[0], t.samples[len(t.samples)-1]
	took := last.at.Sub(first.at).Seconds()
	if took <= 0 {
		return 0
	}
	return float64(last.done-first.done) / took
}

// inSeconds is a time to come: no digit of it that cannot be known.
func inSeconds(s float64) string {
	if s < 100 {
		return fmt.Sprintf("%.0f s", math.Ceil(s))
	}
	return report.Duration(time.Duration(s) * time.Second)
}

// cut shortens a line to the columns that there are.
func cut(s string, width int) string {
	if r := []rune(s); width > 0 && len(r) > width {
		return string(r[:width])
	}
	return s
}
