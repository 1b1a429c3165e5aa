package cpu

import (
	"os"
	"strings"
	"testing"
)

func TestWithout(t *testing.T) {
	all := Features{AVX2: true, AVX512: true, AVX512VBMI: true}
	for names, want := range map[string]string{
		"": AVX512VBMI, AVX512VBMI: AVX512, AVX512: AVX2, AVX2: "generic", " avx512 ": AVX2, "avx512vbmi,avx2": "generic", "sse": AVX512VBMI,
	} {
		got := all.without(strings.Split(names, ",")...)
		if got.String() != want {
			t.Errorf("%q leaves %s, want %s", names, got, want)
		}
		if got.AVX512VBMI && !got.AVX512 || got.AVX512 && !got.AVX2 {
			t.Errorf("%q leaves a feature without what it builds on: %+v", names, got)
		}
	}
}

func TestDisableRestores(t *testing.T) {
	before := X86
	restore := Disable(AVX2)
	if (X86 != Features{}) {
		t.Errorf("left: %+v", X86)
	}
	restore()
	if X86 != before {
		t.Errorf("%+v became %+v", before, X86)
	}
}

// A masked run of the tests must not be a run without a mask because of a slip of the pen.
func TestEnvironment(t *testing.T) {
	env := os.Getenv(EnvDisable)
	t.Logf("%s=%q: %s", EnvDisable, env, X86)
	if env == "" {
		return
	}
	for name := range strings.SplitSeq(env, ",") {
		switch name {
		case AVX2, AVX512, AVX512VBMI:
		default:
			t.Errorf("%s names %q, which is no feature", EnvDisable, name)
		}
	}
	if X86 != detect().without(strings.Split(env, ",")...) {
		t.Errorf("%+v in spite of %s=%s", X86, EnvDisable, env)
	}
}
