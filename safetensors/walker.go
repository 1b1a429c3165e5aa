package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep JSON may nest, the outermost object included. skip keeps one bit a level, so it cannot be more than 64.
const maxDepth = 64

// maxExtraFields is how many unknown fields one object may have. It keeps the check for duplicates among them free of allocation.
const maxExtraFields = 16

// walker steps through a JSON text. It knows tokens and nothing of what they mean, it allocates only for errors, and each of its steps
// leaves pos behind what it read. It is stricter than JSON: see integer.
type walker struct {
	text []byte
	pos  int
	base int64 // offset of text[0] in the file, for errors
}

// token is a JSON string: the raw bytes between the quotes, already checked.
type token struct {
	raw     []byte
	pos     int  // where raw begins in the text
	size    int  // bytes after decoding
	escaped bool // raw holds escapes
	plain   bool // raw is printable ASCII and DEL, without escapes
}

// fail makes the error for the text at pos.
func (w *walker) fail(rule error, pos int, expected, found string) *FormatError {
	return &FormatError{Offset: w.base + int64(pos), Err: rule, Expected: expected, Found: found}
}

// unexpected is fail for the byte at pos.
func (w *walker) unexpected(rule error, pos int, expected string) *FormatError {
	return w.fail(rule, pos, expected, w.found(pos))
}

// found describes what stands at pos, in a form that is short and safe to print.
func (w *walker) found(pos int) string {
	const most = 24
	if pos >= len(w.text) {
		return "end of text"
	}
	rest := w.text[pos:]
	if len(rest) > most {
		return quote(rest[:most]) + "..."
	}
	return quote(rest)
}

// peek skips white space and returns the next byte, or 0 at the end (a real NUL is no token either).
func (w *walker) peek() byte {
	for w.pos < len(w.text) {
		switch c := w.text[w.pos]; c {
		case ' ', '\t', '\n', '\r':
			w.pos++
		default:
			return c
		}
	}
	return 0
}

// want skips white space and consumes c.
func (w *walker) want(c byte) error {
	if w.peek() != c {
		return w.unexpected(ErrSyntax, w.pos, quote([]byte{c}))
	}
	w.pos++
	return nil
}

// open consumes the bracket that begins an object or an array. Anything else is a value of the wrong type, if it is a value.
func (w *walker) open(bracket byte, what string) error {
	if w.peek() != bracket {
		return w.unexpected(w.typeRule(), w.pos, what)
	}
	w.pos++
	return nil
}

// typeRule tells a value of the wrong type from text that is no value.
func (w *walker) typeRule() error {
	switch c := w.peek(); c {
	case '{', '[', '"', '-', 't', 'f', 'n':
		return ErrWrongType
	default:
		if c-'0' <= 9 {
			return ErrWrongType
		}
		return ErrSyntax
	}
}

// first reports whether the object or array that was just opened has a member; an empty one is closed.
func (w *walker) first(closing byte) bool {
	if w.peek() != closing {
		return true
	}
	w.pos++
	return false
}

// more consumes the comma before another member, or the closing bracket.
func (w *walker) more(closing byte) (bool, error) {
	switch w.peek() {
	case ',':
		w.pos++
		return true, nil
	case closing:
		w.pos++
		return false, nil
	default:
		return false, w.unexpected(ErrSyntax, w.pos, `"," or `+quote([]byte{closing}))
	}
}

// key consumes a member's key and the colon.
func (w *walker) key() (token, error) {
	if w.peek() != '"' {
		return token{}, w.unexpected(ErrSyntax, w.pos, "a key")
	}
	t, err := w.scan()
	if err != nil {
		return token{}, err
	}
	return t, w.want(':')
}

// str consumes a string value.
func (w *walker) str(what string) (token, error) {
	if w.peek() != '"' {
		return token{}, w.unexpected(w.typeRule(), w.pos, what)
	}
	return w.scan()
}

