package packed

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/stages"
)

// The codes of faults in a manifest.
const (
	CodeManifest stages.Code = "manifest"         // damaged, edited, or against a rule
	CodeVersion  stages.Code = "manifest-version" // of another version of the program
)

// The most that a manifest may have: far more than the largest checkpoints need, and a bound on what reading one costs.
const (
	maxManifestBytes = 1 << 30
	maxOutputs       = 2_000_000
	maxEntries       = 100_000 // sources, shards or files
	maxLine          = 1 << 20 // what is written has an entry a line
)

// ReadFile reads the manifest of the folder dir. Without one the error is fs.ErrNotExist: the folder is not complete.
func ReadFile(dir string) (*Manifest, error) {
	return readFrom(func(name string) (*os.File, error) {
		// Opening a pipe would wait for its other end.
		return os.OpenFile(filepath.Join(dir, name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	})
}

func readFrom(open func(name string) (*os.File, error)) (*Manifest, error) {
	f, err := open(ManifestName)
	if err != nil {
		return nil, fmt.Errorf("packed: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("packed: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, refuse("not a regular file")
	}
	return Read(f, st.Size())
}

// Read reads a manifest of size bytes and checks it by all rules: its own hash, each entry for itself, names that are in order and so
// unique, files that are plain names, ranges inside their shards, sizes that follow from shape and dtype. It trusts nothing before it is
// checked, and takes memory for the entries only, not for the text, which it reads twice.
//
// What is refused is a *stages.RefusedError with the faults in it, of CodeManifest, or of CodeVersion when another version of coldload
// wrote it. Any other error is r's.
func Read(r io.ReaderAt, size int64) (*Manifest, error) {
	var outputs []Output
	m, err := scan(r, size, func(o *Output, most int) error {
		if outputs == nil {
			outputs = make([]Output, 0, most) // growing would hold half a million entries twice
		}
		outputs = append(outputs, *o)
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.Outputs = outputs
	return m, nil
}

// Scan reads a manifest as Read does, but hands each Output over instead of keeping it. Of a manifest that is refused in the end some
// Outputs may have been handed over before. An error of each ends the scan and is returned as it is.
func Scan(r io.ReaderAt, size int64, each func(*Output) error) (*Manifest, error) {
	return scan(r, size, func(o *Output, _ int) error { return each(o) })
}

// scan tells each how many Outputs there can be at most.
func scan(r io.ReaderAt, size int64, each func(o *Output, most int) error) (*Manifest, error) {
	if size > maxManifestBytes {
		return nil, refuse(fmt.Sprintf("%d bytes are more than the %d that a manifest may have", size, int64(maxManifestBytes)))
	}
	if size < int64(checksumTail)+2 {
		return nil, refuse(fmt.Sprintf("%d bytes are too few: the file was cut off", size))
	}
	if err := checkSum(r, size); err != nil {
		return nil, err
	}
	const leastEntry = 300 // bytes: an Output's names of members and its hash
	in := &reading{r: io.NewSectionReader(r, 0, size), each: func(o *Output) error { return each(o, int(size/leastEntry)+1) }}
	m, err := in.manifest()
	switch {
	case in.err != nil:
		return nil, fmt.Errorf("packed: read the manifest: %w", in.err)
	case in.eachErr != nil:
		return nil, in.eachErr
	case err != nil:
		return nil, err
	}
	return m, stages.Refuse(in.check.faults...)
}

func refuse(problem string) error { return stages.Refuse(fault("", problem)) }

func fault(entry, problem string) stages.Fault {
	return stages.Fault{
		Code: CodeManifest, File: ManifestName, Tensor: entry, Problem: problem,
		Advice: "the manifest is damaged or was edited; pack again",
	}
}

// checkSum compares the text with the hash at its end.
func checkSum(r io.ReaderAt, size int64) error {
	tail := make([]byte, checksumTail)
	if _, err := io.ReadFull(io.NewSectionReader(r, size-int64(checksumTail), int64(checksumTail)), tail); err != nil {
		return fmt.Errorf("packed: read the manifest: %w", err)
	}
	h := sha256.New()
	lines := &lineLimit{}
	if _, err := io.Copy(io.MultiWriter(h, lines), io.NewSectionReader(r, 0, size-int64(checksumTail))); err != nil {
		return fmt.Errorf("packed: read the manifest: %w", err)
	}
	if lines.longest > maxLine {
		return refuse(fmt.Sprintf("a line of %d bytes is longer than the %d that one may have", lines.longest, int64(maxLine)))
	}
	want := checksumName + hex.EncodeToString(h.Sum(nil)) + checksumEnd
	if string(tail) == want {
		return nil
	}
	head := make([]byte, 64)
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), head); err == nil {
		if v, ok := versionOf(head); ok && v != FormatVersion {
			return refuseVersion(v)
		}
	}
	return refuse("the text does not have the hash that it ends with")
}

// lineLimit measures the lines of what is written to it: no token of a text with short lines takes much memory.
type lineLimit struct{ now, longest int64 }

func (l *lineLimit) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			l.now += int64(len(rest))
			l.longest = max(l.longest, l.now)
			break
		}
		l.longest = max(l.longest, l.now+int64(i))
		l.now = 0
		rest = rest[i+1:]
	}
	return len(p), nil
}

