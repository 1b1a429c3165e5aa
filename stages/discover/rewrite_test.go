package discover

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/stages"
)

// TestRewriteConfig compares with texts written by hand, white space apart.
func TestRewriteConfig(t *testing.T) {
	marlin := ConfigChange{Requantise: true, Layout: stages.LayoutMarlin}
	dequant := ConfigChange{Requantise: true}
	bf16 := ConfigChange{DType: "bfloat16"}
	with := func(c ConfigChange, source, dtype string) ConfigChange {
		c.Source, c.DType = jsontext.Value(source), dtype
		return c
	}
	for _, c := range []struct {
		name      string
		change    ConfigChange
		text      string
		want      string
		unchanged bool
	}{
		{name: "nothing asked", text: `{"a":1, "quantization_config":{"bits":4}}`, unchanged: true},
		{name: "nothing there", change: dequant, text: ` { } `, unchanged: true},
		{
			name: "in its place", change: marlin, text: `{"z":1.50,"quantization_config":{"bits":4,"quant_method":"gptq"},"a":"\u00e9"}`,
			want: `{"z":1.50,"quantization_config":{"quant_method":"coldload","coldload_layout":"marlin","source":{"bits":4,"quant_method":"gptq"}},"a":"\u00e9"}`,
		},
		{name: "taken out", change: dequant, text: `{"a":1,"quantization_config":{"bits":4},"b":2}`, want: `{"a":1,"b":2}`},
		{
			name: "two places in one object", change: marlin, text: `{"compression_config":{"x":1},"quantization_config":{"y":2}}`,
			want: `{"quantization_config":{"quant_method":"coldload","coldload_layout":"marlin","source":{"x":1}}}`,
		},
		{
			name: "in the section of the language model", change: marlin,
			text: `{"text_config":{"quantization_config":{"bits":4}},"vision_config":{"quantization":{"keep":"it"}}}`,
			want: `{"text_config":{"quantization_config":{"quant_method":"coldload","coldload_layout":"marlin","source":{"bits":4}}},"vision_config":{"quantization":{"keep":"it"}}}`,
		},
		{
			name: "a null is nothing", change: with(marlin, `{"bits":8}`, ""), text: `{"quantization_config":null}`,
			want: `{"quantization_config":{"quant_method":"coldload","coldload_layout":"marlin","source":{"bits":8}}}`,
		},
		{
			name: "described elsewhere", change: with(marlin, `{"bits":8}`, ""), text: `{"a":1}`,
			want: `{"a":1,"quantization_config":{"quant_method":"coldload","coldload_layout":"marlin","source":{"bits":8}}}`,
		},
		{name: "described elsewhere and taken out", change: with(dequant, `{"bits":8}`, ""), text: `{"a":1}`, unchanged: true},
		{name: "dtype", change: bf16, text: `{"torch_dtype":"float16","x":{"dtype":"torch.float32"},"y":{"dtype":"int8"}}`, want: `{"torch_dtype":"bfloat16","x":{"dtype":"bfloat16"},"y":{"dtype":"int8"}}`},
		{name: "dtype as it is", change: bf16, text: `{"dtype" : "bfloat16"}`, unchanged: true},
		{name: "no dtype", change: bf16, text: `{}`, want: `{"torch_dtype":"bfloat16"}`},
		{name: "dtype of a quantisation is not ours", change: bf16, text: `{"dtype":"bfloat16","quantization_config":{"dtype":"float16"}}`, unchanged: true},
		{name: "both", change: with(dequant, "", "float16"), text: `{"dtype":"bfloat16","quantization_config":{}}`, want: `{"dtype":"float16"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := RewriteConfig([]byte(c.text), c.change)
			if err != nil {
				t.Fatal(err)
			}
			if c.unchanged {
				if string(got) != c.text {
					t.Errorf("%s, want it as it was", got)
				}
				return
			}
			if got[len(got)-1] != '\n' {
				t.Error("the text does not end with a line end")
			}
			v := jsontext.Value(got)
			if err := v.Compact(jsontext.PreserveRawStrings(true)); err != nil || string(v) != c.want {
				t.Errorf("%v\ngot  %s\nwant %s", err, v, c.want)
			}
		})
	}
	for _, bad := range []string{``, `[`, `{"a":`, `{"a":1,"a":2}`, `{"quantization_config":{]}`} {
		if got, err := RewriteConfig([]byte(bad), marlin); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
}

// FuzzRewriteConfig: what is rewritten once is JSON, and does not change again.
func FuzzRewriteConfig(f *testing.F) {
	f.Add([]byte(`{"quantization_config":{"bits":4},"text_config":{"dtype":"float16"}}`), true, "marlin", "bfloat16")
	f.Add([]byte(`{}`), false, "", "float32")
	f.Add([]byte("0000}"), true, "marlin", "") // no object, though it ends like one
	f.Add([]byte(`{"a":0,"a":1}`), true, "", "float16")
	f.Fuzz(func(t *testing.T, text []byte, requantise bool, layout, dtype string) {
		c := ConfigChange{Requantise: requantise, DType: dtype}
		if layout != "" {
			c.Layout = stages.LayoutMarlin
		}
		once, err := RewriteConfig(text, c)
		if err != nil {
			return
		}
		if v := jsontext.Value(once); !v.IsValid() || v.Kind() != '{' {
			t.Errorf("%q became %q, which is no JSON object", text, once)
		}
		c.Requantise = false // it nests
		if twice, err := RewriteConfig(once, c); err != nil || dtype == "bfloat16" && string(twice) != string(once) {
			t.Errorf("%q, then %q (%v)", once, twice, err)
		}
	})
}
