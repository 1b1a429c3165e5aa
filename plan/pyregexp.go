package plan

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
)

const (
	mostPatternText = 4096    // bytes of one pattern
	mostPatterns    = 8 << 20 // bytes that all patterns of a config take; two thousand usual ones take 4 MB
)

// patterns compiles the patterns of one config. A repetition or a class of a few bytes compiles to kilobytes, and every name is matched with
// every pattern: so it is bounded what all of them take.
type patterns struct{ bytes int64 }

// full reports that there were too many, or too large ones.
func (p *patterns) full() bool { return p.bytes > mostPatterns }

func (p *patterns) compile(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > mostPatternText {
		return nil, fmt.Errorf("it has %d bytes, more than %d", len(pattern), mostPatternText)
	}
	re, err := pyRegexp(pattern)
	if err != nil {
		return nil, err
	}
	if p.bytes += patternBytes(re); p.full() {
		return nil, fmt.Errorf("with it the patterns of this config take more than %d bytes of memory", mostPatterns)
	}
	return re, nil
}

// patternBytes is about what a pattern takes: its steps, and the ranges of its classes.
func patternBytes(re *regexp.Regexp) (n int64) {
	const step, char = 40, 4
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil { // it was compiled: it cannot be
		return mostPatterns + 1
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return mostPatterns + 1
	}
	for i := range prog.Inst {
		n += step + char*int64(len(prog.Inst[i].Rune))
	}
	return n
}

// pyRegexp compiles a pattern of Python's re for matching from the start of a name, as re.match does. The two syntaxes agree in nearly
// everything; what Go would take for something else is translated, or refused by name.
func pyRegexp(pattern string) (*regexp.Regexp, error) {
	t := pyTranslator{in: pattern}
	if err := t.all(); err != nil {
		return nil, err
	}
	if _, err := regexp.Compile(t.out.String()); err != nil { // by itself: parentheses must not pair with those that follow
		return nil, err
	}
	return regexp.Compile("^(?:" + t.out.String() + ")")
}

// pyTranslator turns a pattern of Python's into one of Go's.
type pyTranslator struct {
	in  string
	at  int
	out strings.Builder
}

// pyWord and pySpace are the insides of Python's classes for text, which know all of Unicode.
const (
	pyWord  = `\p{L}\p{N}_`
	pySpace = `\t-\r\x1c-\x1f\x{85}\p{Z} `
)