func refuseVersion(v int64) error {
	return stages.Refuse(stages.Fault{
		Code: CodeVersion, File: ManifestName, Problem: "format version is not known",
		Expected: fmt.Sprint(FormatVersion), Found: fmt.Sprint(v), Advice: "use the version of coldload that packed the folder, or pack again",
	})
}

// versionOf finds the version that every manifest begins with, in whatever follows it.
func versionOf(head []byte) (int64, bool) {
	dec := jsontext.NewDecoder(bytes.NewReader(head))
	for range 2 {
		if _, err := dec.ReadToken(); err != nil {
			return 0, false
		}
	}
	tok, err := dec.ReadToken()
	if err != nil || tok.Kind() != '0' || !bytes.Contains(head, []byte(`"format_version"`)) {
		return 0, false
	}
	v, err := tok.Int()
	return v, err == nil
}

// reading decodes a manifest from r, and keeps r's own error apart from those of the text.
type reading struct {
	r   io.Reader
	err error

	each    func(*Output) error
	eachErr error

	dec    *jsontext.Decoder
	intern map[string]string
	check  *checker
}

func (in *reading) Read(p []byte) (int, error) {
	n, err := in.r.Read(p)
	if err != nil && err != io.EOF {
		in.err = err
	}
	return n, err
}

// members are the names of the top level. All must be there.
var members = []string{"format_version", "program_version", "key", "options", "sources", "shards", "files", "outputs", "checksum"}

func (in *reading) manifest() (*Manifest, error) {
	in.dec = jsontext.NewDecoder(in)
	in.intern = make(map[string]string)
	m := &Manifest{}
	err := in.object(m)
	if err == nil {
		if _, end := in.dec.ReadToken(); end != io.EOF { //nolint:errorlint // the decoder returns io.EOF itself
			err = errors.New("text after the end")
		}
	}
	if _, refused := errors.AsType[*stages.RefusedError](err); err == nil || refused {
		return m, err
	}
	return nil, refuse(err.Error())
}

// object reads the members, which come in the order in which they are written.
func (in *reading) object(m *Manifest) error {
	if tok, err := in.dec.ReadToken(); err != nil || tok.Kind() != '{' {
		return errors.Join(errors.New("not a JSON object"), err)
	}
	for _, name := range members {
		tok, err := in.dec.ReadToken()
		if err != nil {
			return err
		}
		if tok.Kind() != '"' || tok.String() != name {
			return fmt.Errorf("%q is missing, or not in its place", name)
		}
		if err := in.member(m, name); err != nil {
			return err
		}
	}
	if tok, err := in.dec.ReadToken(); err != nil || tok.Kind() != '}' {
		return errors.Join(errors.New("more members than there are"), err)
	}
	return nil
}

