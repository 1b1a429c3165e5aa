package coldload

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// notFoundError is a refusal because a module is not there.
type notFoundError struct{ error }

func (e notFoundError) Unwrap() []error { return []error{e.error, ErrNotFound} }

// notFound puts ErrNotFound into the chain of a refusal that says so.
func notFound(err error) error {
	refused, ok := errors.AsType[*stages.RefusedError](err)
	if ok && slices.ContainsFunc(refused.Faults, func(f stages.Fault) bool { return f.Code == stages.CodeNotFound }) {
		return notFoundError{err}
	}
	return err
}

// GPTQ is the raw members of one GPTQ module. Tensors that it has not have no name.
type GPTQ struct {
	K, N                                int64 // input and output features
	Bits, Group                         int   // Group is -1 for one group over all of K
	Symmetric, ActOrder                 bool
	Format                              string // checkpoint_format: gptq, gptq_v2 or gptq_p
	QWeight, Scales, QZeros, GIdx, Bias stages.Tensor
}

// GPTQ describes one module, such as "model.layers.0.mlp.down_proj", as the file has it; Bytes and ReadInto give its members' bytes.
func (ck *Checkpoint) GPTQ(base string) (GPTQ, error) {
	if err := ck.alive(); err != nil {
		return GPTQ{}, err
	}
	var m plan.GPTQInfo
	err := recovered(func() (err error) {
		m, err = plan.GPTQModule(ck.planInput(), ck.options(ck.opt).planOptions(nil), base)
		return err
	})
	if err != nil {
		return GPTQ{}, notFound(err)
	}
	g := GPTQ{K: m.K, N: m.N, Bits: m.Bits, Group: m.Group, Symmetric: m.Symmetric, ActOrder: m.ActOrder, Format: m.Format}
	for to, i := range map[*stages.Tensor]int{
		&g.QWeight: m.QWeight, &g.Scales: m.Scales, &g.QZeros: m.QZeros, &g.GIdx: m.GIdx, &g.Bias: m.Bias,
	} {
		if i >= 0 {
			*to = ck.catalog.Tensor(i)
		}
	}
	return g, nil
}

// Module is one module in its final form, in host memory that the caller closes.
type Module struct {
	Name string
	K, N int64 // input and output features; of one expert when there are several
	// Padding says for how many its Outputs are made, when these are more; nil when they are not.
	Padding *stages.Padding
	Experts int // 0 when it is not stacked
	// Bits and Group are those of the codes in the checkpoint: 0 when the weights are dense there (or were packed dequantised), and Group -1
	// for one group over all of K.
	Bits, Group int
	Result      *Result
	*host.Memory

	outputs  map[string]string // names by suffix
	suffixes []string
}

// Part is the Output with the given suffix: "qweight", "scales", "weight", "bias", "g_idx", ... A rule that renames does not change it.
func (m *Module) Part(suffix string) (host.Tensor, bool) {
	name, ok := m.outputs[suffix]
	if !ok {
		return host.Tensor{}, false
	}
	return m.Lookup(name)
}

// Parts lists the suffixes of the Outputs.
func (m *Module) Parts() []string { return slices.Clone(m.suffixes) }

// Linear loads one linear layer in the layout of opt: the first that exists of the quantised module of that name, its quantised members,
// the dense module, its dense members. For a fused name (qkv_proj, gate_up_proj) members are joined, whatever opt.NoFuse says; Include and
// Exclude choose nothing here. A packed folder gives the module that it has under that name. Inside a stage or a sink of another load call it
// with the context given there: see [Checkpoint.LoadAll].
func (ck *Checkpoint) Linear(ctx context.Context, name string, opt Options) (*Module, error) {
	opt = ck.options(opt)
	var q plan.Request
	err := recovered(func() error {
		q = plan.Linear(ck.planInput(), opt.planOptions(nil), name)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ck.module(ctx, q, opt)
}

// Experts loads members of the n experts of a layer, stacked: pattern is the name of one expert with {e} for its number, as in
// "model.layers.0.mlp.experts.{e}", members the modules to join in each, as in {"gate_proj", "up_proj"} or {"down_proj"}.
func (ck *Checkpoint) Experts(ctx context.Context, pattern string, members []string, n int, opt Options) (*Module, error) {
	q, err := plan.Experts(pattern, members, n)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	return ck.module(ctx, q, ck.options(opt))
}

// module plans and runs one module at once.
func (ck *Checkpoint) module(ctx context.Context, q plan.Request, opt Options) (*Module, error) {
	if err := ck.alive(); err != nil {
		return nil, err
	}
	if err := opt.validate(); err != nil {
		return nil, err
	}
	sink := host.New(host.Options{})
	res := newResult()
	res.sink = sinkName(sink)
	var m *Module
	err := opt.operation(ctx, "load", ck.found.Path, res, func(ctx context.Context) (err error) {
		m, err = ck.runModule(ctx, q, sink, opt, res)
		return err
	})
	return m, err
}

func (ck *Checkpoint) runModule(ctx context.Context, q plan.Request, sink *host.Sink, opt Options, res *Result) (*Module, error) {
	v, err := ck.verification(opt, false)
	if err != nil {
		return nil, errors.Join(err, closeSink(sink))
	}
	p, err := res.planned(ctx, opt, func() (p *plan.Plan, err error) {
		err = recovered(func() (err error) {
			p, err = plan.MakeModule(ck.planInput(), opt.planOptions(nil), q)
			return err
		})
		return p, err
	})
	if err != nil {
		return nil, errors.Join(notFound(err), closeSink(sink))
	}
	if err := ck.begin(ctx, p, sink, opt, v, res); err != nil {
		if mem := sink.Memory(); mem != nil { // it failed when all was done
			err = errors.Join(err, mem.Close())
		}
		return nil, err
	}
	s := p.Single
	return &Module{
		Name: q.Name, K: s.K, N: s.N, Padding: s.Padding, Experts: s.Experts, Bits: s.Bits, Group: s.Group, Result: res, Memory: sink.Memory(),
		outputs: s.Outputs, suffixes: s.Suffixes,
	}, nil
}
