package cpu

import (
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

// A run of the tests without a feature must not be a run with it because of a slip of the pen.
func TestDisabledByTheLinker(t *testing.T) {
	t.Logf("disabled=%q: %s", disabled, X86)
	names, err := Parse(disabled)
	if err != nil {
		t.Fatal(err)
	}
	if X86 != detect().without(names...) {
		t.Errorf("%+v in spite of %q", X86, disabled)
	}
}

func TestParse(t *testing.T) {
	for list, want := range map[string]string{"": "", "avx2": "avx2", " avx512 , avx512vbmi,": "avx512 avx512vbmi"} {
		if got, err := Parse(list); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v", list, got, err)
		}
	}
	for _, list := range []string{"avx", "avx2;avx512", "AVX2", "generic"} {
		if got, err := Parse(list); err == nil {
			t.Errorf("%q: %q and no error", list, got)
		}
	}
}
