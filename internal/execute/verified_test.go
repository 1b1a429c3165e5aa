package execute

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/coldload/coldload/stages"
)

// reading is a Batch that reads these Shards.
func reading(shards ...int32) *stages.Batch {
	b := &stages.Batch{}
	for _, s := range shards {
		b.Ranges = append(b.Ranges, stages.Extent{Shard: s, Len: 1})
	}
	return b
}

// began wants Next to hand out these Shards, and then to wait, or to be over.
func began(t *testing.T, v *Verified, over bool, want ...int) {
	t.Helper()
	for _, w := range want {
		if shard, ok, isOver, _ := v.begin(); !ok || isOver || shard != w {
			t.Fatalf("shard %d, %v, over %v, want shard %d", shard, ok, isOver, w)
		}
	}
	if shard, ok, isOver, _ := v.begin(); ok || isOver != over {
		t.Fatalf("shard %d, %v, over %v, want none, over %v", shard, ok, isOver, over)
	}
}

// TestVerifiedOrder: what a Batch waits for goes first, the rest no further ahead than it may, and what no Batch needs at the end.
func TestVerifiedOrder(t *testing.T) {
	v := NewVerified(7, []int32{0, 1, 2, 3, 4, 6}, 2)
	began(t, v, false, 0, 1)
	v.Done(0)
	v.need(reading(0))
	began(t, v, false, 2) // 1 and 2 are ahead
	v.need(reading(5, 1)) // 5 is asked for, though no order has it, and 1 is no longer ahead
	began(t, v, false, 5, 3)
	v.need(reading(6, 2, 3))
	began(t, v, true, 6, 4)
	for s := range v.shards {
		v.Done(s)
	}
	if err := v.Admit(t.Context(), reading(6, 5, 4, 3, 2, 1, 0)); err != nil {
		t.Error(err)
	}
}

// TestVerifiedEnd: when no other Batch comes, nothing is ahead; what is in no order is not verified.
func TestVerifiedEnd(t *testing.T) {
	v := NewVerified(4, []int32{3, 1, 2}, 1)
	began(t, v, false, 3)
	v.End()
	began(t, v, true, 1, 2)
	none := NewVerified(3, nil, 1)
	began(t, none, false)
	none.End()
	began(t, none, true)
	var free *Verified
	free.End()
	if err := free.Admit(t.Context(), reading(1)); err != nil {
		t.Error(err)
	}
}

// TestVerifiedWaits: Admit and Next wait for each other, and for the end of their contexts.
func TestVerifiedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := NewVerified(3, nil, 1)
		admitted := make(chan error, 2)
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { admitted <- v.Admit(ctx, reading(2, 0)) }()
		synctest.Wait()
		for _, want := range []int{2, 0} {
			shard, ok, err := v.Next(ctx)
			if shard != want || !ok || err != nil {
				t.Fatalf("shard %d, %v, %v", shard, ok, err)
			}
			if len(admitted) > 0 {
				t.Fatalf("admitted before shard %d was verified", want)
			}
			v.Done(shard)
			synctest.Wait()
		}
		if err := <-admitted; err != nil {
			t.Error(err)
		}
		cause := errors.New("enough")
		go func() { admitted <- v.Admit(ctx, reading(1)) }()
		go func() {
			_, _, err := v.Next(ctx) // shard 1
			_, _, last := NewVerified(2, []int32{0}, 0).Next(ctx)
			admitted <- errors.Join(err, last)
		}()
		synctest.Wait()
		cancel(cause)
		for range 2 {
			if err := <-admitted; !errors.Is(err, cause) {
				t.Errorf("%v, want the cause", err)
			}
		}
	})
}