func (t *pyTranslator) all() error {
	for t.at < len(t.in) {
		var err error
		switch c := t.in[t.at]; c {
		case '\\':
			err = t.escape(false)
		case '[':
			err = t.class()
		case '{':
			err = t.braces()
		case '$': // before a newline at the very end, too
			t.at++
			t.out.WriteString(`(?:$|\n\z)`)
		case '(':
			err = t.group()
		case '*', '+', '?':
			err = t.quantifier()
		default:
			t.at++
			t.out.WriteByte(c)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rest is what was not yet translated.
func (t *pyTranslator) rest() string { return t.in[t.at:] }

// take copies n bytes.
func (t *pyTranslator) take(n int) {
	t.out.WriteString(t.in[t.at : t.at+n])
	t.at += n
}

// quantifier copies *, + and ?. With a + behind it is possessive, from Python 3.11 on.
func (t *pyTranslator) quantifier() error {
	t.take(1)
	return t.possessive()
}

func (t *pyTranslator) possessive() error {
	if strings.HasPrefix(t.rest(), "+") {
		return errors.New("possessive quantifiers are not supported")
	}
	if strings.HasPrefix(t.rest(), "?") {
		t.take(1)
	}
	return nil
}

var pyBraces = regexp.MustCompile(`^\{([0-9]*)(,?)([0-9]*)\}`)

// braces copies a repetition: {n}, {n,}, {,m} (from none on), {n,m}. Any other brace is itself.
func (t *pyTranslator) braces() error {
	m := pyBraces.FindStringSubmatch(t.rest())
	if m == nil || m[0] == "{}" {
		t.at++
		t.out.WriteString(`\{`)
		return nil
	}
	t.at += len(m[0])
	t.out.WriteString("{" + pyNumber(m[1], "0"))
	if m[2] != "" {
		t.out.WriteString("," + pyNumber(m[3], ""))
	}
	t.out.WriteString("}")
	return t.possessive()
}

// pyNumber is a number without leading zeros, which Go takes for text.
func pyNumber(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	if n := strings.TrimLeft(s, "0"); n != "" {
		return n
	}
	return "0"
}

// pyGroups are what may follow "(?" in Python and not in Go.
var pyGroups = []struct{ prefix, name string }{
	{"(?=", "look-ahead"},
	{"(?!", "look-ahead"},
	{"(?<=", "look-behind"},
	{"(?<!", "look-behind"},
	{"(?P=", "back-references"},
	{"(?>", "atomic groups"},
	{"(?(", "conditional groups"},
	{"(?#", "comments"},
}

func (t *pyTranslator) group() error {
	for _, g := range pyGroups {
		if strings.HasPrefix(t.rest(), g.prefix) {
			return fmt.Errorf("%s are not supported", g.name)
		}
	}
	if !strings.HasPrefix(t.rest(), "(?") || strings.HasPrefix(t.rest(), "(?P<") {
		t.take(1)
		if t.at < len(t.in) && t.in[t.at] == '?' {
			t.take(1) // of (?P<, which is no quantifier
		}
		return nil
	}
	flags := strings.IndexAny(t.rest(), ":)")
	if flags < 0 {
		return errors.New("a group that does not end")
	}
	if strings.Trim(t.rest()[2:flags], "ims-") != "" {
		return fmt.Errorf("the group %s is not supported", t.rest()[:flags+1])
	}
	t.take(flags + 1)
	return nil
}

// class copies [...]. A [ in it is itself in Python, and the first ] too.
func (t *pyTranslator) class() error {
	t.take(1)
	if strings.HasPrefix(t.rest(), "^") {
		t.take(1)
	}
	for first := true; t.at < len(t.in); first = false {
		switch c := t.in[t.at]; {
		case c == '\\':
			if err := t.escape(true); err != nil {
				return err
			}
		case c == '[':
			t.at++
			t.out.WriteString(`\[`)
		case c == ']' && !first:
			t.take(1)
			return nil
		case c == ']':
			t.at++
			t.out.WriteString(`\]`)
		default:
			t.take(1)
		}
	}
	return errors.New("a class that does not end")
}

// escape translates what follows a backslash.
func (t *pyTranslator) escape(inClass bool) error {
	if t.at+1 == len(t.in) {
		return errors.New("a backslash at the end")
	}
	c := t.in[t.at+1]
	class := func(inside string) {
		t.at += 2
		if inClass {
			t.out.WriteString(inside)
		} else {
			t.out.WriteString("[" + inside + "]")
		}
	}
	switch {
	case c >= '0' && c <= '9':
		return t.digits(inClass)
	case c == 'd':
		class(`\p{Nd}`)
	case c == 'D':
		class(`\P{Nd}`)
	case c == 'w':
		class(pyWord)
	case c == 's':
		class(pySpace)
	case (c == 'W' || c == 'S') && inClass:
		return fmt.Errorf(`\%c inside of [ ] is not supported`, c)
	case c == 'W':
		class("^" + pyWord)
	case c == 'S':
		class("^" + pySpace)
	case c == 'Z':
		t.at += 2
		t.out.WriteString(`\z`)
	case c == 'b' && inClass:
		t.at += 2
		t.out.WriteString(`\x08`)
	case c == 'x' || c == 'u' || c == 'U':
		return t.hex(map[byte]int{'x': 2, 'u': 4, 'U': 8}[c])
	case strings.IndexByte("QEpPC", c) >= 0 || c == 'N':
		return fmt.Errorf(`\%c is not supported`, c)
	default:
		t.take(2)
	}
	return nil
}

// digits translates octal escapes: \0, \01, and three digits. Anything else is the number of a group.
func (t *pyTranslator) digits(inClass bool) error {
	s := t.rest()[1:]
	n := 0
	for n < len(s) && n < 3 && s[n] >= '0' && s[n] <= '7' {
		n++
	}
	if n == 0 || s[0] != '0' && n < 3 && !inClass {
		return errors.New("back-references are not supported")
	}
	v, err := strconv.ParseUint(s[:n], 8, 8)
	if err != nil {
		return fmt.Errorf(`\%s is no octal escape`, s[:n])
	}
	t.at += 1 + n
	fmt.Fprintf(&t.out, `\x{%X}`, v)
	return nil
}

// hex translates \xhh, \uhhhh and \Uhhhhhhhh.
func (t *pyTranslator) hex(n int) error {
	s := t.rest()
	if len(s) < 2+n {
		return fmt.Errorf(`\%c without %d digits`, s[1], n)
	}
	v, err := strconv.ParseUint(s[2:2+n], 16, 32)
	if err != nil {
		return fmt.Errorf(`\%c without %d digits`, s[1], n)
	}
	t.at += 2 + n
	fmt.Fprintf(&t.out, `\x{%X}`, v)
	return nil
}
