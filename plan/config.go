package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// ConfigReader takes values out of a quantisation config and collects what is wrong with them, so that a Format states its keys and
// nothing else.
type ConfigReader struct {
	o      *discover.Object
	where  string
	faults []stages.Fault
}

// NewConfigReader reads o, which where names in messages.
func NewConfigReader(o *discover.Object, where string) *ConfigReader {
	return &ConfigReader{o: o, where: where}
}

// Faults are those found so far.
func (r *ConfigReader) Faults() []stages.Fault { return r.faults }

// Has reports whether a key is there and not null.
func (r *ConfigReader) Has(key string) bool {
	_, ok := r.o.Value(key)
	return ok
}

func value[T any](r *ConfigReader, otherwise T, get func(...string) (T, bool, *stages.Fault), keys []string) T {
	v, ok, f := get(keys...)
	if f != nil {
		r.faults = append(r.faults, *f)
	}
	if !ok || f != nil {
		return otherwise
	}
	return v
}

// Int is the value of the first of the keys, or otherwise.
func (r *ConfigReader) Int(otherwise int64, keys ...string) int64 {
	return value(r, otherwise, r.o.Int, keys)
}

// Bool is the value of the first of the keys, or otherwise.
func (r *ConfigReader) Bool(otherwise bool, keys ...string) bool {
	return value(r, otherwise, r.o.Bool, keys)
}

// Text is the value of the first of the keys, or otherwise.
func (r *ConfigReader) Text(otherwise string, keys ...string) string {
	return value(r, otherwise, r.o.Text, keys)
}

// object is a nested object; false when it is absent or at fault.
func (r *ConfigReader) object(key string) (*discover.Object, bool) {
	o, ok, f := r.o.Object(key)
	if f != nil {
		r.faults = append(r.faults, *f)
	}
	return o, ok && f == nil
}

// only refuses every key that is none of those known and says something.
func (r *ConfigReader) only(known []string) {
	for _, m := range r.o.Members() {
		if !slices.Contains(known, m.Key) && r.Has(m.Key) {
			r.add(stages.CodeUnsupported, fmt.Sprintf("%q is not known, so nobody can tell what it changes", m.Key),
				"one of "+strings.Join(known, ", "), m.Key, "")
		}
	}
}

// Need reports that one of the keys must be there.
func (r *ConfigReader) Need(keys ...string) {
	if !slices.ContainsFunc(keys, r.Has) {
		r.add(stages.CodeConfig, fmt.Sprintf("%q is missing", keys[0]), "", "", "")
	}
}

// Unknown reports a value that means nothing.
func (r *ConfigReader) Unknown(key string, found any, expected string) {
	r.add(stages.CodeConfig, fmt.Sprintf("%q has an unknown value", key), expected, fmt.Sprint(found), "")
}

// Unsupported reports a value that is understood and not processed by this version.
func (r *ConfigReader) Unsupported(key string, found any, supported string) {
	r.add(stages.CodeUnsupported, fmt.Sprintf("%s %v is not supported yet, supported are %s", key, found, supported), "", "", "")
}

func (r *ConfigReader) add(code stages.Code, problem, expected, found, advice string) {
	r.faults = append(r.faults, stages.Fault{
		Code: code, File: r.where, Problem: problem, Expected: expected, Found: found, Advice: cmp.Or(advice, generalAdvice[code]),
	})
}
