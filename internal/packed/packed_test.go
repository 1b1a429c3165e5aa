package packed_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func bytesOf(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(b) // never fails
	return b
}

// folder writes a packed folder by hand: two shards, one carried file, slabs of 1000 bytes and one larger than what is read at once.
func folder(tb testing.TB) (dir string, m *packed.Manifest) {
	tb.Helper()
	dir = tb.TempDir()
	m = &packed.Manifest{
		Program: "v1", Key: sha256.Sum256([]byte("key")), Options: []byte(`{"layout":"raw"}`),
		Sources: []packed.Source{{Name: "model.safetensors", Bytes: 77, ETag: `"abc"`}},
	}
	var entries []string
	for s, sizes := range [][]int{{2500, 0, 1}, {5 << 20, 300}} {
		file := fmt.Sprintf("model-%05d-of-00002.safetensors", s+1)
		var specs []safetensors.Spec
		for i, n := range sizes {
			specs = append(specs, safetensors.Spec{Name: fmt.Sprintf("t.%d.%d", s, i), DType: safetensors.U8, Shape: []int64{int64(n)}})
		}
		var buf bytes.Buffer
		w, err := safetensors.NewWriter(&buf, specs, safetensors.WriterOptions{Align: 64})
		if err != nil {
			tb.Fatal(err)
		}
		for i, spec := range specs {
			data := bytesOf(sizes[i], uint64(s*10+i))
			if err := w.WriteTensor(spec.Name, data); err != nil {
				tb.Fatal(err)
			}
			slab := 1000
			if len(data) > 1<<20 {
				slab = len(data)
			}
			m.Outputs = append(m.Outputs, packed.Output{
				Name: spec.Name, DType: spec.DType, Shape: spec.Shape, Layout: stages.LayoutRaw, LayoutVersion: 1, Kind: stages.KindKept,
				File: file, Offset: w.Layout().Offset(i), Bytes: int64(len(data)),
				Digest: packed.Digest{Algorithm: packed.BLAKE3, SlabBytes: int64(slab), Root: rootOf(packed.BLAKE3, data, slab)},
			})
			entries = append(entries, fmt.Sprintf("%q: %q", spec.Name, file))
		}
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
		m.Shards = append(m.Shards, packed.Shard{File: file, Bytes: int64(buf.Len()), HeaderSHA256: sha256.Sum256(w.Layout().Header())})
		put(tb, dir, file, buf.Bytes())
	}
	for name, text := range map[string]string{
		"config.json": "{}", "source/x.json": "1", safetensors.IndexName: `{"weight_map": {` + strings.Join(entries, ", ") + "}}",
	} {
		put(tb, dir, name, []byte(text))
		m.Files = append(m.Files, packed.File{Name: name, Bytes: int64(len(text)), SHA256: sha256.Sum256([]byte(text))})
	}
	put(tb, dir, packed.ManifestName, text(tb, m))
	return dir, m
}

// rootOf is the digest by its definition.
func rootOf(a packed.Algorithm, data []byte, slab int) packed.Sum {
	var all []byte
	for c := range slices.Chunk(data, slab) {
		s := a.Sum(c)
		all = append(all, s[:]...)
	}
	return a.Sum(all)
}

func put(tb testing.TB, dir, name string, data []byte) {
	tb.Helper()
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
		tb.Fatal(err)
	}
}

func text(tb testing.TB, m *packed.Manifest) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := m.Write(&b); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// rooted is a packed.Folder below one folder.
type rooted struct{ *os.Root }

func (r rooted) Open(name string) (*os.File, error) {
	return r.OpenFile(filepath.FromSlash(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
}
func (r rooted) FS() (fs.FS, error) { return r.Root.FS(), nil }

func openFolder(tb testing.TB, dir string) packed.Folder {
	tb.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = root.Close() })
	return rooted{root}
}

