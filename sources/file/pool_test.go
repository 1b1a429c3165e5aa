package file

import (
	"errors"
	"os"
	"testing"
)

var page = int64(os.Getpagesize())

// mustTake takes a buffer of pages pages and touches it.
func mustTake(t *testing.T, p *pool, pages int64) *buffer {
	t.Helper()
	b, err := p.take(pages * page)
	if err != nil {
		t.Fatal(err)
	}
	clear(b.bytes())
	return b
}

func TestThePoolReusesTheBestFit(t *testing.T) {
	p := newPool(1000*page, nil)
	big, small := mustTake(t, p, 20), mustTake(t, p, 12)
	p.put(big)
	p.put(small)
	if b := mustTake(t, p, 11); b != small {
		t.Error("did not take the smaller of two that fit")
	}
	if b := mustTake(t, p, 9); b == big {
		t.Error("took a buffer more than twice as large")
	}
	if b := mustTake(t, p, 10); b != big {
		t.Error("did not take the one that fits")
	}
}

func TestThePoolFreesIdleBuffersFirst(t *testing.T) {
	p := newPool(30*page, nil)
	p.put(mustTake(t, p, 20))
	b := mustTake(t, p, 21) // too large for the idle one, and too much beside it
	if held, peak := p.stats(); held != 21*page || peak != 21*page {
		t.Errorf("held %d, peak %d pages", held/page, peak/page)
	}
	p.put(b)
	if err := p.close(); err != nil || p.held != 0 {
		t.Errorf("closed with %v and %d bytes", err, p.held)
	}
}

func TestThePoolTrimsLargeBuffersInUse(t *testing.T) {
	probe := newPool(page, nil)
	if b := mustTake(t, probe, 1); !discard(b.region.Bytes()) {
		t.Skip("this system cannot give back parts of a mapping")
	}
	p := newPool(30*page, nil)
	p.put(mustTake(t, p, 20))
	first := mustTake(t, p, 10) // in the buffer of 20
	if p.held != 20*page {
		t.Fatalf("held %d pages", p.held/page)
	}
	first.bytes()[10*page-1] = 7
	second := mustTake(t, p, 20)
	if p.held != 30*page || first.bytes()[10*page-1] != 7 {
		t.Errorf("held %d pages, last byte %d", p.held/page, first.bytes()[10*page-1])
	}
	if _, err := p.take(1); !errors.Is(err, ErrBuffers) {
		t.Errorf("got %v", err)
	}
	p.put(second)
	p.put(first)
	if err := p.close(); err != nil || p.held != 0 || p.used != 0 {
		t.Errorf("closed with %v, %d held, %d used", err, p.held, p.used)
	}
}

// TestPoolLeavesSpare frees idle buffers, the oldest first, when others need the memory.
func TestPoolLeavesSpare(t *testing.T) {
	spare := 100 * page
	p := newPool(1000*page, func() int64 { return spare })
	var busy []*buffer
	for range 5 {
		b, err := p.take(10 * page)
		if err != nil {
			t.Fatal(err)
		}
		busy = append(busy, b)
	}
	for _, b := range busy {
		p.put(b)
	}
	spare = 20 * page
	b, err := p.take(10 * page) // one of the five; of the others two fit
	if err != nil {
		t.Fatal(err)
	}
	if held, _ := p.stats(); held != 30*page || len(p.idle) != 2 || p.slack != 20*page {
		t.Errorf("holds %d pages, %d of them in %d idle buffers", held/page, p.slack/page, len(p.idle))
	}
	spare = -page // more is charged than there is: nothing idle stays
	p.put(b)
	if b, err = p.take(50 * page); err != nil {
		t.Fatal(err)
	}
	if held, _ := p.stats(); held != 50*page || p.slack != 0 {
		t.Errorf("holds %d pages, %d of them idle", held/page, p.slack/page)
	}
	p.put(b)
	if err := p.close(); err != nil {
		t.Fatal(err)
	}
}
