package safetensors

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"unicode"
)

// IndexName is the name of the index in a folder of shards.
const IndexName = "model.safetensors.index.json"

// Index is model.safetensors.index.json: which shard holds which tensor. Entries are numbered from 0 in the order of the text. An Index
// does not change and may be used from several goroutines. It keeps about 14 bytes an entry besides the name.
type Index struct {
	entries   list[entry]
	strings   arena
	names     table
	files     []string // sorted
	totalSize int64    // -1 when absent
}

// entry is one tensor of weight_map.
type entry struct {
	at      uint32
	nameLen uint16
	file    uint16 // in Index.files
}

// ParseIndex checks the text of an index. It does not keep data. The text is JSON with the same strictness as a header: no key may appear
// twice in the object or in weight_map, and every value of weight_map must be a plain file name, since it is going to be opened. Other
// keys are ignored.
func ParseIndex(data []byte, opts ...Option) (*Index, error) {
	c := newConfig(opts)
	ix, err := parseIndex(data, c.limits)
	return ix, inFile(err, c.name)
}

func parseIndex(data []byte, l Limits) (*Index, error) {
	if int64(len(data)) > l.MaxIndexBytes {
		return nil, &FormatError{
			Offset: NoOffset, Err: ErrIndexTooLarge, Expected: fmt.Sprintf("at most %d bytes", l.MaxIndexBytes), Found: decimal(len(data)),
		}
	}
	p := indexParser{walker: walker{text: data}, limits: l, ix: &Index{totalSize: -1}, fileNumber: map[string]uint16{}}
	if err := p.document(); err != nil {
		return nil, err
	}
	p.ix.strings.close()
	p.ix.entries.close()
	p.sortFiles()
	if err := p.indexNames(); err != nil {
		return nil, err
	}
	return p.ix, nil
}

// minEntryText is less than the shortest entry of weight_map takes: `"a":"b",`.
const minEntryText = 8

type indexParser struct {
	walker
	limits     Limits
	ix         *Index
	starts     list[uint32] // where each name stands in the text, for errors
	fileNumber map[string]uint16
	last       uint16 // the shard of the entry before: mostly the same again
	scratch    []byte
	extra      extras
}

func (p *indexParser) document() error {
	if err := p.open('{', "an object"); err != nil {
		return err
	}
	var metaSeen, mapSeen bool
	for more := p.first('}'); more; {
		key, err := p.key()
		if err != nil {
			return err
		}
		switch {
		case key.is("weight_map"):
			err = p.once(&mapSeen, key, p.weightMap)
		case key.is("metadata"):
			err = p.once(&metaSeen, key, p.metadata)
		default:
			err = p.extra.field(&p.walker, key, 1)
		}
		if err != nil {
			return err
		}
		if more, err = p.more('}'); err != nil {
			return err
		}
	}
	if p.peek(); p.pos < len(p.text) {
		return p.unexpected(ErrTrailingJSON, p.pos, "the end of the text")
	}
	if !mapSeen {
		return p.fail(ErrNoWeightMap, 0, "weight_map", "none")
	}
	return nil
}

// once runs read for a key that may appear once.
func (p *indexParser) once(seen *bool, key token, read func() error) error {
	if *seen {
		return p.fail(ErrDuplicateField, key.pos, "", quote(key.raw))
	}
	*seen = true
	return read()
}

// metadata looks for total_size and skips the rest. A total_size that is no plain integer (some writers store a float) is as good as
// none: nobody may rely on it.
func (p *indexParser) metadata() error {
	if err := p.open('{', "an object"); err != nil {
		return err
	}
	seen := false
	for more := p.first('}'); more; {
		key, err := p.key()
		if err != nil {
			return err
		}
		if key.is("total_size") {
			err = p.once(&seen, key, p.total)
		} else {
			err = p.skip(2)
		}
		if err != nil {
			return err
		}
		if more, err = p.more('}'); err != nil {
			return err
		}
	}
	return nil
}

func (p *indexParser) total() error {
	p.peek()
	start := p.pos
	if n, err := p.integer("a size"); err == nil {
		p.ix.totalSize = n
		return nil
	}
	p.pos = start
	return p.skip(2)
}

func (p *indexParser) weightMap() error {
	if err := p.open('{', "an object of file names"); err != nil {
		return err
	}
	for more := p.first('}'); more; {
		key, err := p.key()
		if err != nil {
			return err
		}
		if err := p.entry(key); err != nil {
			return err
		}
		if more, err = p.more('}'); err != nil {
			return err
		}
	}
	return nil
}

