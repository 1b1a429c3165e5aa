package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// awq recognises the checkpoints of AutoAWQ, GPTQModel and llm-awq: 4-bit codes with zero points, in one of three ways to lie.
//
//	gemm       qweight I32 [K, N/8]    scales [G, N]    qzeros I32 [G, N/8]       bias [N], optional
//	gemv       qweight I32 [N, K/8]    scales [N, 8Z]   qzeros I32 [N, Z]
//	gemv_fast  qweight I16 [N/4, K]    scales [8Z, N]   qzeros [8Z, N], -scale*zero
//
// G is the number of groups, and Z how many words their zero points take, filled up: see awqZeroWords.
type awq struct{}

// The parts of an AWQ Module.
const (
	awqQweight = iota
	awqScales
	awqQzeros
	awqBias
)

// The versions: how a module lies.
const (
	awqGemm     = "gemm"
	awqGemv     = "gemv"
	awqGemvFast = "gemv_fast"
)

func (awq) Name() string { return "awq" }

// awqReader is AWQ set up for one checkpoint.
type awqReader struct {
	version string
	group   int64 // -1: one group over all of K
	where   string
}

func (*awqReader) Parts() []string { return []string{"qweight", "scales", "qzeros", "bias"} }

// awqSpec is what the Modules of one Group must have in common.
type awqSpec struct {
	version string
	group   int64
	scales  stages.DType
	bias    stages.DType // Invalid for none
}

// CodeBits and GroupSize make it Quantised.
func (s awqSpec) CodeBits() int  { return 4 }
func (s awqSpec) GroupSize() int { return int(s.group) }

// span is the number of input features that share a scale.
func (s awqSpec) span(m *Module) int64 {
	if s.group == -1 {
		return m.K
	}
	return s.group
}

// Differs names the first thing in which another Spec is not this one. What the config says is one thing for the checkpoint.
func (s awqSpec) Differs(other Spec) (what, expected, found string) {
	t, ok := other.(awqSpec)
	switch {
	case !ok:
		return "format", s.String(), fmt.Sprint(other)
	case s.scales != t.scales:
		return "dtype of the scales", s.scales.String(), t.scales.String()
	}
	return "bias", biasOf(s.bias), biasOf(t.bias)
}

func (s awqSpec) String() string {
	t := fmt.Sprintf("awq %s 4 bits, group %d, %s scales", s.version, s.group, s.scales)
	if s.bias != safetensors.Invalid {
		t += ", " + s.bias.String() + " bias"
	}
	return t
}

// The keys of AWQ that say how weights are stored, and those of its writers (AutoAWQ and transformers; what others share is in config.go) that are
// about finding the codes and about kernels.
var (
	awqKeys = []string{
		"bits", "w_bit", "group_size", "q_group_size", "zero_point", "desc_act", "pack_dtype", "version", "checkpoint_format", "format", "backend",
		"quant_method", "method", "dynamic", "modules_to_not_convert", "data_type",
	}
	awqOverKeys = slices.Concat(gptqModelKeys, autoRoundKeys, []string{
		"sym", "do_fuse", "fuse_max_seq_len", "modules_to_fuse", "exllama_config", "scale_search_chunked_activations", "ignore",
		"model_name_or_path", "model_file_base_name", "duo_scaling", "apply_clip", "export_compatible",
	})
)

// Open interprets the config of one checkpoint. Which modules are quantised is seen by their tensors, and modules_to_not_convert must say the same.
func (awq) Open(q *discover.QuantConfig) (Reader, []stages.Fault) {
	c := NewConfigReader(q.Object, q.Where)
	r := &awqReader{where: q.Where}
	c.only(awqKeys, awqOverKeys...)
	c.ofIntegers()
	c.Need("bits", "w_bit")
	c.Need("group_size", "q_group_size")
	if bits := c.Int(4, "bits", "w_bit"); bits != 4 {
		c.Unsupported("bits", bits, "4")
	}
	r.group = c.Int(-1, "group_size", "q_group_size")
	if r.group != -1 && (r.group <= 0 || r.group > mostGroup) {
		c.Unknown("group_size", r.group, fmt.Sprintf("-1 or a positive number up to %d", mostGroup))
	}
	if !c.Bool(true, "zero_point") {
		c.Unsupported("zero_point", false, "true")
	}
	if c.Bool(false, "desc_act") {
		c.Unsupported("desc_act", true, "false")
	}
	if pack := c.Text("int32", "pack_dtype"); strings.TrimPrefix(pack, "torch.") != "int32" {
		c.Unknown("pack_dtype", pack, "int32")
	}
	r.version = awqVersion(c)
	if (r.version == awqGemv || r.version == awqGemvFast) && r.group > 0 && awqZeroMultiple(r.group) == 0 {
		c.Unknown("group_size", r.group, "32, 64, a multiple of 128 or -1 with version "+r.version)
	}
	awqDynamic(c, q)
	// AutoAWQ leaves out every module whose name has an entry in it.
	return without(r, c.where, readParts(c, true, "modules_to_not_convert")...), c.Faults()
}

