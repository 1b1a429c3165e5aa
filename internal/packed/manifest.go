package packed

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"iter"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/stages"
)

const (
	// ManifestName is the manifest's name in a packed folder.
	ManifestName = "coldload.json"
	// LayoutKey is the key of __metadata__ that marks the shards of a packed folder, and says the layout that was asked for.
	LayoutKey = "coldload.layout"
	// FormatVersion is the version of the folder that this package writes, and the only one that it reads.
	FormatVersion = 1
)

// layoutVersions is how the bytes of each layout are ordered in this version of the program.
var layoutVersions = map[stages.Layout]int{
	stages.LayoutRaw: 1, stages.LayoutMarlin: 1, stages.LayoutExllama: 1, stages.LayoutExllamaV2: 1,
	stages.LayoutMarlinPlain: 1,
}

// blocksVersion is that of layouts that are a file's own blocks: no version of the program orders their bytes.
const blocksVersion = 1

// LayoutVersion is the version of a layout that this program writes and reads; 0 when no Output can have this layout.
func LayoutVersion(l stages.Layout) int {
	if _, ok := l.BlockType(); ok {
		return blocksVersion
	}
	return layoutVersions[l]
}

// Manifest is what coldload.json says. Nothing in it depends on the time, on the machine or on where the folder lies.
type Manifest struct {
	Program string         // version of the program that packed
	Key     Sum            // identifies the work: equal inputs, options and program give an equal key
	Options jsontext.Value // a JSON object: the options that decide what the Outputs are; empty means {}
	Sources []Source       // sorted by name
	Shards  []Shard        // sorted by file
	Files   []File         // every other file of the folder but the manifest; sorted by name
	Outputs []Output       // sorted by name
}

// Source is a Shard of the checkpoint that was packed.
type Source struct {
	Name         string `json:"name"`
	Bytes        int64  `json:"bytes"`
	HeaderSHA256 Sum    `json:"header_sha256"`
	ETag         string `json:"etag,omitzero"`
	SHA256       Sum    `json:"sha256,omitzero"` // of the whole file, when it was computed
}

// Shard is a weight file of the folder.
type Shard struct {
	File         string `json:"file"`
	Bytes        int64  `json:"bytes"`
	HeaderSHA256 Sum    `json:"header_sha256"` // of the bytes before the data area, padding included
}

// File is another file of the folder.
type File struct {
	Name   string `json:"name"` // with slashes; relative to the folder
	Bytes  int64  `json:"bytes"`
	SHA256 Sum    `json:"sha256"`
}

// Output is an Output as it lies in the folder.
type Output struct {
	Name          string          `json:"name"`
	DType         stages.DType    `json:"dtype"`
	Shape         []int64         `json:"shape"`
	Layout        stages.Layout   `json:"layout"`
	LayoutVersion int             `json:"layout_version"`
	Kind          stages.Kind     `json:"kind"`
	Padding       *stages.Padding `json:"padding,omitzero"`
	File          string          `json:"file"`
	Offset        int64           `json:"offset"` // bytes from the start of the file
	Bytes         int64           `json:"bytes"`
	Digest        Digest          `json:"digest"`
	SHA256        Sum             `json:"sha256,omitzero"` // of the whole Output, when it was asked for
}

// Stage is the Output in the words of package stages.
func (o *Output) Stage() stages.Output {
	return stages.Output{
		Name: o.Name, DType: o.DType, Shape: o.Shape, Layout: o.Layout, Kind: o.Kind, Padding: o.Padding,
		Size: o.Bytes, SlabBytes: o.Digest.SlabBytes,
	}
}

// Sort brings the lists into the order in which they are written and read.
func (m *Manifest) Sort() {
	slices.SortFunc(m.Sources, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Shards, func(a, b Shard) int { return strings.Compare(a.File, b.File) })
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Outputs, func(a, b Output) int { return strings.Compare(a.Name, b.Name) })
}

// Lookup finds an Output by its name in a sorted Manifest.
func (m *Manifest) Lookup(name string) (*Output, bool) {
	i, ok := slices.BinarySearchFunc(m.Outputs, name, func(o Output, name string) int { return strings.Compare(o.Name, name) })
	if !ok {
		return nil, false
	}
	return &m.Outputs[i], true
}

// The text ends with the hash of everything before it, in a form that has no choices.
const (
	checksumName = "  \"checksum\": \""
	checksumEnd  = "\"\n}\n"
	checksumTail = len(checksumName) + 2*sha256.Size + len(checksumEnd)
)

// Write writes the text: one entry a line, in the order of Sort, which the Manifest is brought into. Equal Manifests give equal bytes.
// What Read would refuse is refused here too.
func (m *Manifest) Write(w io.Writer) error {
	m.Sort()
	return m.WriteWith(w, each(m.Outputs))
}

// WriteWith is Write with Outputs that come one by one, sorted by name, and never exist as a list: there may be half a million. On error
// some of the text is written.
func (m *Manifest) WriteWith(w io.Writer, outputs iter.Seq[*Output]) error {
	m.Sort()
	c := m.newChecker()
	buf := bufio.NewWriterSize(w, 256<<10)
	t := &text{w: buf, sum: sha256.New()}
	t.put("{\n")
	t.member("format_version", FormatVersion)
	t.member("program_version", m.Program)
	t.member("key", m.Key)
	t.member("options", m.options())
	writeList(t, "sources", each(m.Sources))
	writeList(t, "shards", each(m.Shards))
	writeList(t, "files", each(m.Files))
	writeList(t, "outputs", func(yield func(*Output) bool) {
		for o := range outputs {
			if c.output(o); len(c.faults) > 0 || !yield(o) {
				return
			}
		}
	})
	if err := stages.Refuse(c.faults...); err != nil {
		return err
	}
	sum := hex.EncodeToString(t.sum.Sum(nil))
	t.put(checksumName + sum + checksumEnd)
	if t.err != nil {
		return fmt.Errorf("packed: write the manifest: %w", t.err)
	}
	return buf.Flush()
}

func each[T any](list []T) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := range list {
			if !yield(&list[i]) {
				return
			}
		}
	}
}

func (m *Manifest) options() jsontext.Value {
	v := m.Options.Clone()
	if len(v) == 0 {
		v = jsontext.Value("{}")
	}
	_ = v.Compact() // what is no JSON is refused
	return v
}

// text writes and hashes lines, until the first error.
type text struct {
	w   io.Writer
	sum hash.Hash
	err error
}

func (t *text) put(s string) { t.raw([]byte(s)) }

func (t *text) raw(b []byte) {
	if t.err == nil {
		_, t.err = t.w.Write(b)
		_, _ = t.sum.Write(b) // a hash never fails
	}
}

func (t *text) value(v any) {
	b, err := json.Marshal(v)
	if t.err == nil {
		t.err = err
	}
	t.raw(b)
}

func (t *text) member(name string, v any) {
	t.put("  \"" + name + "\": ")
	t.value(v)
	t.put(",\n")
}

func writeList[T any](t *text, name string, list iter.Seq[*T]) {
	t.put("  \"" + name + "\": [")
	n := 0
	for entry := range list {
		if n++; n > 1 {
			t.put(",")
		}
		t.put("\n    ")
		t.value(entry)
		if t.err != nil {
			return
		}
	}
	if n > 0 {
		t.put("\n  ")
	}
	t.put("],\n")
}