// entry is one tensor of weight_map.
func (p *indexParser) entry(key token) error {
	name, err := p.name(key, p.limits, p.scratch)
	if err != nil {
		return err
	}
	if key.escaped {
		p.scratch = name
	}
	switch {
	case string(name) == metadataKey:
		return aboutTensor(p.fail(ErrName, key.pos, "the name of a tensor", metadataKey), name)
	case p.ix.entries.n == p.limits.MaxTensors:
		return aboutTensor(p.fail(ErrTooManyTensors, key.pos, fmt.Sprintf("at most %d", p.limits.MaxTensors), "one more"), name)
	}
	value, err := p.str("a file name")
	if err != nil {
		return aboutTensor(err, name)
	}
	file, err := p.file(value)
	if err != nil {
		return aboutTensor(err, name)
	}
	remaining := len(p.text) - key.pos
	e := entry{at: p.ix.strings.put(name, nil, remaining), nameLen: uint16(len(name)), file: file}
	p.ix.entries.add(e, remaining/minEntryText+1)
	p.starts.add(uint32(key.pos), remaining/minEntryText+1)
	return nil
}

// file is the number of a shard, in the order in which they appear.
func (p *indexParser) file(value token) (uint16, error) {
	var scratch [maxShardNameLen]byte
	if value.size > maxShardNameLen {
		return 0, p.fail(ErrShardName, value.pos, fmt.Sprintf("at most %d bytes", maxShardNameLen), decimal(value.size))
	}
	name := value.bytes(scratch[:])
	if files := p.ix.files; len(files) > 0 && files[p.last] == string(name) {
		return p.last, nil
	}
	n, ok := p.fileNumber[string(name)]
	if !ok {
		if why := badShardName(string(name)); why != "" {
			return 0, p.fail(ErrShardName, value.pos, why, quote(name))
		}
		if len(p.ix.files) == p.limits.MaxShards {
			return 0, p.fail(ErrTooManyShards, value.pos, fmt.Sprintf("at most %d", p.limits.MaxShards), "one more")
		}
		n = uint16(len(p.ix.files))
		p.fileNumber[string(name)] = n
		p.ix.files = append(p.ix.files, string(name))
	}
	p.last = n
	return n, nil
}

// badShardName says what a shard's name must be when it is not; "" when it is good. The rules are those of every system together, so
// that a folder means the same on all of them.
func badShardName(name string) string {
	switch {
	case name == "":
		return "a name"
	case name == "." || name == "..":
		return "a file, not a folder"
	case strings.ContainsAny(name, `/\`):
		return "a name without separators"
	case len(name) >= 2 && name[1] == ':':
		return "a name without a drive"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "a name without control characters"
	}
	return ""
}

// sortFiles puts the shards in sorted order and renumbers the entries.
func (p *indexParser) sortFiles() {
	ix := p.ix
	if slices.IsSorted(ix.files) {
		return
	}
	slices.Sort(ix.files)
	rank := make([]uint16, len(ix.files))
	for i, name := range ix.files {
		rank[p.fileNumber[name]] = uint16(i)
	}
	for i := range ix.Len() {
		e := ix.entries.at(i)
		e.file = rank[e.file]
	}
}

// indexNames makes the table of names and finds duplicates.
func (p *indexParser) indexNames() error {
	ix := p.ix
	ix.names = newTable(ix.Len())
	for i := range ix.Len() {
		if earlier, ok := ix.names.insert(i, ix.Name); !ok {
			found := fmt.Sprintf("a second one; the first is at byte %d", *p.starts.at(earlier))
			return aboutTensor(p.fail(ErrDuplicateEntry, int(*p.starts.at(i)), "one entry of that name", found), ix.Name(i))
		}
	}
	return nil
}

// Len is the number of tensors.
func (ix *Index) Len() int { return ix.entries.n }

// Name is the name of entry i. Like every method that takes an index it panics when i is not in [0, Len).
func (ix *Index) Name(i int) string {
	e := ix.entries.at(i)
	return ix.strings.from(e.at)[:e.nameLen]
}

// File is the shard of entry i.
func (ix *Index) File(i int) string { return ix.files[ix.entries.at(i).file] }

// Find is the number of the entry called name. It takes constant time and does not allocate.
func (ix *Index) Find(name string) (i int, ok bool) {
	i = ix.names.find(name, ix.Name)
	return i, i >= 0
}

// Lookup is the shard that holds the tensor called name.
func (ix *Index) Lookup(name string) (file string, ok bool) {
	i, ok := ix.Find(name)
	if !ok {
		return "", false
	}
	return ix.File(i), true
}

// Files is every shard once, sorted. The caller owns the slice.
func (ix *Index) Files() []string { return slices.Clone(ix.files) }

// All is every tensor with its shard, in the order of the text.
func (ix *Index) All() iter.Seq2[string, string] {
	return func(yield func(name, file string) bool) {
		for i := range ix.Len() {
			if !yield(ix.Name(i), ix.File(i)) {
				return
			}
		}
	}
}

// TotalSize is metadata.total_size as the writer of the index left it; false when it is absent or no plain integer. It is only for
// display: some writers store the sum of file sizes there, others the bytes of the tensors.
func (ix *Index) TotalSize() (n int64, ok bool) { return ix.totalSize, ix.totalSize >= 0 }