// awqVersion is how the modules lie, by any of the keys that tools use for it.
func awqVersion(c *ConfigReader) string {
	version := ""
	for _, key := range []string{"version", "checkpoint_format", "format"} {
		if !c.Has(key) {
			continue
		}
		v := strings.ReplaceAll(strings.ToLower(c.Text("", key)), "-", "_")
		switch v {
		case awqGemm, awqGemv, awqGemvFast:
		case "marlin", "llm_awq", "exllama":
			c.Unsupported(key, v, "gemm, gemv and gemv_fast")
		default:
			c.Unknown(key, v, "gemm, gemv or gemv_fast")
		}
		if version != "" && v != version {
			c.Unknown(key, v, version+", as another key of this config says")
		}
		version = v
	}
	if backend := strings.ToLower(c.Text("autoawq", "backend")); backend == "llm-awq" {
		c.Unsupported("backend", backend, "autoawq and gptqmodel")
	}
	if version == "" {
		return awqGemm
	}
	return version
}

// awqDynamic refuses overrides: GPTQModel writes them for other methods. Entries that exclude modules change nothing.
func awqDynamic(c *ConfigReader, q *discover.QuantConfig) {
	if !c.Has("dynamic") {
		return
	}
	dynamic, ok, f := q.Object.Object("dynamic")
	if f != nil || !ok {
		c.Unknown("dynamic", "no object", "an object")
		return
	}
	for _, m := range dynamic.Members() {
		if !strings.HasPrefix(m.Key, "-:") {
			c.Unsupported("dynamic", strconv.Quote(m.Key), "patterns that exclude (-:)")
		}
	}
}

// awqZeroMultiple is of how many words the zero points of a row are a multiple in version gemv; 0 when it has no such groups.
func awqZeroMultiple(group int64) int64 {
	switch {
	case group%128 == 0:
		return 1
	case group == 64:
		return 2
	case group == 32:
		return 4
	}
	return 0
}

// awqZeroWords is Z: the words of groups zero points, filled up.
func awqZeroWords(groups, group int64) int64 {
	by := awqZeroMultiple(group)
	words := (groups + 7) / 8
	return (words + by - 1) / by * by
}

func (r *awqReader) Module(m *Module, c *Checks) bool {
	for suffix, what := range map[string]string{".weight": "a quantised and a dense weight", ".g_idx": "a g_idx, which AWQ has not"} {
		if _, ok := c.Catalog.Lookup(m.Base + suffix); ok {
			c.ModuleFault(m, stages.CodeMismatch, "has "+what, ".qweight alone", "both", "the config does not belong to these weights")
			return false
		}
	}
	if !r.members(m, c) || !r.shapes(m, c) {
		return false
	}
	spec := awqSpec{version: r.version, group: r.group, scales: c.Catalog.DType(int(m.Tensors[awqScales]))}
	if m.Has(awqBias) {
		spec.bias = c.Catalog.DType(int(m.Tensors[awqBias]))
	}
	m.Spec = spec
	return true
}

// members checks that the tensors are there and have dtypes that can be read.
func (r *awqReader) members(m *Module, c *Checks) bool {
	ok := true
	for _, part := range []int{awqScales, awqQzeros} {
		if !m.Has(part) {
			name := r.Parts()[part]
			c.Fault(m.Tensors[awqQweight], stages.CodeMember, "is there, but ."+name+" of its module is missing", m.Base+"."+name, "",
				"the checkpoint is incomplete: get it again")
			ok = false
		}
	}
	if !ok {
		return false
	}
	floats := []stages.DType{safetensors.F16, safetensors.BF16, safetensors.F32}
	want := map[int][]stages.DType{awqQweight: {safetensors.I32}, awqScales: floats, awqQzeros: {safetensors.I32}, awqBias: floats}
	if r.version == awqGemvFast {
		want[awqQweight] = []stages.DType{safetensors.I16}
		want[awqQzeros] = []stages.DType{c.Catalog.DType(int(m.Tensors[awqScales]))}
	}
	for part, t := range m.Tensors {
		if t != none && !slices.Contains(want[part], c.Catalog.DType(int(t))) {
			c.Fault(t, stages.CodeShape, "has the wrong dtype for version "+r.version, listDTypes(want[part]), c.Catalog.DType(int(t)).String(), "")
			ok = false
		}
	}
	return ok
}

