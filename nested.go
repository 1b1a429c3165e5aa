package coldload

import (
	"context"

	"github.com/coldload/coldload/pipeline"
)

// chargedKey marks a context as that of a load which charges the budget.
type chargedKey struct{ budget *pipeline.Budget }

// charging is the context of a load that charges budget: what a stage or a sink of it is given.
func charging(ctx context.Context, budget *pipeline.Budget) context.Context {
	return context.WithValue(ctx, chargedKey{budget}, true)
}

// outside is the budget for a load under ctx: budget, or another of its size when ctx is that of a load that charges budget already. That one
// may hold all of it and wait for this load.
func outside(ctx context.Context, budget *pipeline.Budget) *pipeline.Budget {
	if ctx.Value(chargedKey{budget}) == nil {
		return budget
	}
	return pipeline.NewBudget(budget.Size())
}

// buffered is a source whose buffers are bounded, as sources/file's are.
type buffered interface{ Extend(bytes int64) }

// lend gives the source the buffers that a load needs which charges another budget than the Checkpoint's; the result takes them back.
func (ck *Checkpoint) lend(budget *pipeline.Budget) (back func()) {
	s, ok := ck.source.(buffered)
	if !ok || budget == ck.budget {
		return func() {}
	}
	s.Extend(budget.Size())
	return func() { s.Extend(-budget.Size()) }
}
