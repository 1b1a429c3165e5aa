package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/coldload/coldload/pipeline"
)

// upper is a Stage.
type upper struct{}

func (upper) Name() string { return "upper" }
func (upper) Process(_ context.Context, s string) (string, error) {
	if s == "" {
		return "", errors.New("nothing to shout")
	}
	return strings.ToUpper(s), nil
}

// words is an Expander.
type words struct{}

func (words) Name() string { return "words" }
func (words) Expand(_ context.Context, line string, emit func(string) error) error {
	for w := range strings.FieldsSeq(line) {
		if err := emit(w); err != nil {
			return err
		}
	}
	return nil
}

// page is a Sink that prints what it got when all of it has come.
type page struct{ lines []string }

func (*page) Name() string { return "page" }
func (p *page) Write(_ context.Context, s string) error {
	p.lines = append(p.lines, s)
	return nil
}

func (p *page) Commit(context.Context) error {
	fmt.Println(strings.Join(p.lines, " "))
	return nil
}
func (*page) Close() error { return nil }

func lines(all ...string) func(func(string, error) bool) {
	return func(yield func(string, error) bool) {
		for _, l := range all {
			if !yield(l, nil) {
				return
			}
		}
	}
}

// A source, an expander, a stage with four workers that keeps the order, and a sink.
func Example() {
	run := pipeline.New(context.Background(), pipeline.Config{})
	text := pipeline.From(run, "lines", lines("the quick brown", "fox"))
	word := pipeline.FlatMap(text, words{})
	loud := pipeline.Map(word, upper{}, pipeline.Workers(4), pipeline.Ordered())
	pipeline.Into(loud, &page{})
	if err := run.Wait(); err != nil {
		fmt.Println(err)
	}
	for _, s := range run.Stats() {
		fmt.Println(s.Name, s.Items)
	}
	// Output:
	// THE QUICK BROWN FOX
	// lines 2
	// words 4
	// upper 4
	// page 4
}

// At most ten bytes of text are in flight; a longer line is refused by name and size.
func ExampleCharge() {
	run := pipeline.New(context.Background(), pipeline.Config{})
	size := func(s string) int64 { return int64(len(s)) }
	text := pipeline.From(run, "lines", lines("short", "rather too long"), pipeline.Charge(pipeline.NewBudget(10), size))
	pipeline.Into(text, &page{})
	err := run.Wait()
	fmt.Println(err)
	fmt.Println(errors.Is(err, pipeline.ErrOverBudget))
	// Output:
	// lines: #1: item larger than its whole budget: it needs 15 of 10 bytes
	// true
}

// The first error ends the run; it says where, and nothing is committed.
func ExampleStageError() {
	run := pipeline.New(context.Background(), pipeline.Config{})
	text := pipeline.From(run, "lines", lines("fine", "", "never seen"))
	pipeline.Into(pipeline.Map(text, upper{}), &page{})
	err := run.Wait()
	if failed, ok := errors.AsType[*pipeline.StageError](err); ok {
		fmt.Println(failed.Stage, failed.Item, failed.Err)
	}
	// Output:
	// upper #1 nothing to shout
}