func listDTypes(list []stages.DType) string {
	var names []string
	for _, d := range list {
		names = append(names, d.String())
	}
	return strings.Join(names, ", ")
}

// shapes finds K and N by the codes, and checks all shapes against them.
func (r *awqReader) shapes(m *Module, c *Checks) bool {
	q := m.Tensors[awqQweight]
	rows, cols, ok := shape2(c.Catalog, int(q))
	if !ok || rows == 0 || cols == 0 || rows > 1<<40 || cols > 1<<40 {
		c.Fault(q, stages.CodeShape, "has an impossible shape", "a matrix", formatShape(shapeOf(c.Catalog, int(q))), "")
		return false
	}
	switch r.version {
	case awqGemm:
		m.K, m.N = rows, 8*cols
	case awqGemv:
		m.K, m.N = 8*cols, rows
	case awqGemvFast:
		m.K, m.N = cols, 4*rows
	}
	if r.packedAlongK(m, c, rows, cols) || !r.whole(m, c) {
		return false
	}
	for part, want := range r.want(m) {
		t := m.Tensors[part]
		if t == none {
			continue
		}
		if s := shapeOf(c.Catalog, int(t)); formatShape(s) != formatShape(want) {
			c.Fault(t, stages.CodeShape, fmt.Sprintf("has the wrong shape for %d input and %d output features in groups of %d", m.K, m.N, r.group),
				formatShape(want), formatShape(s), "correct `group_size` or `version` in "+r.where+", or get the checkpoint again")
			ok = false
		}
	}
	return ok
}

// packedAlongK reports codes that lie as GPTQ's: as many columns as the scales have.
func (r *awqReader) packedAlongK(m *Module, c *Checks, rows, cols int64) bool {
	if _, sCols, ok := shape2(c.Catalog, int(m.Tensors[awqScales])); r.version != awqGemm || !ok || sCols != cols {
		return false
	}
	c.Fault(m.Tensors[awqQweight], stages.CodeShape, "is packed along the input features: this is GPTQ, the config says awq",
		fmt.Sprintf("%d columns", (cols+7)/8), formatShape([]int64{rows, cols}), "give the checkpoint the config that its quantiser wrote")
	return true
}

// whole checks that K is whole groups, and whole blocks of 32 input features, or 64 where codes are interleaved in those.
func (r *awqReader) whole(m *Module, c *Checks) bool {
	by := int64(32)
	if r.version == awqGemvFast {
		by = 64
	}
	var problem string
	switch {
	case r.group > 0 && m.K%r.group != 0:
		problem = fmt.Sprintf("%d input features are no whole groups of %d", m.K, r.group)
	case m.K%by != 0:
		problem = fmt.Sprintf("%d input features are not a multiple of %d", m.K, by)
	case r.version != awqGemm && awqZeroMultiple(r.span(m)) == 0:
		problem = fmt.Sprintf("version %s has groups of 32, 64 or multiples of 128, not %d", r.version, r.span(m))
	default:
		return true
	}
	c.Fault(m.Tensors[awqQweight], stages.CodeShape, problem, "", "", "")
	return false
}

func (r *awqReader) span(m *Module) int64 { return awqSpec{group: r.group}.span(m) }

// want is the shape of every part but the codes.
func (r *awqReader) want(m *Module) map[int][]int64 {
	groups := m.K / r.span(m)
	want := map[int][]int64{awqScales: {groups, m.N}, awqQzeros: {groups, m.N / 8}, awqBias: {m.N}}
	switch r.version {
	case awqGemv:
		words := awqZeroWords(groups, r.span(m))
		want[awqScales], want[awqQzeros] = []int64{m.N, 8 * words}, []int64{m.N, words}
	case awqGemvFast:
		words := awqZeroWords(groups, r.span(m))
		want[awqScales], want[awqQzeros] = []int64{8 * words, m.N}, []int64{8 * words, m.N}
	}
	return want
}