func (in *reading) member(m *Manifest, name string) error {
	switch name {
	case "format_version":
		var v int64
		if err := in.decode(&v); err != nil {
			return err
		}
		if v != FormatVersion {
			return refuseVersion(v)
		}
		return nil
	case "program_version":
		return in.decode(&m.Program)
	case "key":
		return in.decode(&m.Key)
	case "options":
		v, err := in.dec.ReadValue()
		m.Options = v.Clone()
		return err
	case "sources":
		return readList(in, name, maxEntries, keep(&m.Sources))
	case "shards":
		return readList(in, name, maxEntries, keep(&m.Shards))
	case "files":
		return readList(in, name, maxEntries, keep(&m.Files))
	case "outputs":
		in.check = m.newChecker()
		return readList(in, name, maxOutputs, in.output)
	case "checksum":
		var sum Sum
		return in.decode(&sum)
	default:
		return fmt.Errorf("unknown member %q", name)
	}
}

// one returns the string that was seen first with these bytes, so that half a million entries share it. It keeps a bounded number.
func (in *reading) one(s string) string {
	if t, ok := in.intern[s]; ok {
		return t
	}
	if len(in.intern) < maxEntries {
		in.intern[s] = s
	}
	return s
}

func (in *reading) decode(v any) error {
	return json.UnmarshalDecode(in.dec, v, json.RejectUnknownMembers(true), json.WithUnmarshalers(shapes))
}

// shapes decodes lists of dims, and no more of them than there can be.
var shapes = json.UnmarshalFromFunc(func(dec *jsontext.Decoder, shape *[]int64) error {
	if tok, err := dec.ReadToken(); err != nil || tok.Kind() != '[' {
		return errors.Join(errors.New("not a list of dims"), err)
	}
	*shape = make([]int64, 0, 4)
	for dec.PeekKind() != ']' {
		var n int64
		if len(*shape) == maxRank {
			return fmt.Errorf("more than %d dims", maxRank)
		}
		if err := json.UnmarshalDecode(dec, &n); err != nil {
			return err
		}
		*shape = append(*shape, n)
	}
	_, err := dec.ReadToken()
	return err
})

// output checks an Output and hands it over, unless the manifest is refused anyway.
func (in *reading) output(o *Output) error {
	o.File, o.Layout, o.Kind = in.one(o.File), stages.Layout(in.one(string(o.Layout))), stages.Kind(in.one(string(o.Kind)))
	o.Digest.Algorithm = Algorithm(in.one(string(o.Digest.Algorithm)))
	if in.check.output(o); len(in.check.faults) > 0 {
		return nil
	}
	in.eachErr = in.each(o)
	return in.eachErr
}

func keep[T any](list *[]T) func(*T) error {
	return func(v *T) error {
		*list = append(*list, *v)
		return nil
	}
}

func readList[T any](in *reading, name string, most int, each func(*T) error) error {
	if tok, err := in.dec.ReadToken(); err != nil || tok.Kind() != '[' {
		return errors.Join(fmt.Errorf("%q is not a list", name), err)
	}
	for n := 0; in.dec.PeekKind() != ']'; n++ {
		if n == most {
			return fmt.Errorf("%q has more than %d entries", name, most)
		}
		var v T
		if err := in.decode(&v); err != nil {
			return fmt.Errorf("%s[%d]: %w", name, n, err)
		}
		if err := each(&v); err != nil {
			return err
		}
	}
	_, err := in.dec.ReadToken()
	return err
}

// Unfinished is the Fault of something in a packed folder, which file names, whose manifest is not there.
func Unfinished(file string) stages.Fault {
	return stages.Fault{
		Code: stages.CodeMissing, File: file,
		Problem: "belongs to a folder that coldload packed, but the folder's manifest " + ManifestName + " is not there",
		Advice:  "the folder is not complete: finish packing it, or bring the manifest",
	}
}
