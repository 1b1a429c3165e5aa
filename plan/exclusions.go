package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// exclusion is a list of modules that the config says are not quantised. Tensors tell which are, so it is only compared: a module that the list
// names and that is quantised by its tensors is refused, as nobody can tell which of the two is wrong.
type exclusion struct {
	key string
	// entry is the entry that names a module.
	entry func(base string) (string, bool)
	// near is an entry that some tools would take for a name of the module; nil when there are none.
	near func(base string) (string, bool)
}

// without is a Reader of the Modules that no list names.
func without(r Reader, where string, lists ...exclusion) Reader {
	if len(lists) == 0 {
		return r
	}
	var all []*scoped
	for _, one := range readersOf(r) {
		every := func(string) (bool, string) { return true, "" }
		all = append(all, &scoped{Reader: one, covers: exclude(every, where, lists), unsure: nearly(where, lists)})
	}
	return mix(all)
}

// exclude takes what lists name out of a scope.
func exclude(s scope, where string, lists []exclusion) scope {
	if len(lists) == 0 {
		return s
	}
	return func(base string) (mine bool, problem string) {
		for _, l := range lists {
			if entry, ok := l.entry(base); ok {
				return false, where + ": `" + l.key + "` says that it is not quantised (" + entry + ")"
			}
		}
		return s(base)
	}
}

// nearly tells of entries that some tools would take for the name of a module which is quantised; "" when there are none.
func nearly(where string, lists []exclusion) func(base string) string {
	return func(base string) string {
		for _, l := range lists {
			if l.near == nil {
				continue
			}
			if entry, ok := l.near(base); ok {
				return fmt.Sprintf("%s: `%s`: %q is in the name of %s, which is quantised", where, l.key, entry, base)
			}
		}
		return ""
	}
}

// readExclusions reads the lists of these keys that have entries. of says which modules they name.
func readExclusions(c *ConfigReader, keys []string, of func(entries []string) exclusion) (lists []exclusion) {
	for _, key := range keys {
		entries, _, f := c.o.Strings(key)
		if f != nil {
			c.faults = append(c.faults, *f)
		}
		if len(entries) > 0 {
			l := of(entries)
			l.key = key
			lists = append(lists, l)
		}
	}
	return lists
}

// readParts reads lists of parts of names. Tools look for an entry anywhere in the name, or at its ends, and differ in whether one may begin or end
// within a component ("gate" in gate_proj); all agree on entries that are whole components at the beginning or the end of the name, and with
// inside anywhere in it. So those are what names a module; an entry within its last component is near.
func readParts(c *ConfigReader, inside bool, keys ...string) []exclusion {
	return readExclusions(c, keys, func(entries []string) exclusion {
		whole := make(map[string]string, len(entries)) // as the list has it, by what is between dots
		most := 0
		for _, e := range entries {
			if name := strings.Trim(e, "."); name != "" {
				whole[name] = e
				most = max(most, len(name))
			}
		}
		return exclusion{
			entry: func(base string) (string, bool) { return findPart(whole, most, base, inside) },
			near:  nearParts(entries),
		}
	})
}

// nearParts finds entries within the last component of a name. There are few such components in a checkpoint, and each is looked at once.
func nearParts(entries []string) func(base string) (string, bool) {
	near := map[string]string{}
	return func(base string) (entry string, ok bool) {
		_, last := cutLast(base)
		entry, seen := near[last]
		if !seen {
			if i := slices.IndexFunc(entries, func(e string) bool { return e != "" && strings.Contains(last, e) }); i >= 0 {
				entry = entries[i]
			}
			near[last] = entry
		}
		return entry, entry != ""
	}
}

// findPart looks for components of a name, side by side, that are an entry of up to most bytes.
func findPart(whole map[string]string, most int, base string, inside bool) (entry string, ok bool) {
	for from := 0; ; {
		for end := from; end < len(base) && end-from <= most; {
			n := strings.IndexByte(base[end:], '.')
			if end += n; n < 0 {
				end = len(base)
			}
			if entry, ok := whole[base[from:end]]; ok && (inside || from == 0 || end == len(base)) {
				return entry, true
			}
			end++
		}
		n := strings.IndexByte(base[from:], '.')
		if n < 0 {
			return "", false
		}
		from += n + 1
	}
}

// readGlobs reads lists of names and of patterns of whole names, as Python's fnmatch has them. ModelOpt writes a pattern only if it matches no module
// that it quantised.
func readGlobs(c *ConfigReader, keys ...string) []exclusion {
	return readExclusions(c, keys, func(entries []string) exclusion {
		names := map[string]bool{}
		var globs []glob
		for _, e := range entries {
			if g, ok := newGlob(e); ok {
				globs = append(globs, g)
				continue
			}
			names[e] = true
		}
		return exclusion{entry: func(base string) (string, bool) {
			if names[base] {
				return base, true
			}
			for i := range globs {
				if globs[i].matches(base) {
					return globs[i].entry, true
				}
			}
			return "", false
		}}
	})
}

// glob is a pattern of fnmatch.
type glob struct {
	entry  string
	prefix string // what is before the first wildcard: nearly every name differs there already
	// pattern is one of path.Match, with 0 for a slash, which is no special character in names.
	pattern string
}

// newGlob makes a glob of an entry; ok is false for one that is a plain name.
func newGlob(entry string) (g glob, ok bool) {
	first := strings.IndexAny(entry, "*?[")
	if first < 0 {
		return g, false
	}
	g = glob{entry: entry, prefix: entry[:first], pattern: strings.NewReplacer(`\`, `\\`, "[!", "[^", "/", "\x00").Replace(entry)}
	_, err := path.Match(g.pattern, "")
	return g, err == nil
}

func (g *glob) matches(name string) bool {
	if !strings.HasPrefix(name, g.prefix) {
		return false
	}
	ok, err := path.Match(g.pattern, strings.ReplaceAll(name, "/", "\x00"))
	return ok && err == nil
}