func verify(tb testing.TB, dir string, workers int) []packed.Difference {
	tb.Helper()
	r, err := packed.Verify(tb.Context(), openFolder(tb, dir), packed.VerifyOptions{Workers: workers})
	if err != nil {
		tb.Fatal(err)
	}
	return r.Differences
}

func TestDigests(t *testing.T) {
	for _, a := range []packed.Algorithm{packed.BLAKE3, packed.SHA256} {
		outputs := []stages.Output{{Size: 2500, SlabBytes: 1000}, {}, {Size: 10, SlabBytes: 1000}, {Size: 64, SlabBytes: 8}}
		d := packed.NewDigests(a, outputs)
		type piece struct {
			slab stages.Slab
			data []byte
		}
		var pieces []piece
		for i, o := range outputs {
			data := bytesOf(int(o.Size), uint64(i))
			for k := range o.Slabs() {
				s := o.Slab(i, k)
				pieces = append(pieces, piece{s, data[s.Off : s.Off+s.Len]})
			}
		}
		rand.New(rand.NewPCG(1, 2)).Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		complete := 0
		for i, p := range pieces {
			if i%2 == 0 {
				d.Hashed(p.slab, p.data)
			}
			if d.Has(p.slab) {
				t.Error("has a slab before it was added")
			}
			last, err := d.Add(p.slab, d.TakeHashed(p.slab, p.data))
			if err != nil || !d.Has(p.slab) || d.Sum(p.slab) != a.Sum(p.data) {
				t.Fatal(err)
			}
			if last != (d.Missing(p.slab.Output) == 0) {
				t.Error("last is wrong")
			}
			if last {
				complete++
			}
		}
		d.Hashed(pieces[0].slab, nil) // it is there: its hash stays, and another one is told apart
		if sum := d.TakeHashed(pieces[0].slab, []byte{1}); sum != a.Sum([]byte{1}) || d.Sum(pieces[0].slab) != a.Sum(pieces[0].data) {
			t.Error("the hash of a slab that was added has changed")
		}
		if _, err := d.Add(pieces[0].slab, packed.Sum{}); err == nil {
			t.Error("a slab is taken twice")
		}
		if complete != 3 || d.Len() != 12 {
			t.Errorf("%d outputs complete, %d slabs", complete, d.Len())
		}
		for i, o := range outputs {
			if want := rootOf(a, bytesOf(int(o.Size), uint64(i)), max(1, int(o.SlabBytes))); d.Root(i) != want {
				t.Errorf("%s: root of %d is %s, want %s", a, i, d.Root(i), want)
			}
		}
	}
}

// TestBLAKE3 checks the vectors of the specification for no byte, and for one that is zero.
func TestBLAKE3(t *testing.T) {
	for n, want := range map[int]string{
		0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
	} {
		if got := packed.BLAKE3.Sum(make([]byte, n)).String(); got != want {
			t.Errorf("%d bytes: %s", n, got)
		}
	}
}

func TestManifestRoundTrip(t *testing.T) {
	dir, m := folder(t)
	data := text(t, m)
	got, err := packed.ReadFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again := text(t, got); !bytes.Equal(again, data) {
		t.Errorf("read and written again:\n%s\nwant\n%s", again, data)
	}
	slices.Reverse(m.Outputs)
	slices.Reverse(m.Files)
	if !bytes.Equal(text(t, m), data) {
		t.Error("the order of the lists shows")
	}
	o, ok := got.Lookup("t.1.0")
	if !ok {
		t.Fatal("t.1.0 is not found")
	}
	if st := o.Stage(); st.Size != 5<<20 || st.Slabs() != 1 {
		t.Errorf("%+v", st)
	}
	if _, ok := got.Lookup("t.1"); ok {
		t.Error("an output that is not there is found")
	}
	if lines := bytes.Count(data, []byte("\n")); lines < len(m.Outputs)+len(m.Files)+len(m.Shards) {
		t.Errorf("%d lines", lines)
	}
	empty := &packed.Manifest{Program: "x"}
	if back, err := packed.Read(bytes.NewReader(text(t, empty)), int64(len(text(t, empty)))); err != nil || string(back.Options) != "{}" {
		t.Errorf("an empty manifest: %v %v", back, err)
	}
}

