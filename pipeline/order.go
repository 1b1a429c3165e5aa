package pipeline

import "context"

// gate lets the workers of a stage receive and admit one at a time, so that items are charged, and take their turns,
// in the order in which they arrive. Taking bytes outside it could deadlock an ordered stage: the item at the head
// would wait for bytes that finished later items hold while they wait for the head.
type gate struct {
	token chan struct{}
	turns []chan struct{} // one per worker; nil unless the stage is ordered
	next  int             // turn of the next item; guarded by the token
}

// newGate returns nil where the workers need not wait for each other.
func newGate(o options) *gate {
	if o.workers < 2 || !o.ordered && o.budget == nil {
		return nil
	}
	g := &gate{token: make(chan struct{}, 1)}
	g.token <- struct{}{}
	if o.ordered {
		g.turns = make([]chan struct{}, o.workers)
		for i := range g.turns {
			g.turns[i] = make(chan struct{}, 1)
		}
		g.turns[0] <- struct{}{}
	}
	return g
}

// enter waits for the token. Whoever fails before leave keeps it: the run is cancelled then, which wakes the others.
func (g *gate) enter(ctx context.Context) error {
	if g == nil {
		return nil
	}
	return await(ctx, g.token)
}

func (g *gate) leave() {
	if g != nil {
		g.token <- struct{}{}
	}
}

// takeTurn returns the permission of the item just received; only between enter and leave. One channel per worker is
// enough: the turn that used the same channel before has been passed on, or its worker could not be here, and turns
// are passed on in order.
func (g *gate) takeTurn() turn {
	if g == nil || g.turns == nil {
		return turn{}
	}
	mine := g.next
	g.next = (g.next + 1) % len(g.turns)
	return turn{mine: g.turns[mine], next: g.turns[g.next]}
}

// turn is an item's permission to be handed on, which it gets from the item before it. The zero turn is always there.
type turn struct {
	mine <-chan struct{} // nil once received
	next chan<- struct{}
}

// await returns when every earlier item has been handed on.
func (t *turn) await(ctx context.Context) error {
	if t.mine == nil {
		return nil
	}
	if err := await(ctx, t.mine); err != nil {
		return err
	}
	t.mine = nil
	return nil
}

// pass lets the next item be handed on.
func (t *turn) pass() {
	if t.next != nil {
		t.next <- struct{}{}
	}
	*t = turn{}
}

// await receives from c unless ctx ends first.
func await(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