// integer consumes a plain decimal integer of at most math.MaxInt64: no sign, fraction, exponent or leading zero.
func (w *walker) integer(what string) (int64, error) {
	c := w.peek()
	if c-'0' > 9 {
		if c == '-' || c == '+' {
			return 0, w.unexpected(ErrNumber, w.pos, what)
		}
		return 0, w.unexpected(w.typeRule(), w.pos, what)
	}
	start, v := w.pos, uint64(0)
	for ; w.pos < len(w.text); w.pos++ {
		d := uint64(w.text[w.pos] - '0')
		if d > 9 {
			break
		}
		if v > (math.MaxInt64-d)/10 {
			return 0, w.unexpected(ErrOverflow, start, "a number up to 9223372036854775807")
		}
		v = v*10 + d
	}
	if c == '0' && w.pos-start > 1 {
		return 0, w.unexpected(ErrNumber, start, what)
	}
	if w.pos < len(w.text) {
		switch w.text[w.pos] {
		case '.', 'e', 'E':
			return 0, w.unexpected(ErrNumber, start, what)
		}
	}
	return int64(v), nil
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// scan consumes the string whose quote stands at pos. Eight bytes at a time are tested for one that needs a look: a quote, a backslash,
// a control character or anything that is not ASCII.
func (w *walker) scan() (token, error) {
	text, i := w.text, w.pos+1
	t := token{pos: i, plain: true}
	shrink := 0 // what decoding takes off
	for {
		for i+8 <= len(text) {
			v := binary.LittleEndian.Uint64(text[i:])
			quote, slash := v^(ones*'"'), v^(ones*'\\')
			// The borrow of a subtraction can mark bytes above a true hit only, so the lowest mark is exact.
			m := (v | (v-ones*0x20)&^v | (quote-ones)&^quote | (slash-ones)&^slash) & highs
			if m != 0 {
				i += bits.TrailingZeros64(m) / 8
				break
			}
			i += 8
		}
		if i >= len(text) {
			return token{}, w.fail(ErrSyntax, i, "the end of a string", "end of text")
		}
		switch c := text[i]; {
		case c == '"':
			t.raw, w.pos = text[t.pos:i], i+1
			t.size = len(t.raw) - shrink
			return t, nil
		case c == '\\':
			n, size, err := w.escape(i)
			if err != nil {
				return token{}, err
			}
			t.escaped, t.plain = true, false
			shrink += n - size
			i += n
		case c < 0x20:
			return token{}, w.unexpected(ErrSyntax, i, "no control character in a string")
		case c < utf8.RuneSelf:
			i++ // reached only within the last seven bytes of the text
		default:
			r, n := utf8.DecodeRune(text[i:])
			if r == utf8.RuneError && n == 1 {
				return token{}, w.unexpected(ErrUTF8, i, "valid UTF-8")
			}
			t.plain = false
			i += n
		}
	}
}

// escape checks the escape at i; n is its length in the text, size the length of what it stands for.
func (w *walker) escape(i int) (n, size int, err error) {
	if i+1 >= len(w.text) {
		return 0, 0, w.fail(ErrSyntax, i, "an escape", "end of text")
	}
	switch w.text[i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, 1, nil
	case 'u':
	default:
		return 0, 0, w.unexpected(ErrSyntax, i, "an escape")
	}
	r, ok := hex4(w.text[i+2:])
	if !ok {
		return 0, 0, w.unexpected(ErrSyntax, i, "an escape with four hexadecimal digits")
	}
	if !utf16.IsSurrogate(r) {
		return 6, utf8.RuneLen(r), nil
	}
	if rest := w.text[i+6:]; len(rest) >= 6 && rest[0] == '\\' && rest[1] == 'u' {
		low, ok := hex4(rest[2:])
		if ok && utf16.DecodeRune(r, low) != utf8.RuneError {
			return 12, utf8.UTFMax, nil
		}
	}
	return 0, 0, w.unexpected(ErrSurrogate, i, "a pair of surrogates")
}

// hex4 reads four hexadecimal digits.
func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c-'0' <= 9:
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// decode appends what raw, the checked inside of a string, stands for.
func decode(dst, raw []byte) []byte {
	for len(raw) > 0 {
		dst, raw = decodeOne(dst, raw)
	}
	return dst
}

// decodeOne is decode for the first byte or escape of raw.
func decodeOne(dst, raw []byte) (_, rest []byte) {
	if raw[0] != '\\' {
		return append(dst, raw[0]), raw[1:]
	}
	c := raw[1]
	switch c {
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		r, _ := hex4(raw[2:])
		raw = raw[6:]
		if utf16.IsSurrogate(r) {
			low, _ := hex4(raw[2:])
			r, raw = utf16.DecodeRune(r, low), raw[6:]
		}
		return utf8.AppendRune(dst, r), raw
	}
	return append(dst, c), raw[2:]
}

// bytes is what t stands for: a part of the text, or decoded into scratch.
func (t token) bytes(scratch []byte) []byte {
	if t.escaped {
		return decode(scratch[:0], t.raw)
	}
	return t.raw
}

// writeTo writes what t stands for.
func (t token) writeTo(b *strings.Builder) {
	if !t.escaped {
		b.Write(t.raw)
		return
	}
	var buf [utf8.UTFMax]byte
	for raw := t.raw; len(raw) > 0; {
		var piece []byte
		piece, raw = decodeOne(buf[:0], raw)
		b.Write(piece)
	}
}

// is reports whether t stands for s.
func (t token) is(s string) bool {
	if t.size != len(s) {
		return false
	}
	var scratch [32]byte // longer than every s it is asked for
	return string(t.bytes(scratch[:])) == s
}

// skip consumes any value that stands inside depth open brackets. It checks the grammar, allocates nothing and does not recurse.
func (w *walker) skip(depth int) error {
	var objects uint64 // bit d is set when the bracket at depth d+1 is a brace
	outer := depth
	for {
		opened, err := w.element(&objects, &depth)
		if err != nil {
			return err
		}
		for !opened {
			if depth == outer {
				return nil
			}
			closing := byte(']')
			if objects>>(depth-1)&1 != 0 {
				closing = '}'
			}
			more, err := w.more(closing)
			if err != nil {
				return err
			}
			if more {
				break
			}
			depth--
		}
		if depth > outer && objects>>(depth-1)&1 != 0 {
			if _, err := w.key(); err != nil {
				return err
			}
		}
	}
}

// element consumes one scalar, or an opening bracket; opened tells that members follow.
func (w *walker) element(objects *uint64, depth *int) (opened bool, err error) {
	c := w.peek()
	if c != '{' && c != '[' {
		return false, w.scalar()
	}
	if *depth == maxDepth {
		return false, w.fail(ErrDepth, w.pos, fmt.Sprintf("at most %d levels", maxDepth), fmt.Sprintf("level %d", maxDepth+1))
	}
	w.pos++
	if !w.first(c + 2) { // in ASCII the closing bracket is two after the opening one, for both kinds
		return false, nil
	}
	if bit := uint64(1) << *depth; c == '{' {
		*objects |= bit
	} else {
		*objects &^= bit
	}
	*depth++
	return true, nil
}

// scalar consumes a string, a number or a literal, by the grammar of JSON.
func (w *walker) scalar() error {
	switch c := w.peek(); {
	case c == '"':
		_, err := w.scan()
		return err
	case c == '-' || c-'0' <= 9:
		return w.number()
	case c == 't':
		return w.literal("true")
	case c == 'f':
		return w.literal("false")
	case c == 'n':
		return w.literal("null")
	default:
		return w.unexpected(ErrSyntax, w.pos, "a value")
	}
}

func (w *walker) literal(s string) error {
	if end := w.pos + len(s); end > len(w.text) || string(w.text[w.pos:end]) != s {
		return w.unexpected(ErrSyntax, w.pos, s)
	}
	w.pos += len(s)
	return nil
}

// number consumes any JSON number; only skipped values may be more than integers.
func (w *walker) number() error {
	start := w.pos
	if w.at('-') {
		w.pos++
	}
	leading := w.at('0')
	n := w.digits()
	ok := n == 1 || n > 1 && !leading
	if w.at('.') {
		w.pos++
		ok = ok && w.digits() > 0
	}
	if w.at('e') || w.at('E') {
		w.pos++
		if w.at('+') || w.at('-') {
			w.pos++
		}
		ok = ok && w.digits() > 0
	}
	if !ok {
		return w.unexpected(ErrSyntax, start, "a number")
	}
	return nil
}

// at reports whether c stands at pos.
func (w *walker) at(c byte) bool { return w.pos < len(w.text) && w.text[w.pos] == c }

// digits consumes digits and returns how many there were.
func (w *walker) digits() int {
	start := w.pos
	for w.pos < len(w.text) && w.text[w.pos]-'0' <= 9 {
		w.pos++
	}
	return w.pos - start
}

// extras remembers the unknown fields of one object, to find duplicates among them.
type extras struct {
	keys [maxExtraFields]token
	n    int
}

// field takes the key of an unknown field and skips its value, which stands inside depth brackets.
func (e *extras) field(w *walker, key token, depth int) error {
	for _, k := range e.keys[:e.n] {
		if sameToken(k, key) {
			return w.fail(ErrDuplicateField, key.pos, "", quote(key.raw))
		}
	}
	if e.n == maxExtraFields {
		return w.fail(ErrTooManyFields, key.pos, fmt.Sprintf("at most %d", maxExtraFields), quote(key.raw))
	}
	e.keys[e.n] = key
	e.n++
	return w.skip(depth)
}

// sameToken compares what two tokens stand for. It decodes piece by piece, since a hostile key can be as long as the text.
func sameToken(a, b token) bool {
	if a.size != b.size {
		return false
	}
	if !a.escaped && !b.escaped {
		return string(a.raw) == string(b.raw)
	}
	var bufA, bufB [utf8.UTFMax]byte
	var headA, headB []byte // decoded and not yet compared
	for left := a.size; left > 0; left-- {
		if len(headA) == 0 {
			headA, a.raw = decodeOne(bufA[:0], a.raw)
		}
		if len(headB) == 0 {
			headB, b.raw = decodeOne(bufB[:0], b.raw)
		}
		if headA[0] != headB[0] {
			return false
		}
		headA, headB = headA[1:], headB[1:]
	}
	return true
}