// signed gives a text the hash that it must end with.
func signed(body string) []byte {
	sum := sha256.Sum256([]byte(body))
	return fmt.Appendf([]byte(body), "  \"checksum\": \"%x\"\n}\n", sum)
}

// body is the text of a manifest up to its hash.
func body(tb testing.TB, m *packed.Manifest) string {
	tb.Helper()
	s := string(text(tb, m))
	return s[:strings.Index(s, "  \"checksum\"")]
}

func read(b []byte) error {
	_, err := packed.Read(bytes.NewReader(b), int64(len(b)))
	return err
}

// TestManifestBitFlips: no bit of the text can change unnoticed.
func TestManifestBitFlips(t *testing.T) {
	_, m := folder(t)
	data := text(t, m)
	for i := range data {
		for bit := range 8 {
			data[i] ^= 1 << bit
			if re, ok := errors.AsType[*stages.RefusedError](read(data)); !ok || len(re.Faults) == 0 {
				t.Fatalf("bit %d of byte %d (%q) can be flipped", bit, i, data[i])
			}
			data[i] ^= 1 << bit
		}
		if read(data[:i]) == nil {
			t.Fatalf("can be cut to %d bytes", i)
		}
	}
}

func TestManifestRefuses(t *testing.T) {
	_, m := folder(t)
	good := body(t, m)
	if err := read(signed(good)); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ from, to, want string }{
		"another version":     {`"format_version": 1`, `"format_version": 2`, "manifest-version"},
		"no version":          {"  \"format_version\": 1,\n", "", `"format_version" is missing`},
		"a member twice":      {`"key"`, `"options": {}, "key"`, "not in its place"},
		"an unknown member":   {`"key"`, `"more": 1, "key"`, `not in its place`},
		"an unknown field":    {`"kind":`, `"knid":`, "knid"},
		"a field twice":       {`"kind":"kept"`, `"kind":"kept","kind":"kept"`, "duplicate"},
		"an output twice":     {`"name":"t.0.1"`, `"name":"t.0.0"`, "twice or is out of order"},
		"an empty name":       {`"name":"t.0.0"`, `"name":""`, "a name that cannot be"},
		"a control character": {`"name":"t.0.0"`, `"name":"t\n"`, "a name that cannot be"},
		"options of a string": {`{"layout":"raw"}`, `"raw"`, "not a JSON object"},
		"a dtype":             {`"U8"`, `"U9"`, "unknown dtype"},
		"a shape":             {`[2500]`, `[2501]`, "are not U8"},
		"a negative dim":      {`[2500]`, `[-2500]`, "are not U8"},
		"an overflow":         {`[2500]`, `[9223372036854775807,9223372036854775807]`, "are not U8"},
		"a fraction":          {`"bytes":2500`, `"bytes":2500.5`, "outputs[0]"},
		"a layout":            {`"layout":"raw","layout_version":1,"kind":"kept","file":"model-00001`, `"layout":"swizzled","layout_version":1,"kind":"kept","file":"model-00001`, `layout "swizzled"`},
		"a layout's version":  {`"layout_version":1`, `"layout_version":9`, "version 9 is not known"},
		"another file":        {`"kind":"kept","file":"model-00001`, `"kind":"kept","file":"model-00007`, "is no shard"},
		"an offset":           {`"offset":`, `"offset":99`, "are not inside"},
		"a negative offset":   {`"offset":`, `"offset":-`, "offset cannot be"},
		"a hash":              {`"blake3"`, `"md5"`, `hash "md5"`},
		"slabs of nothing":    {`"slab_bytes":1000`, `"slab_bytes":0`, "slabs of 0 bytes"},
		"a short digest":      {`"root":"`, `"root":"00`, "64 hex digits"},
		"a shard's name":      {`{"file":"model-00001`, `{"file":"../model-00001`, "not a plain file name"},
		"a shard's size":      {`"bytes":2`, `"bytes":-2`, "cannot be -2"},
		"a file's name":       {`"name":"config.json"`, `"name":"../config.json"`, "not a name that another file"},
		"a shard as a file":   {`"name":"config.json"`, `"name":"model-00001-of-00002.safetensors"`, "not a name that another file"},
		"the manifest itself": {`"name":"config.json"`, `"name":"coldload.json"`, "not a name that another file"},
		"no list":             {`"files": [`, `"files": {"x": [`, "is not a list"},
		"a long name":         {`"name":"t.0.0"`, `"name":"` + strings.Repeat("n", 1<<19) + `"`, "a name that cannot be"},
		"many dims":           {`[2500]`, `[2500` + strings.Repeat(",1", 1<<18) + `]`, "outputs[0]"},
		"no program":          {`"program_version": "v1"`, `"program_version": ""`, "not a version"},
	} {
		if !strings.Contains(good, c.from) {
			t.Fatalf("%s: the manifest has no %s", name, c.from)
		}
		err := read(signed(strings.Replace(good, c.from, c.to, 1)))
		re, ok := errors.AsType[*stages.RefusedError](err)
		if !ok || !strings.Contains(fmt.Sprint(err)+string(re.Faults[0].Code), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		if n := len(err.Error()); n > 100<<10 {
			t.Errorf("%s: a message of %d bytes", name, n)
		}
	}
	if err := read(append(signed(good), ' ')); err == nil {
		t.Error("a space after the end is accepted")
	}
	if _, err := packed.Read(bytes.NewReader(nil), 2<<30); err == nil {
		t.Error("two gigabytes are accepted")
	}
	if _, err := packed.ReadFile(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no manifest: %v", err)
	}
	m.Outputs[0].File = "gone"
	if m.Write(&bytes.Buffer{}) == nil {
		t.Error("a manifest is written that cannot be read")
	}
}

