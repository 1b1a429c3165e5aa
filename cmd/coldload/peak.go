package main

import "time"

// peakEvery is how often memory is looked at: a sample costs a few microseconds.
const peakEvery = 10 * time.Millisecond

// peak is the most anonymous memory that the process has had while it ran.
type peak struct {
	max         int64
	quit, ended chan struct{}
}

// startPeak starts sampling.
func startPeak() *peak {
	p := &peak{quit: make(chan struct{}), ended: make(chan struct{})}
	go p.run()
	return p
}

func (p *peak) run() {
	defer close(p.ended)
	m := openMeter()
	defer m.close()
	tick := time.NewTicker(peakEvery)
	defer tick.Stop()
	for {
		p.max = max(p.max, m.anonymous())
		select {
		case <-tick.C:
		case <-p.quit:
			p.max = max(p.max, m.anonymous())
			return
		}
	}
}

// stop takes the last sample and returns the largest, in bytes.
func (p *peak) stop() int64 {
	close(p.quit)
	<-p.ended
	return p.max
}
