package packed

import (
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

const (
	maxFaults    = 100 // more of them tell nothing new
	maxNameBytes = 4096
	maxRank      = 64
	// maxBytes bounds every size and offset, so that sums of two cannot overflow.
	maxBytes = 1 << 60
	// maxSlabs bounds what the hashes of all Slabs take in memory: 32 bytes each. At 2 MiB a Slab these are 16 TB.
	maxSlabs = 8_000_000
)

// newChecker lists what breaks a rule in everything but the Outputs, which are to be checked one by one.
func (m *Manifest) newChecker() *checker {
	c := &checker{shards: make(map[string]int64, len(m.Shards))}
	if m.Program == "" || !printable(m.Program) {
		c.add("program_version", "not a version")
	}
	if m.Options != nil && (m.Options.Kind() != '{' || !m.Options.IsValid()) {
		c.add("options", "not a JSON object")
	}
	for i := range m.Sources {
		s := &m.Sources[i]
		c.inOrder(i, "source", s.Name, func(i int) string { return m.Sources[i].Name })
		c.size(s.Name, "bytes", s.Bytes)
		if !printable(s.Name) || !printable(s.ETag) {
			c.add(s.Name, "a source with a name that cannot be")
		}
	}
	for i := range m.Shards {
		s := &m.Shards[i]
		c.inOrder(i, "shard", s.File, func(i int) string { return m.Shards[i].File })
		c.size(s.File, "bytes", s.Bytes)
		if !baseName(s.File) || !strings.HasSuffix(s.File, ".safetensors") {
			c.add(s.File, "not a plain file name of a shard")
		}
		c.shards[s.File] = s.Bytes
	}
	for i := range m.Files {
		f := &m.Files[i]
		c.inOrder(i, "file", f.Name, func(i int) string { return m.Files[i].Name })
		c.size(f.Name, "bytes", f.Bytes)
		if _, shard := c.shards[f.Name]; shard || !FileName(f.Name) {
			c.add(f.Name, "not a name that another file of the folder may have")
		}
	}
	return c
}

type checker struct {
	faults []stages.Fault
	shards map[string]int64 // size by file
	slabs  int64

	outputs int
	last    string // name of the Output before
}

func (c *checker) add(entry, format string, args ...any) {
	if len(c.faults) < maxFaults {
		c.faults = append(c.faults, fault(clip(entry), clip(fmt.Sprintf(format, args...))))
	}
}

// clip is the beginning of a text from the file, which may be of any length.
func clip(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// inOrder asks for ascending names, which are unique then.
func (c *checker) inOrder(i int, what, name string, at func(int) string) {
	if i > 0 && at(i-1) >= name {
		c.add(name, "%s %d appears twice or is out of order", what, i)
	}
}

func (c *checker) size(entry, what string, n int64) {
	if n < 0 || n > maxBytes {
		c.add(entry, "%s cannot be %d", what, n)
	}
}

// output checks the next Output.
func (c *checker) output(o *Output) {
	c.inOrder(c.outputs, "output", o.Name, func(int) string { return c.last })
	c.outputs++
	c.last = o.Name
	if o.Name == "" || len(o.Name) > maxNameBytes || !printable(o.Name) {
		c.add(o.Name, "an output with a name that cannot be")
	}
	if want := LayoutVersion(o.Layout); want == 0 || o.LayoutVersion != want {
		c.add(o.Name, "layout %q of version %d is not known", o.Layout, o.LayoutVersion)
	}
	if o.Kind == "" || len(o.Kind) > 64 || !printable(string(o.Kind)) {
		c.add(o.Name, "kind %q cannot be", o.Kind)
	}
	if size, err := bytesOf(o.DType, o.Shape); err != nil || size != o.Bytes {
		c.add(o.Name, "%d bytes are not %s %v", o.Bytes, o.DType, o.Shape)
	}
	if p := o.Padding; p != nil && !padding(*p) {
		c.add(o.Name, "padding %v to %v in %d shares cannot be", p.Unpadded, p.Padded, p.Shares)
	}
	c.size(o.Name, "bytes", o.Bytes)
	c.size(o.Name, "offset", o.Offset)
	if shard, ok := c.shards[o.File]; !ok {
		c.add(o.Name, "file %q is no shard of the folder", o.File)
	} else if o.Bytes > shard || o.Offset > shard-o.Bytes {
		c.add(o.Name, "%d bytes at %d are not inside %s of %d bytes", o.Bytes, o.Offset, o.File, shard)
	}
	switch d := &o.Digest; {
	case !d.Algorithm.Valid():
		c.add(o.Name, "hash %q is not known", d.Algorithm)
	case d.SlabBytes < 0 || d.SlabBytes > maxBytes || d.SlabBytes == 0 && o.Bytes > 0:
		c.add(o.Name, "slabs of %d bytes cannot be", d.SlabBytes)
	case d.SlabBytes > 0:
		if c.slabs += min(o.Bytes/d.SlabBytes+1, maxSlabs); c.slabs > maxSlabs+int64(maxOutputs) {
			c.add(o.Name, "more than %d slabs", maxSlabs)
		}
	}
}

// padding reports whether a module can be padded so.
func padding(p stages.Padding) bool {
	for i, n := range p.Unpadded {
		if n <= 0 || n > p.Padded[i] || p.Padded[i] > maxBytes {
			return false
		}
	}
	return p.Shares > 0 && int64(p.Shares) <= p.Unpadded[0] && p.Padded[0]%int64(p.Shares) == 0
}

func bytesOf(d stages.DType, shape []int64) (int64, error) {
	if !d.Valid() || len(shape) > maxRank {
		return 0, safetensors.ErrDType
	}
	n, err := safetensors.Elements(shape)
	if err != nil {
		return 0, err
	}
	return d.Size(n)
}

// printable is text that any header may hold.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

func baseName(s string) bool {
	return fs.ValidPath(s) && s != "." && !strings.ContainsAny(s, `/\`) && printable(s)
}

// FileName reports whether a packed folder may have another file of this name, with slashes.
func FileName(s string) bool {
	return fs.ValidPath(s) && s != "." && s != ManifestName && !strings.Contains(s, `\`) && printable(s) && len(s) <= maxNameBytes
}
