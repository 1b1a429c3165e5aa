package file

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeDisk is a disk under a fake clock: how many bytes it reads a second under each setting.
type fakeDisk struct {
	now  time.Time
	rate map[setting]float64
}

// feed reads n bytes in requests of what the tuner says, one after the other.
func (d *fakeDisk) feed(t *testing.T, tu *tuner, n int64) {
	t.Helper()
	for n > 0 {
		at, err := tu.begin(t.Context(), n+smallRead)
		if err != nil {
			t.Fatal(err)
		}
		d.now = d.now.Add(time.Duration(float64(at.block) / d.rate[setting{at.block, at.depth}] * 1e9))
		tu.end(at, at.block)
		d.now = d.now.Add(time.Second) // the load is busy with other things: not the disk's fault
		n -= at.block
	}
}

func rates(a, b, c, d float64) map[setting]float64 {
	return map[setting]float64{settings[0]: a, settings[1]: b, settings[2]: c, settings[3]: d}
}

func TestTheTunerKeepsWhatIsClearlyBetter(t *testing.T) {
	cases := map[string]struct {
		rate map[setting]float64
		want setting
	}{
		"all alike":             {rates(1e9, 1e9, 1e9, 1e9), settings[0]},
		"little better is none": {rates(1e9, 1.08e9, 1.05e9, 1.09e9), settings[0]},
		"fewer at a time":       {rates(1e9, 1.5e9, 1.2e9, 0.9e9), settings[1]},
		"smaller":               {rates(1e9, 1.2e9, 1.5e9, 0.9e9), settings[2]},
		"few at a time":         {rates(1e9, 0.9e9, 0.5e9, 1.11e9), settings[3]},
		"the first is best":     {rates(2e9, 1e9, 1e9, 1.9e9), settings[0]},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := &fakeDisk{now: time.Unix(0, 0), rate: c.rate}
			tu := newTuner(func() time.Time { return d.now })
			d.feed(t, tu, skipBytes+int64(len(settings))*trialBytes)
			if got := settings[tu.current]; got != c.want {
				t.Errorf("keeps %+v, want %+v; rates %v", got, c.want, tu.rates)
			}
			d.rate = rates(1, 1, 1, 1)
			was := tu.current
			d.feed(t, tu, 10*trialBytes)
			if tu.current != was {
				t.Error("it changes its mind later")
			}
		})
	}
}

func TestTheFirstBytesDoNotCount(t *testing.T) {
	d := &fakeDisk{now: time.Unix(0, 0), rate: rates(1e6, 1e9, 1e9, 1e9)}
	tu := newTuner(func() time.Time { return d.now })
	d.feed(t, tu, skipBytes)
	d.rate = rates(1e9, 1e9, 1e9, 1e9)
	d.feed(t, tu, int64(len(settings))*trialBytes)
	if tu.current != 0 {
		t.Errorf("a slow start counts: rates %v", tu.rates)
	}
}

func TestOverlappingRequestsCountTheirTimeOnce(t *testing.T) {
	now := time.Unix(0, 0)
	tu := newTuner(func() time.Time { return now })
	tu.trial = 1
	for tu.trial == 1 {
		a, _ := tu.begin(t.Context(), 8<<20)
		b, _ := tu.begin(t.Context(), 8<<20)
		now = now.Add(16 * time.Millisecond)
		tu.end(a, 8<<20)
		tu.end(b, 8<<20)
	}
	if got, want := tu.rates[0], 16<<20/0.016; got < 0.99*want || got > 1.01*want {
		t.Errorf("rate %g, want %g", got, want)
	}
}

func TestTheTunerBoundsTheRequestsInFlight(t *testing.T) {
	for i, s := range settings {
		synctest.Test(t, func(t *testing.T) {
			tu := newTuner(time.Now)
			tu.trial, tu.current = len(settings)+1, i
			var mu sync.Mutex
			var now, most int64
			var wg sync.WaitGroup
			for range 20 {
				wg.Go(func() {
					at, err := tu.begin(t.Context(), s.block)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					now++
					most = max(most, now)
					mu.Unlock()
					time.Sleep(time.Millisecond)
					mu.Lock()
					now--
					mu.Unlock()
					tu.end(at, s.block)
				})
			}
			wg.Wait()
			if most != s.depth {
				t.Errorf("%+v: %d in flight", s, most)
			}
		})
	}
}

func TestWaitingForATurnEnds(t *testing.T) {
	tu := newTuner(time.Now)
	for range mostDepth {
		if _, err := tu.begin(t.Context(), 8<<20); err != nil {
			t.Fatal(err)
		}
	}
	small, err := tu.begin(t.Context(), 100)
	if err != nil || small.block != smallRead {
		t.Errorf("a small read waits: %v", err)
	}
	tu.end(small, 100)
	why := errors.New("why")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := tu.begin(ctx, 8<<20); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func TestATunerForEveryDevice(t *testing.T) {
	ts := newTuners()
	if a := ts.of(1); a != ts.of(1) || a == ts.of(2) {
		t.Error("tuners are mixed up")
	}
}

func TestARequestTakesItsSmallRestWithIt(t *testing.T) {
	at := turn{block: 8 << 20}
	for n, want := range map[int64]int64{4096: 4096, 8 << 20: 8 << 20, 8<<20 + 8192: 8<<20 + 8192, 10 << 20: 10 << 20, 11 << 20: 8 << 20} {
		if got := at.bytes(n); got != want {
			t.Errorf("%d bytes: %d in one request, want %d", n, got, want)
		}
	}
}
