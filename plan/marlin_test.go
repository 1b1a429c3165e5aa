package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/coldload/coldload/stages"
)

// TestMarlinExtents has the worked examples of the rule, and what decides it: the least area, then the least sum, then the first.
func TestMarlinExtents(t *testing.T) {
	for _, x := range []struct {
		n, k, group int64
		want        string // "" when nothing is padded
	}{
		{2112, 7168, 128, ""},
		{1000, 4096, 128, "[1024 4096]"},
		{192, 1376, 32, "[192 1408]"},
		{256, 1344, 32, ""},
		{64, 64, 64, "[64 128]"},  // as [128 64]: the first
		{64, 192, 64, "[64 256]"}, // [128 192] is larger
		{8, 32, 32, "[64 128]"},
		{72, 64, 64, "[128 64]"},
		{40, 96, 96, "[64 128]"}, // one group over all
		{64, 320, 64, "[64 384]"},
		{192, 320, -1, "[192 384]"},
		{192, 64, -1, "[256 64]"},
	} {
		var c gptqTensors
		gptqModule(&c, gptqO, x.k, x.n, 4, x.group, "")
		p, err := gptqPlan(t, c, map[string]any{"bits": 4, "group_size": x.group}, Options{Strict: true})
		if err != nil {
			t.Errorf("%v: %v", x, err)
			continue
		}
		n, k, padded := x.n, x.k, p.Summary.Padded
		switch {
		case x.want == "" && len(padded) > 0, x.want != "" && (len(padded) != 1 || padded[0].Groups != 1 || padded[0].Shares != 1):
			t.Errorf("%v: padded %v", x, padded)
			continue
		case x.want != "":
			n, k = padded[0].Padded[0], padded[0].Padded[1]
			if got := fmt.Sprint(padded[0].Padded); got != x.want || padded[0].Unpadded != [2]int64{x.n, x.k} {
				t.Errorf("%v: padded to %s", x, got)
			}
		}
		for i := range p.Outputs {
			o := &p.Outputs[i]
			if strings.HasSuffix(o.Name, ".qweight") && fmt.Sprint(o.Shape) != fmt.Sprint([]int64{k / 16, 2 * n}) || (o.Padding != nil) != (x.want != "") {
				t.Errorf("%v: %s has shape %v, padding %v", x, o.Name, o.Shape, o.Padding)
			}
		}
	}
}

// TestMarlinExpertExtents: gate and up are filled up each by itself, hidden features never, and both kinds of modules to the same.
func TestMarlinExpertExtents(t *testing.T) {
	for _, x := range []struct {
		hidden, inter, group int64
		gateUp, down         string // padded extents
		kept                 string
	}{
		{128, 96, 32, "[256 128]", "[128 128]", ""},
		{256, 128, 128, "", "", ""},
		{256, 64, 64, "", "", ""},
		{256, 40, -1, "[128 256]", "[256 64]", ""},
		{192, 96, 32, "", "", "hidden size 192 of the experts is not a multiple of 128"},
	} {
		var c gptqTensors
		for e := range 2 {
			base := fmt.Sprintf("model.layers.0.mlp.experts.%d.", e)
			gptqModule(&c, base+"gate_proj", x.hidden, x.inter, 4, x.group, "")
			gptqModule(&c, base+"up_proj", x.hidden, x.inter, 4, x.group, "")
			gptqModule(&c, base+"down_proj", x.inter, x.hidden, 4, x.group, "")
		}
		p, err := gptqPlan(t, c, map[string]any{"bits": 4, "group_size": x.group}, Options{})
		if err != nil {
			t.Errorf("%v: %v", x, err)
			continue
		}
		got := map[string]string{}
		for _, s := range p.Summary.Padded {
			got[s.Example[strings.LastIndexByte(s.Example, '.')+1:]] = fmt.Sprint(s.Padded)
			if want := map[bool]int{true: 2, false: 1}[strings.HasSuffix(s.Example, "gate_up_proj")]; s.Shares != want {
				t.Errorf("%v: %s in %d shares, want %d", x, s.Example, s.Shares, want)
			}
		}
		kept := fmt.Sprint(p.Summary.Kept)
		if got["gate_up_proj"] != x.gateUp || got["down_proj"] != x.down || (x.kept == "") != (len(p.Summary.Kept) == 0) || !strings.Contains(kept, x.kept) {
			t.Errorf("%v: padded %v, kept %s", x, got, kept)
		}
	}
}

// TestNoPadIsStrict: with padding off, --strict refuses what it would have filled up, and says that it is off.
func TestNoPadIsStrict(t *testing.T) {
	var c gptqTensors
	gptqModule(&c, gptqO, 128, 96, 4, 64, "")
	changes := map[string]any{"bits": 4, "group_size": 64}
	if _, err := gptqPlan(t, c, changes, Options{NoPad: true, Strict: true}); !gptqFault(err, stages.CodeLayout, "96 output features are not a multiple of 64 (padding is off)") {
		t.Errorf("error %v", err)
	}
	if _, err := gptqPlan(t, c, changes, Options{Strict: true}); err != nil {
		t.Error(err)
	}
}
