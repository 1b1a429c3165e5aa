package plan

import (
	"regexp"
	"regexp/syntax"
	"slices"
)

// alike are patterns of module names, and what they said of names that differ in their numbers alone: a checkpoint has a hundred thousand of those,
// and matching is slow.
type alike struct {
	patterns []*regexp.Regexp
	// keep is how many digits of a number the patterns can tell from more, and 0 when that is not known: then nothing is remembered.
	keep int
	said map[string]bool
	key  []byte
}

// newAlike finds out what the patterns can tell.
//
// Where every part of a pattern that takes a digit takes any, digits are interchangeable; and where n such parts take one each and the others any
// number of them, then of more than n digits in a row there is one that may be left out or repeated.
func newAlike(patterns []*regexp.Regexp) alike {
	a := alike{patterns: patterns, keep: 1, said: map[string]bool{}}
	for _, p := range patterns {
		tree, err := syntax.Parse(p.String(), syntax.Perl)
		if err != nil {
			return alike{patterns: patterns}
		}
		n, ok := digitParts(tree)
		if !ok {
			return alike{patterns: patterns}
		}
		a.keep = max(a.keep, n+1)
	}
	return a
}

// match reports whether one of the patterns matches.
func (a *alike) match(name string) bool {
	if len(a.patterns) == 0 {
		return false
	}
	if a.keep == 0 {
		return a.ask(name)
	}
	a.key = shortNumbers(a.key[:0], name, a.keep)
	said, ok := a.said[string(a.key)]
	if !ok {
		said = a.ask(name)
		a.said[string(a.key)] = said
	}
	return said
}

func (a *alike) ask(name string) bool {
	return slices.ContainsFunc(a.patterns, func(p *regexp.Regexp) bool { return p.MatchString(name) })
}

// shortNumbers appends a name with as many zeros, but no more than most, for the digits of each number.
func shortNumbers(dst []byte, name string, most int) []byte {
	run := 0
	for i := range len(name) {
		c := name[i]
		if c < '0' || c > '9' {
			run = 0
			dst = append(dst, c)
			continue
		}
		if run++; run <= most {
			dst = append(dst, '0')
		}
	}
	return dst
}

// digitParts counts the parts of a pattern that take one digit, whichever it is. ok is false when parts tell digits apart, or when their number is
// not fixed.
func digitParts(re *syntax.Regexp) (n int, ok bool) {
	switch re.Op { //nolint:exhaustive // no others are sure
	case syntax.OpEmptyMatch, syntax.OpBeginText, syntax.OpEndText, syntax.OpNoMatch:
		return 0, true
	case syntax.OpLiteral:
		return 0, !slices.ContainsFunc(re.Rune, func(r rune) bool { return r >= '0' && r <= '9' })
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, true
	case syntax.OpCharClass:
		return digitsOfClass(re.Rune)
	case syntax.OpStar:
		n, ok = digitParts(re.Sub[0])
		return 0, ok && (n == 0 || oneCharacter(re.Sub[0]))
	case syntax.OpPlus:
		n, ok = digitParts(re.Sub[0])
		return n, ok && (n == 0 || oneCharacter(re.Sub[0]))
	case syntax.OpCapture, syntax.OpQuest, syntax.OpConcat, syntax.OpAlternate:
		for _, sub := range re.Sub {
			m, ok := digitParts(sub)
			if !ok {
				return 0, false
			}
			n += m
		}
		return n, true
	}
	return 0, false
}

// oneCharacter reports whether a part of a pattern takes one character.
func oneCharacter(re *syntax.Regexp) bool {
	return re.Op == syntax.OpAnyChar || re.Op == syntax.OpAnyCharNotNL || re.Op == syntax.OpCharClass
}

// digitsOfClass is 1 for a class of characters that has all digits, and 0 for one that has none.
func digitsOfClass(ranges []rune) (n int, ok bool) {
	for i := 0; i+1 < len(ranges); i += 2 {
		lo, hi := max(ranges[i], '0'), min(ranges[i+1], '9')
		if hi >= lo {
			n += int(hi-lo) + 1
		}
	}
	return n / 10, n == 0 || n == 10
}
