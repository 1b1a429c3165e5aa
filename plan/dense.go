package plan

import (
	"fmt"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// dense is the Reader of layers that are not quantised: a weight [N, K] and maybe a bias [N].
type dense struct{}

const (
	denseWeight = iota
	denseBias
)

// denseSpec is what dense members must have in common.
type denseSpec struct {
	dtype stages.DType
	bias  stages.DType // Invalid for none
	// turned says that the weight is input-major.
	turned bool
}

func (s denseSpec) String() string {
	if s.bias != safetensors.Invalid {
		return "dense " + s.dtype.String() + " with " + s.bias.String() + " bias"
	}
	return "dense " + s.dtype.String()
}

// Differs names the first thing in which another Spec is not this one.
func (s denseSpec) Differs(other Spec) (what, expected, found string) {
	t, ok := other.(denseSpec)
	switch {
	case !ok:
		return "format", s.String(), fmt.Sprint(other)
	case s.dtype != t.dtype:
		return "dtype", s.dtype.String(), t.dtype.String()
	}
	return "bias", biasOf(s.bias), biasOf(t.bias)
}

func (dense) Parts() []string { return []string{"weight", "bias"} }

func (dense) Module(m *Module, c *Checks) bool { return denseModule(m, c, false) }

// denseModule checks a Module whose weight is [N, K], or [K, N] when it is turned.
func denseModule(m *Module, c *Checks, turned bool) bool {
	w := m.Tensors[denseWeight]
	n, k, ok := shape2(c.Catalog, int(w))
	if !ok {
		c.Fault(w, stages.CodeShape, "is the weight of a linear layer", "[out_features, in_features]",
			formatShape(shapeOf(c.Catalog, int(w))), "")
		return false
	}
	if turned {
		n, k = k, n
	}
	m.K, m.N = k, n
	spec := denseSpec{dtype: c.Catalog.DType(int(w)), turned: turned}
	b := m.Tensors[denseBias]
	if b != none {
		spec.bias = c.Catalog.DType(int(b))
	}
	m.Spec = spec
	if b == none {
		return true
	}
	if s := shapeOf(c.Catalog, int(b)); len(s) != 1 || s[0] != n {
		c.Fault(b, stages.CodeShape, "is the bias of "+m.Base, formatShape([]int64{n}), formatShape(s), "")
		return false
	}
	return true
}

// Compile joins the members along dim 0 and stacks the experts.
func (dense) Compile(g *Group, b *Builder) string {
	m := g.First()
	if spec, ok := m.Spec.(denseSpec); ok && spec.turned {
		b.transposed("weight", denseWeight, b.DType())
	} else {
		b.Segments("weight", denseWeight, []int64{g.N(), m.K}, b.DType())
	}
	if m.Has(denseBias) {
		b.Segments("bias", denseBias, []int64{g.N()}, b.DType())
	}
	return ""
}
