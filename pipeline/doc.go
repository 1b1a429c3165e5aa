// Package pipeline runs chains of stages that are connected by channels: a source of items, stages that turn items
// into others with any number of workers, and a sink. It knows nothing of what the items are.
//
// A [Run] is wired with [From], [Map], [FlatMap] and [Into], then executed by [Run.Wait]:
//
//	run := pipeline.New(ctx, pipeline.Config{})
//	files := pipeline.From(run, "files", walk(run.Context()))
//	sums := pipeline.Map(files, hasher{}, pipeline.Workers(4), pipeline.Ordered())
//	pipeline.Into(sums, &report)
//	err := run.Wait()
//
// # Guarantees
//
//   - The first error, panic or Goexit of any source, stage or sink, or the end of the context given to [New], cancels
//     the run before anything is cleaned up; Wait returns that first cause. The source is asked for no further item
//     once it has been told.
//   - Wait returns after the last goroutine. Every wait inside the package ends with the run, so Wait returns as soon
//     as sources, stages and sinks do.
//   - An item has one owner at a time. The runtime releases each item that nobody else owns exactly once: after Write,
//     or wherever the failure left it.
//   - [Sink].Commit is called only when everything has succeeded, Close always, once, and after every stage has returned.
//   - With [Ordered] the results of a stage keep the order of its input, and no more than Workers items wait in it.
//   - With [Charge] the bytes in flight never exceed the [Budget]. Items are admitted in order and only there wait for
//     memory, so an ordered stage cannot deadlock on it. An item that can never fit is an error.
//   - A wrong wiring, such as a stream that nothing consumes, is an error of Wait before anything has run.
//
// # Telemetry
//
// [Run.Stats] says at any time how much each stage has done, and how long it was busy and waiting. With a
// TracerProvider, the Run also opens a span per stage, from its first item to its last, as a child of the span in the
// context given to New; a stage without items has none, and [SpanName] or [Config].SpanName may leave one out. The span has the attributes stage.name, stage.workers, items,
// bytes.in, bytes.out, time.busy, time.wait_in and time.wait_out (seconds, summed over the workers). Each Commit has a
// span with the same attributes, and with [ItemSpans] each item, with the attributes stage.name and those of
// [Config].ItemAttrs. The span of the stage that ended the run has the status Error and the attribute error.type, and
// so have those of an item of which [Config].ItemFault tells and of the stage that made it.
//
// With a MeterProvider, the Run records the counter io (By; by stage.name and direction, in or out), the histograms
// stage.duration and stage.wait (s, per item; by stage.name), and the gauges queue.length ({item}; by stage.name),
// memory.in_flight and memory.budget (By; by purpose, which [Purposes] names; else it is the name of the stage that
// charges). The names of
// attributes and metrics, but for error.type, begin with [Config].AttrPrefix.
package pipeline
