package plan

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// TestAlike: what is remembered of one name is what the patterns say of another, whatever the numbers.
func TestAlike(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for pattern, keep := range map[string]int{
		`^(?:.*self_attn.*)`: 1, `^(?:.*mlp\.(gate|up|gate_up|down)_proj.*)`: 1, `^(?:model\.layers\.\d+\.mlp\.gate$)`: 2, `^(?:a\d\d?\.b.)`: 4,
		`^(?:a[0-9]*\d+[^.]+b)`: 3, `^(?:model\.layers\.(0|1)\.)`: 0, `^(?:[0-4]+)`: 0, `^(?:(\d\.)*a)`: 0, `^(?:a1)`: 0, `^(?:\d{2})`: 0, `^(?:a\b1?)`: 0,
		`^(?:(?i)SELF.*\w+)`: 2, ``: 1,
	} {
		re := regexp.MustCompile(pattern)
		a := newAlike([]*regexp.Regexp{re})
		if a.keep != keep {
			t.Errorf("%s: keeps %d digits, want %d", pattern, a.keep, keep)
		}
		parts := []string{"a", "b", ".", "1", "23", "456", "7890", "model.layers.", "self_attn", ".mlp.gate", "_proj", "down", "9"}
		for range 3000 {
			var b strings.Builder
			for range r.IntN(7) {
				b.WriteString(parts[r.IntN(len(parts))])
			}
			name := b.String()
			if got, want := a.match(name), re.MatchString(name); got != want {
				t.Fatalf("%s on %q: %v, want %v", pattern, name, got, want)
			}
		}
	}
}

func FuzzAlike(f *testing.F) {
	f.Add(`.*mlp\.(gate|up)_proj.*`, "model.layers.12.mlp.up_proj", "model.layers.7.mlp.up_proj")
	f.Add(`a\d+\.\d*b`, "a1.22b", "a333.b")
	f.Fuzz(func(t *testing.T, pattern, one, two string) {
		re, err := regexp.Compile("^(?:" + pattern + ")")
		if err != nil {
			return
		}
		a := newAlike([]*regexp.Regexp{re})
		for _, name := range []string{one, two, one} {
			if got, want := a.match(name), re.MatchString(name); got != want {
				t.Errorf("%s on %q: %v, want %v", pattern, name, got, want)
			}
		}
	})
}
