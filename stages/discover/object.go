package discover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/stages"
)

// Member is one name and value of a JSON object.
type Member struct {
	Key   string
	Value jsontext.Value // as written in the file, numbers exact
}

// Object is a JSON object of a config file: its members in the order of the file, and typed access to them. A null counts as absent.
//
// A getter takes a name and its synonyms, and gives the value of the first that is there. The Fault, of code config, says that a value
// has the wrong type or that two synonyms contradict each other.
type Object struct {
	file    string
	path    string // of the Object inside the file; empty for the whole file
	raw     jsontext.Value
	members []Member
}

// parseObject checks the whole text: duplicate names, invalid UTF-8 and trailing bytes are errors at any depth.
func parseObject(file string, data []byte) (*Object, error) {
	dec := jsontext.NewDecoder(bytes.NewBuffer(data))
	raw, err := dec.ReadValue()
	if err != nil {
		return nil, err
	}
	raw = raw.Clone()
	at := dec.InputOffset()
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, &jsontext.SyntacticError{ByteOffset: at, Err: errors.New("bytes after the end of the JSON text")}
	}
	o := &Object{file: file, raw: raw}
	if raw.Kind() != '{' {
		return nil, &jsontext.SyntacticError{Err: errors.New("the text is not an object")}
	}
	return o, o.split()
}

// split reads the members of raw, which is a valid object.
func (o *Object) split() error {
	dec := jsontext.NewDecoder(bytes.NewReader(o.raw), jsontext.AllowDuplicateNames(true)) // there are none: parseObject has seen to it
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	for dec.PeekKind() != '}' {
		key, err := dec.ReadToken()
		if err != nil {
			return err
		}
		name := key.String()
		value, err := dec.ReadValue()
		if err != nil {
			return err
		}
		// The decoder's own slice is not kept beyond the next read; the same bytes of raw are.
		end := int(dec.InputOffset())
		o.members = append(o.members, Member{Key: name, Value: o.raw[end-len(value) : end : end]})
	}
	return nil
}

// File is the name of the file that holds the Object.
func (o *Object) File() string { return o.file }

// Path is where the Object lies in its file: "text_config.quantization_config"; empty for the whole file.
func (o *Object) Path() string { return o.path }

// Raw is the Object's text as it stands in the file. It must not be changed.
func (o *Object) Raw() jsontext.Value { return o.raw }

// Members are the names and values in the order of the file, nulls included. They must not be changed.
func (o *Object) Members() []Member { return o.members }

// Value is the text of a member. ok is false when it is absent or null.
func (o *Object) Value(key string) (v jsontext.Value, ok bool) {
	i := slices.IndexFunc(o.members, func(m Member) bool { return m.Key == key })
	if i < 0 || o.members[i].Value.Kind() == 'n' {
		return nil, false
	}
	return o.members[i].Value, true
}

// at is the path of a member, for messages.
func (o *Object) at(key string) string {
	if o.path == "" {
		return key
	}
	return o.path + "." + key
}

// Wrong is the Fault for a member whose value is not what it must be. Formats use it for values that only they can judge.
func (o *Object) Wrong(key, expected string) *stages.Fault {
	found := "nothing"
	if v, ok := o.Value(key); ok {
		found = clip(v)
	}
	return &stages.Fault{
		Code: stages.CodeConfig, File: o.file, Problem: o.at(key) + " has a value that cannot be used",
		Expected: expected, Found: found, Advice: "correct the file, or download it again",
	}
}

// clip is the beginning of a value.
func clip(v jsontext.Value) string {
	const most = 80
	if len(v) <= most {
		return string(v)
	}
	return strings.ToValidUTF8(string(v[:most]), "") + "..."
}

// Int is a whole number.
func (o *Object) Int(keys ...string) (v int64, ok bool, f *stages.Fault) {
	return scalar[int64](o, "a whole number", keys)
}

// Bool is true or false.
func (o *Object) Bool(keys ...string) (v, ok bool, f *stages.Fault) {
	return scalar[bool](o, "true or false", keys)
}

// Text is a string.
func (o *Object) Text(keys ...string) (v string, ok bool, f *stages.Fault) {
	return scalar[string](o, "a string", keys)
}

// scalar is the value of the first key that is there; the others must agree with it.
func scalar[T comparable](o *Object, want string, keys []string) (first T, ok bool, f *stages.Fault) {
	var firstKey string
	for _, key := range keys {
		v, there := o.Value(key)
		if !there {
			continue
		}
		got, err := decode[T](v)
		switch {
		case err != nil:
			return first, false, o.Wrong(key, want)
		case !ok:
			first, firstKey, ok = got, key, true
		case got != first:
			var zero T
			return zero, false, o.contradiction(firstKey, key)
		}
	}
	return first, ok, nil
}

// contradiction is the Fault for two synonyms that differ.
func (o *Object) contradiction(a, b string) *stages.Fault {
	va, _ := o.Value(a)
	vb, _ := o.Value(b)
	return &stages.Fault{
		Code: stages.CodeConfig, File: o.file, Problem: fmt.Sprintf("%s and %s mean the same and differ", o.at(a), o.at(b)),
		Expected: "the same value", Found: clip(va) + " and " + clip(vb), Advice: "correct the one that is wrong",
	}
}

// decode turns a value into a Go value: strictly, so that 4.0, "4" or 1e1 is no number of bits.
func decode[T any](v jsontext.Value) (T, error) {
	var t T
	err := json.Unmarshal(v, &t)
	return t, err
}

// Strings is a list of strings.
func (o *Object) Strings(key string) (v []string, ok bool, f *stages.Fault) {
	return list[string](o, key, "a list of strings")
}

// Ints is a list of whole numbers.
func (o *Object) Ints(key string) (v []int64, ok bool, f *stages.Fault) {
	return list[int64](o, key, "a list of whole numbers")
}

func list[T any](o *Object, key, want string) (all []T, ok bool, f *stages.Fault) {
	v, ok := o.Value(key)
	if !ok {
		return nil, false, nil
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	if t, err := dec.ReadToken(); err != nil || t.Kind() != '[' {
		return nil, false, o.Wrong(key, want)
	}
	for dec.PeekKind() != ']' {
		item, err := dec.ReadValue()
		if err != nil || item.Kind() == 'n' { // a null would decode to a zero
			return nil, false, o.Wrong(key, want)
		}
		if len(all) == maxCount {
			return nil, false, o.Wrong(key, fmt.Sprintf("at most %d values", maxCount))
		}
		one, err := decode[T](item)
		if err != nil {
			return nil, false, o.Wrong(key, want)
		}
		all = append(all, one)
	}
	return all, true, nil
}

// Object is a nested object. Its Members keep the order of the file, which some keys (gptq's dynamic) give a meaning.
func (o *Object) Object(key string) (v *Object, ok bool, f *stages.Fault) {
	raw, ok := o.Value(key)
	if !ok {
		return nil, false, nil
	}
	v, f = o.Nested(Member{Key: key, Value: raw})
	return v, f == nil, f
}

// Nested is the Object that is the value of a member of o; a Fault for a member that has none. It is for those who go through Members, of which
// there can be one for every module of a model: Object looks for its key among all of them.
func (o *Object) Nested(m Member) (*Object, *stages.Fault) {
	v := &Object{file: o.file, path: o.at(m.Key), raw: m.Value}
	if m.Value.Kind() != '{' || v.split() != nil {
		return nil, o.Wrong(m.Key, "an object")
	}
	return v, nil
}
