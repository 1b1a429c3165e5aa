package plan

import (
	"slices"
	"testing"
)

// TestFormatsShareNothing: exactly one Format reads the configs of a method, and within a method exactly one of its own formats has a name, so
// that the order in which they are asked does not matter.
func TestFormatsShareNothing(t *testing.T) {
	for _, method := range []string{"gptq", "awq", "fp8", "compressed-tensors", "modelopt"} {
		_, q := gptqQuant(t, map[string]any{"quant_method": method})
		var found []string
		for _, f := range formats {
			if opens(f, q) {
				found = append(found, f.Name())
			}
		}
		if !slices.Equal(found, []string{method}) {
			t.Errorf("%s: read by %q", method, found)
		}
	}
	var names []string
	for _, f := range compressedFormats {
		names = append(names, f.names...)
	}
	for _, a := range modelOptAlgorithms {
		names = append(names, a.name)
	}
	all := len(names)
	slices.Sort(names)
	if names = slices.Compact(names); len(names) != all {
		t.Errorf("%d of %d names are taken twice: %q", all-len(names), all, names)
	}
}
