package plan

import "testing"

// TestFormatsShareMethods: several formats have one method in their configs. Exactly one of them reads each config, so that the order in
// which they are asked does not matter; what none reads is refused by the method's name.
func TestFormatsShareMethods(t *testing.T) {
	ct := func(format any) map[string]any {
		return map[string]any{"quant_method": "compressed-tensors", "format": format}
	}
	for _, x := range []struct {
		config map[string]any
		want   string
	}{
		{ct("pack-quantized"), "compressed-tensors pack-quantized"},
		{ct("mixed-precision"), "compressed-tensors pack-quantized"}, // which looks at the formats of the groups
		{ct("int-quantized"), "compressed-tensors pack-quantized"},   // which refuses it by name
		{ct("nvfp4-pack-quantized"), "compressed-tensors pack-quantized"},
		{ct(nil), "compressed-tensors pack-quantized"},
		{ct(8), "compressed-tensors pack-quantized"},
		{ct("float-quantized"), "compressed-tensors float-quantized"},
		{ct("naive-quantized"), "compressed-tensors float-quantized"},
		{map[string]any{"quant_method": "fp8"}, "fp8"},
		{map[string]any{"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt FP8"},
		{map[string]any{"quant_method": "modelopt", "quant_algo": "NVFP4"}, ""},
		{map[string]any{"quant_method": "gptq"}, "gptq"},
		{map[string]any{"quant_method": "awq"}, "awq"},
	} {
		_, q := gptqQuant(t, x.config)
		var found []string
		for _, f := range formats {
			if opens(f, q) {
				found = append(found, f.Name())
			}
		}
		if x.want == "" && len(found) > 0 || x.want != "" && (len(found) != 1 || found[0] != x.want) {
			t.Errorf("%v: read by %q, want %q alone", x.config, found, x.want)
		}
	}
}
