package synth

import (
	"maps"
	"slices"

	"github.com/coldload/coldload/safetensors"
)

// awq adds the tensors of a module of version gemm: random codes and zero points.
func (l *lister) awq(base string, n, k int, bias bool) {
	group := l.o.Group
	if group < 0 {
		group = k
	}
	rows, cols, groups := int64(k), int64(n), int64(k/group)
	first := len(l.specs)
	l.add(base+".scales", safetensors.F16, []int64{groups, cols}, func(_ safetensors.DType, seed uint64) Fill { return f16Scales(seed) })
	if bias {
		l.add(base+".bias", safetensors.F16, []int64{cols}, Random)
	}
	l.add(base+".qweight", safetensors.I32, []int64{rows, cols / 8}, Random)
	l.add(base+".qzeros", safetensors.I32, []int64{groups, cols / 8}, Random)
	for i := first; i < len(l.specs); i++ {
		l.specs[i].quantised = true
	}
}

// awqConfig has the keys that AutoAWQ writes.
func (l *lister) awqConfig() map[string]any {
	return map[string]any{
		"bits":                   l.o.Bits,
		"group_size":             l.o.Group,
		"modules_to_not_convert": slices.Sorted(maps.Keys(l.dense)),
		"quant_method":           "awq",
		"version":                "gemm",
		"zero_point":             true,
	}
}
