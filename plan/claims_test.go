package plan

import (
	"slices"
	"testing"
)

// TestFormatsShareNothing: exactly one Format reads the configs of a method, and within a method exactly one of its own formats has a name, so
// that the order in which they are asked does not matter.
func TestFormatsShareNothing(t *testing.T) {
	methods := map[string]string{"modelopt_fp4": "modelopt", "modelopt_mixed": "modelopt"}
	for _, f := range formats {
		methods[f.Name()] = f.Name()
	}
	if len(methods) != len(formats)+2 {
		t.Errorf("formats share a name: %q", methods)
	}
	for method, want := range methods {
		_, q := gptqQuant(t, map[string]any{"quant_method": method})
		var found []string
		for _, f := range formats {
			if opens(f, q) {
				found = append(found, f.Name())
			}
		}
		if !slices.Equal(found, []string{want}) {
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
	for _, f := range fp8ExpertFormats {
		names = append(names, f.dtype)
	}
	all := len(names)
	slices.Sort(names)
	if names = slices.Compact(names); len(names) != all {
		t.Errorf("%d of %d names are taken twice: %q", all-len(names), all, names)
	}
}