// TestVersionIsToldFirst: a manifest of a later format is named so, whatever else it has.
func TestVersionIsToldFirst(t *testing.T) {
	err := read([]byte("{\n  \"format_version\": 12,\n  \"whatever\": [" + strings.Repeat("1,", 100) + "1]\n}\n"))
	if re, ok := errors.AsType[*stages.RefusedError](err); !ok || re.Faults[0].Code != packed.CodeVersion || re.Faults[0].Found != "12" {
		t.Errorf("got %v", err)
	}
}

func TestVerifyFindsNothing(t *testing.T) {
	dir, m := folder(t)
	for workers := range 4 {
		var total int64
		r, err := packed.Verify(t.Context(), openFolder(t, dir), packed.VerifyOptions{Workers: workers, Progress: func(_, n int64) {
			if workers == 1 {
				total = n
			}
		}})
		if err != nil || len(r.Differences) > 0 {
			t.Fatalf("%v %v", r, err)
		}
		if r.Outputs != len(m.Outputs) || r.Bytes != 2801+5<<20 || r.Manifest.Key != m.Key || workers == 1 && total != r.Bytes {
			t.Errorf("%d outputs, %d bytes, total %d", r.Outputs, r.Bytes, total)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stop"))
	if _, err := packed.Verify(ctx, openFolder(t, dir), packed.VerifyOptions{}); err == nil || err.Error() != "stop" {
		t.Errorf("ended context: %v", err)
	}
}

// TestVerifyFindsBitFlips flips a bit in many places of every file: exactly that file is named, and the Output when it is in one.
func TestVerifyFindsBitFlips(t *testing.T) {
	dir, m := folder(t)
	files := []string{packed.ManifestName, safetensors.IndexName, "config.json", "source/x.json", m.Shards[0].File, m.Shards[1].File}
	for _, file := range files {
		path := filepath.Join(dir, file)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(data); at += 1 + len(data)/37 {
			data[at] ^= 1 << (at % 8)
			put(t, dir, file, data)
			diffs := verify(t, dir, 2)
			data[at] ^= 1 << (at % 8)
			output := ""
			for _, o := range m.Outputs {
				if o.File == file && int64(at) >= o.Offset && int64(at) < o.Offset+o.Bytes {
					output = o.Name
				}
			}
			if len(diffs) == 0 || !slices.ContainsFunc(diffs, func(d packed.Difference) bool {
				return d.File == file && (output == "" || d.Output == output && d.Kind == packed.Differs)
			}) || output != "" && len(diffs) != 1 {
				t.Fatalf("a bit of byte %d of %s (%s): %v", at, file, output, diffs)
			}
		}
		put(t, dir, file, data)
	}
	if diffs := verify(t, dir, 2); len(diffs) > 0 {
		t.Errorf("all is as it was, and %v", diffs)
	}
}

func TestVerifyFindsFiles(t *testing.T) {
	for name, c := range map[string]struct {
		change func(dir string, m *packed.Manifest) error
		want   []string
	}{
		"manifest missing": {
			func(dir string, _ *packed.Manifest) error { return os.Remove(filepath.Join(dir, packed.ManifestName)) },
			[]string{"coldload.json: missing"},
		},
		"shard missing": {
			func(dir string, m *packed.Manifest) error { return os.Remove(filepath.Join(dir, m.Shards[0].File)) },
			[]string{"model-00001-of-00002.safetensors: missing"},
		},
		"index missing": {
			func(dir string, _ *packed.Manifest) error {
				return os.Remove(filepath.Join(dir, safetensors.IndexName))
			},
			[]string{safetensors.IndexName + ": missing"},
		},
		"files extra": {
			func(dir string, _ *packed.Manifest) error {
				return errors.Join(os.WriteFile(filepath.Join(dir, "x"), nil, 0o600), os.WriteFile(filepath.Join(dir, "source", "y"), nil, 0o600),
					os.Mkdir(filepath.Join(dir, "z"), 0o755))
			},
			[]string{"source/y: extra", "x: extra", "z: extra"},
		},
		"shard cut": {
			func(dir string, m *packed.Manifest) error {
				return os.Truncate(filepath.Join(dir, m.Shards[0].File), m.Shards[0].Bytes-1)
			},
			[]string{"model-00001-of-00002.safetensors: damaged", "model-00001-of-00002.safetensors: t.0.2: damaged: the file ends before it"},
		},
		"shard cut in a large slab": {
			func(dir string, m *packed.Manifest) error {
				return os.Truncate(filepath.Join(dir, m.Shards[1].File), 5<<20)
			},
			[]string{
				"model-00002-of-00002.safetensors: damaged", "model-00002-of-00002.safetensors: t.1.0: differs",
				"model-00002-of-00002.safetensors: t.1.1: damaged",
			},
		},
		"shard longer": {
			func(dir string, m *packed.Manifest) error {
				return os.Truncate(filepath.Join(dir, m.Shards[0].File), m.Shards[0].Bytes+1)
			},
			[]string{"model-00001-of-00002.safetensors: damaged"},
		},
		"shard empty": {
			func(dir string, m *packed.Manifest) error {
				return os.Truncate(filepath.Join(dir, m.Shards[0].File), 0)
			},
			[]string{
				"model-00001-of-00002.safetensors: damaged", "model-00001-of-00002.safetensors: damaged: header",
				"model-00001-of-00002.safetensors: t.0.0: damaged", "model-00001-of-00002.safetensors: t.0.2: damaged",
			},
		},
		"a link": { // is as good as the file, as it is for a load
			func(dir string, _ *packed.Manifest) error {
				path := filepath.Join(dir, "config.json")
				return errors.Join(os.Rename(path, filepath.Join(dir, "c")), os.Symlink("c", path))
			},
			[]string{"c: extra"},
		},
		"a link out of the folder": {
			func(dir string, _ *packed.Manifest) error {
				path := filepath.Join(dir, "config.json")
				out := filepath.Join(filepath.Dir(dir), "out.json")
				return errors.Join(os.Rename(path, out), os.Symlink(out, path))
			},
			[]string{"config.json: damaged"},
		},
		"a pipe": {
			func(dir string, _ *packed.Manifest) error {
				path := filepath.Join(dir, "config.json")
				return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))
			},
			[]string{"config.json: damaged"},
		},
		"index of another folder": {
			func(dir string, _ *packed.Manifest) error {
				text := strings.Replace(string(must(os.ReadFile(filepath.Join(dir, safetensors.IndexName)))), "t.0.0", "t.9.9", 1)
				return os.WriteFile(filepath.Join(dir, safetensors.IndexName), []byte(text), 0o600)
			},
			[]string{
				safetensors.IndexName + ": differs: sha256", safetensors.IndexName + ": t.0.0: differs", safetensors.IndexName + ": t.9.9: differs",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, m := folder(t)
			if err := c.change(dir, m); err != nil {
				t.Fatal(err)
			}
			diffs := verify(t, dir, 2)
			if len(diffs) != len(c.want) {
				t.Fatalf("%v, want %q", diffs, c.want)
			}
			for i, d := range diffs {
				if !strings.HasPrefix(d.String(), c.want[i]) {
					t.Errorf("%v, want %s", d, c.want[i])
				}
			}
		})
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestVerifyHeaderAgainstManifest: a manifest that was made for other headers is noticed, though all hashes of bytes are right.
func TestVerifyHeaderAgainstManifest(t *testing.T) {
	dir, m := folder(t)
	o, _ := m.Lookup("t.0.0")
	o.DType, o.Shape, o.Bytes = safetensors.F16, []int64{1250}, 2500
	put(t, dir, packed.ManifestName, text(t, m))
	diffs := verify(t, dir, 1)
	if len(diffs) != 1 || diffs[0].Output != "t.0.0" || diffs[0].Kind != packed.Differs || !strings.Contains(diffs[0].Detail, "F16 [1250]") {
		t.Errorf("%v", diffs)
	}
	m.Outputs = m.Outputs[1:]
	put(t, dir, packed.ManifestName, text(t, m))
	diffs = verify(t, dir, 1)
	if len(diffs) != 1 || diffs[0].Output != "t.0.0" || diffs[0].Kind != packed.Extra {
		t.Errorf("%v", diffs)
	}
}

// FuzzRead: whatever the text, Read returns, and what it accepts can be written and read again. The hash is put right, so that the rules
// behind it are reached.
func FuzzRead(f *testing.F) {
	_, m := folder(f)
	f.Add([]byte(body(f, m)))
	f.Add([]byte(body(f, &packed.Manifest{Program: "x"})))
	f.Add([]byte(`{"format_version":1,"outputs":[{"name":"a"}],`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = read(b)
		text := signed(string(b))
		m, err := packed.Read(bytes.NewReader(text), int64(len(text)))
		if err != nil {
			if _, ok := errors.AsType[*stages.RefusedError](err); !ok {
				t.Fatalf("not typed: %v", err)
			}
			return
		}
		var first bytes.Buffer
		if err := m.Write(&first); err != nil {
			t.Fatalf("accepted and not written: %v", err)
		}
		again, err := packed.Read(bytes.NewReader(first.Bytes()), int64(first.Len()))
		if err != nil {
			t.Fatalf("written and not accepted: %v", err)
		}
		var second bytes.Buffer
		if err := again.Write(&second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatalf("not stable: %v", err)
		}
	})
}
