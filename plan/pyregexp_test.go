package plan

import (
	"fmt"
	"strings"
	"testing"
)

// TestPyRegexp: what Python's re.match says, for every construct that Go's regexp takes for something else.
func TestPyRegexp(t *testing.T) {
	for _, x := range []struct {
		pattern string
		matches string // names, by blanks
		others  string
	}{
		{`model\.layers\.0\.`, "model.layers.0.x", "xmodel.layers.0. model-layers.0."},
		{`a{,2}b`, "b ab aab", "aaab a{,2}b"},
		{`a{,}b`, "b aaab", "a{,}b"},
		{`(ab){,1}c`, "c abc", "ababc"},
		{`[x{,2}]y`, "xy {y ,y 2y }y", "y xxy"},
		{`a\{,2}b`, "a{,2}b", "ab"},
		{`a{2}b`, "aab", "ab"},
		{`a{02}b`, "aab", "a{02}b"},
		{`a{1,02}?b`, "ab aab", "aaab"},
		{`a{}b`, "a{}b", "ab"},
		{`a{b`, "a{b", "ab"},
		{`a{1,x}b`, "a{1,x}b", "ab"},
		{`.*o_proj$`, "a.o_proj", "a.o_projx"},
		{`.*o_proj\Z`, "a.o_proj", "a.o_projx"},
		{`layers\.(?P<n>\d+)\.q`, "layers.12.q layers.\u0663.q", "layers..q layers.x.q"},
		{`[\d]+$`, "1\u0663", "1x"},
		{`\D+$`, "ab", "a1 a\u0663"},
		{`\w+$`, "a_1 \u00e9t\u00e9", "a.b"},
		{`\W$`, ". -", "a \u00e9"},
		{`[^\w]$`, ". -", "a \u00e9"},
		{`a\sb`, "a\u00a0b a\vb a\x1cb", "ab a.b"},
		{`a\Sb`, "a.b", "a\u00a0b"},
		{`[\s]b`, "\u00a0b", ".b"},
		{`[[:alpha:]]`, "a] :] [] h]", "b] a"},
		{`[]a]b`, "]b ab", "b"},
		{`[^]a]b`, "cb", "]b ab"},
		{`\141\0601`, "a01", "141"},
		{`\x61\u0062\U00000063`, "abc", "x61"},
		{`[\141]`, "a", "1"},
		{`(?i)ABC`, "abc ABC", "abd"},
		{`(?i:A)b`, "ab Ab", "aB"},
		{`(?:a|b)c`, "ac bc", "c"},
		{`a*?b+?c??$`, "aabb aabbc", "aabbcc"},
		{`a\-\_b`, "a-_b", "ab"},
		{`a|b`, "ax bx", "xa"},
		{`\bq\b`, "q q.x", "qq"},
	} {
		re, err := pyRegexp(x.pattern)
		if err != nil {
			t.Errorf("%s: %v", x.pattern, err)
			continue
		}
		for name := range strings.SplitSeq(x.matches, " ") {
			if !re.MatchString(name) {
				t.Errorf("%s does not match %q", x.pattern, name)
			}
		}
		for name := range strings.SplitSeq(x.others, " ") {
			if re.MatchString(name) {
				t.Errorf("%s matches %q", x.pattern, name)
			}
		}
	}
	for pattern, says := range map[string]string{
		`(?!x)`: "look-ahead", `(?=x)`: "look-ahead", `(?<!x)`: "look-behind", `(?<=x)`: "look-behind", `(a)\1`: "back-references",
		`(?P<n>a)(?P=n)`: "back-references", `(a)\12`: "back-references", `a++`: "possessive", `a*+`: "possessive", `a?+`: "possessive", `a{2}+`: "possessive",
		`(?>a)`: "atomic", `(a)?(?(1)b)`: "conditional", `(?#c)a`: "comments", `(?x)a b`: "(?x)", `(?U)a`: "(?U)", `(?<n>a)`: "(?<n>a)", `(?a)\w`: "(?a)",
		`[\W]`: `\W inside`, `[a\S]`: `\S inside`, `\Qa.b\E`: `\Q`, `\pL`: `\p`, `\N{DIGIT ONE}`: `\N`, `\400`: "octal", `\x1`: `\x`,
		`a)|(b`: "unexpected )", `[a`: "class", `a\`: "backslash", `**`: "repetition", `(?i`: "group", `{,3}`: "repetition",
	} {
		if _, err := pyRegexp(pattern); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: error %v, want %q", pattern, err, says)
		}
	}
}

// TestPatternsAreBounded: usual lists of patterns fit, and after the one that is too much nothing is compiled any more, and one Fault says so.
func TestPatternsAreBounded(t *testing.T) {
	var usual patterns
	for i := range 2000 {
		if _, err := usual.compile(fmt.Sprintf(`.*model\.layers\.%d\.mlp\.experts\.\d+\.(gate|up|down)_proj$`, i)); err != nil {
			t.Fatal(i, err)
		}
	}
	c := NewConfigReader(nil, "config.json")
	for range 1000 {
		if _, ok := c.pattern("dynamic", "+:x", `((x{1,30}){1,30}y|z)*`); ok && c.patterns.full() {
			t.Fatal("the pattern that was too much is used")
		}
	}
	if f := c.Faults(); len(f) != 1 || !strings.Contains(f[0].Problem, "bytes of memory") || c.patterns.bytes > mostPatterns+1<<20 {
		t.Errorf("%d bytes of patterns, faults %v", c.patterns.bytes, f)
	}
}
