package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// formats are the quantisation methods that are processed. A new one adds its file and a line here.
var formats = []Format{gptq{}, awq{}, compressed{}, fp8{}, modelOpt{}, mxfp4{}, ggufFormat{}}

// MethodNone is the format of checkpoints that are not quantised.
const MethodNone = "none"

// supported lists what is processed, for messages.
func (c *compiler) supported() string {
	var names []string
	for _, f := range c.formats {
		if k, ok := f.(interface{ Kinds() []string }); ok {
			names = append(names, k.Kinds()...)
			continue
		}
		names = append(names, f.Name())
	}
	return strings.Join(append(names, "checkpoints without quantisation"), ", ")
}

// openFormat sets up the Readers for the method that the config names.
func (c *compiler) openFormat() {
	q := c.in.Quant
	c.method = MethodNone
	if q == nil {
		return
	}
	c.method = q.Method
	for _, f := range c.formats {
		if opens(f, q) {
			c.open(f, q)
			return
		}
	}
	if q.Method == MethodPacked {
		c.faults.add(packed.Unfinished(q.Where))
		return
	}
	fault := stages.Fault{
		Code: stages.CodeUnsupported, File: q.Where, Problem: fmt.Sprintf("unknown quantisation method %q", q.Method),
		Expected: "one of " + c.supported(), Found: q.Method,
	}
	c.faults.add(fault)
}

// open sets up the Readers of a Format.
func (c *compiler) open(f Format, q *discover.QuantConfig) {
	r, faults := f.Open(q)
	c.faults.add(faults...)
	if len(faults) > 0 {
		return
	}
	var readers []Reader
	if r != nil {
		readers = readersOf(r)
	}
	if len(readers) == 0 || slices.ContainsFunc(readers, func(r Reader) bool { return r == nil || len(r.Parts()) == 0 }) {
		c.faults.add(stages.Fault{
			Code: stages.CodeUnsupported, File: q.Where, Advice: formatAdvice,
			Problem: "format " + f.Name() + " opens to nothing: it returned no reader, or one without parts, and no fault",
		})
		return
	}
	if len(readers) > mostReaders {
		c.faults.add(stages.Fault{
			Code: stages.CodeUnsupported, File: q.Where, Problem: "has more kinds of modules than any checkpoint that is known",
			Expected: fmt.Sprintf("at most %d", mostReaders), Found: fmt.Sprint(len(readers)),
		})
		return
	}
	c.readers = readers
	if n, ok := f.(Namer); ok {
		family, notes := n.Naming()
		c.rules = rulesOf(family, true)
		c.plan.Notes = append(c.plan.Notes, notes...)
	}
}

// mostReaders bounds the Readers of a checkpoint, each of which is asked about every tensor.
const mostReaders = 256

// opens reports whether a Format reads the config: the one of its method's name, or what its Opens says, of which several share a method.
func opens(f Format, q *discover.QuantConfig) bool {
	if o, ok := f.(interface {
		Opens(q *discover.QuantConfig) bool
	}); ok {
		return o.Opens(q)
	}
	return f.Name() == q.Method
}

// findUnannounced reports tensors that only quantised checkpoints have and that no Module took: nothing says how they were quantised, or
// the config says something else. Nothing is reported when the config was at fault already.
func (c *compiler) findUnannounced() {
	if c.in.Quant != nil && len(c.readers) == 0 {
		return
	}
	found := map[string]int{}
	for i, o := range c.owner {
		method, ok := c.quantisedBy(i)
		if !ok || o != ownerNone {
			continue
		}
		if found[method]++; found[method] > 1 {
			continue
		}
		c.unannounced(i, method)
	}
	for method, n := range found {
		if n > 1 {
			c.note("%d tensors look quantised (%s)", n, method)
		}
	}
}

// unannounced reports a tensor that gives a method away which no file names.
func (c *compiler) unannounced(i int, method string) {
	if c.in.Quant != nil && method == c.method {
		_, part := cutLast(c.in.Catalog.Name(i))
		c.checks.Fault(int32(i), stages.CodeConfig, "is of none of the formats of "+method+" that "+c.in.Quant.Where+" names for its module", "", "."+part,
			"give the checkpoint the config that its quantiser wrote")
		return
	}
	if c.in.Quant != nil {
		c.checks.Fault(int32(i), stages.CodeConfig, "looks quantised in another way than "+c.in.Quant.Where+" says", c.method, method,
			"give the checkpoint the config that its quantiser wrote")
		return
	}
	expected, advice := "quantization_config in config.json, or quantize_config.json", "add the config file that the quantiser wrote"
	for _, f := range c.formats {
		if a, ok := f.(interface{ Announce() string }); ok && f.Name() == method {
			expected, advice = a.Announce(), "add that: some releases come without it"
		}
	}
	c.checks.Fault(int32(i), stages.CodeConfig, "looks quantised ("+method+"), but no file says how", expected, "", advice)
}

// quantisedBy tells which method a tensor gives away, by its name or by more than that.
func (c *compiler) quantisedBy(i int) (string, bool) {
	name := c.in.Catalog.Name(i)
	for _, f := range c.formats {
		if m, ok := f.(interface{ Marks(name string) bool }); ok && m.Marks(name) {
			return f.Name(), true
		}
		if m, ok := f.(interface{ MarksTensor(c Catalog, i int) bool }); ok && m.MarksTensor(c.in.Catalog, i) {
			return f.Name(), true
		}
	}
	return "", false
}

func (c *compiler) exists(name string) bool {
	_, ok := c.in.Catalog.Lookup(name)
	return ok
}

// formatShape prints dims as a header does: [32, 256].
func formatShape(dims []int64) string {
	b := append(make([]byte, 0, 64), '[')
	for i, d := range dims {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = strconv.AppendInt(b, d, 10)
	}
	return string(append(b, ']'))
}
