package usage

import (
	"testing"
	"time"
)

func TestSince(t *testing.T) {
	t.Parallel()
	t0 := time.Unix(100, 0)
	before := Snapshot{at: t0, cpu: time.Second, system: time.Second, read: 100, written: 7, throttled: Unknown, delayed: 5, machine: ticks{idle: 50, all: 200}}
	now := Snapshot{at: t0.Add(2 * time.Second), cpu: 4 * time.Second, system: 2 * time.Second, read: 1100, written: 7, throttled: time.Second, delayed: 9, machine: ticks{idle: 75, all: 300}}
	want := Used{Wall: 2 * time.Second, CPU: 3 * time.Second, System: time.Second, Throttled: Unknown, Delayed: 4, DeviceRead: 1000, Idle: 0.25}
	if got := now.Since(before); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	nothing := Snapshot{at: t0, cpu: Unknown, system: Unknown, read: Unknown, written: Unknown, throttled: Unknown, delayed: Unknown}
	want = Used{Wall: 2 * time.Second, CPU: Unknown, System: Unknown, Throttled: Unknown, Delayed: Unknown, DeviceRead: Unknown, DeviceWritten: Unknown, Idle: Unknown}
	if got := now.Since(nothing); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestDeviceSince(t *testing.T) {
	t.Parallel()
	t0 := time.Unix(100, 0)
	before := Device{Name: "d", stat: "f", at: t0, busy: time.Second, queued: time.Second}
	now := Device{Name: "d", stat: "f", at: t0.Add(4 * time.Second), busy: 4 * time.Second, queued: 7 * time.Second}
	if got, want := now.Since(before), (DeviceUsed{Name: "d", Busy: 0.75, Queue: 1.5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, now := range []Device{{}, {Name: "d", stat: "another", at: now.at}, {Name: "d", stat: "f", at: t0}} {
		if got, want := now.Since(before), (DeviceUsed{Busy: Unknown, Queue: Unknown}); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
}

// A process that computes is seen to.
func TestNowCounts(t *testing.T) {
	t.Parallel()
	before := Now()
	rounds := 0
	for deadline := time.Now().Add(time.Minute); Now().Since(before).CPU == 0 && time.Now().Before(deadline); {
		rounds++
	}
	if got := Now().Since(before); got.CPU == 0 || got.Wall <= 0 {
		t.Errorf("%+v after %d rounds", got, rounds)
	}
	if n := CPUs(); n <= 0 {
		t.Errorf("%v processors", n)
	}
}

func TestCopySpeed(t *testing.T) {
	t.Parallel()
	speed, err := CopySpeed(t.Context(), 2*copyBlock)
	if err != nil || speed <= 0 {
		t.Errorf("%v bytes per second, error %v", speed, err)
	}
	t.Logf("%.1f GB/s", speed/1e9)
	if speed, err := CopySpeed(t.Context(), 2*copyBlock-1); speed != 0 || err != nil {
		t.Errorf("with too little memory: %v, %v", speed, err)
	}
}

// Each round copies back what the one before copied: else the source would stay memory that was never written to, which costs nothing to read.
func TestCopyGoesBack(t *testing.T) {
	t.Parallel()
	a, b := []byte("to"), []byte("of")
	pairs := []pair{{to: a, from: b}}
	speed, err := fastest(t.Context(), pairs)
	if err != nil || speed <= 0 || string(a) != "of" {
		t.Fatalf("%v bytes per second, error %v, %q", speed, err, a)
	}
	copy(a, "ab")
	if err := copyAll(t.Context(), pairs); err != nil || string(b) != "ab" { // an odd number of rounds: the next one goes back
		t.Errorf("error %v, %q after the next round, want %q", err, b, "ab")
	}
}

func BenchmarkNow(b *testing.B) {
	for b.Loop() {
		Now()
	}
}
