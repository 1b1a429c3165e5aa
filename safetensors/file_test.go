package safetensors_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"

	"github.com/coldload/coldload/safetensors"
)

func smallFile() []byte {
	b := fileOf(`{` + one + `,` + tensor("b", "U8", "2", "4,6") + `,` + tensor("z", "U8", "0", "6,6") + `}`)
	return append(b, "abcdef"...)
}

func checkSmall(t *testing.T, f *safetensors.File) {
	t.Helper()
	s, err := f.Section("b")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "ef" {
		t.Errorf("b is %q, %v", got, err)
	}
	buf := make([]byte, 4)
	if err := f.ReadInto("a", buf); err != nil || string(buf) != "abcd" {
		t.Errorf("a is %q, %v", buf, err)
	}
	if err := f.ReadInto("z", nil); err != nil {
		t.Error(err)
	}
	if err := f.ReadInto("b", buf); !errors.Is(err, safetensors.ErrBufferSize) || !strings.Contains(err.Error(), "expected 2 bytes, found 4") {
		t.Error(err)
	}
	if info, err := f.Info("b"); err != nil || info.Size() != 2 {
		t.Errorf("%+v, %v", info, err)
	}
	for _, err := range []error{f.ReadInto("none", nil), second(f.Section("none")), second(f.Info("none"))} {
		if !errors.Is(err, safetensors.ErrNotFound) || !strings.Contains(err.Error(), `"none": no such tensor`) {
			t.Error(err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.safetensors")
	writeFile(t, path, smallFile())
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	checkSmall(t, f)
	if f.Name() != path {
		t.Errorf("Name %q", f.Name())
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadInto("a", make([]byte, 4)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken.safetensors")
	writeFile(t, broken, smallFile()[:20])
	for path, rule := range map[string]error{
		filepath.Join(dir, "none"): fs.ErrNotExist,
		dir:                        safetensors.ErrNotRegular,
		broken:                     safetensors.ErrHeaderTruncated,
	} {
		_, err := safetensors.Open(path)
		if !errors.Is(err, rule) || !strings.HasPrefix(err.Error(), "safetensors: "+path+": ") {
			t.Errorf("got %v, want %v", err, rule)
		}
	}
}

func TestOpenFS(t *testing.T) {
	fsys := fstest.MapFS{"d/model.safetensors": {Data: smallFile()}, "dir": {Mode: fs.ModeDir}}
	f, err := safetensors.OpenFS(fsys, "d/model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	checkSmall(t, f)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	for name, rule := range map[string]error{"none": fs.ErrNotExist, "../x": fs.ErrNotExist, "dir": safetensors.ErrNotRegular} {
		if _, err := safetensors.OpenFS(fsys, name); !errors.Is(err, rule) {
			t.Errorf("%s: got %v, want %v", name, err, rule)
		}
	}
	_, err = safetensors.OpenFS(plainFS{fsys}, "d/model.safetensors")
	if !errors.Is(err, safetensors.ErrNoReaderAt) || !strings.Contains(err.Error(), "d/model.safetensors: file does not implement io.ReaderAt: found safetensors_test.plainFile") {
		t.Error(err)
	}
}

// plainFS has files without ReadAt, as a zip archive has.
type plainFS struct{ fs.FS }

type plainFile struct{ fs.File }

func (p plainFS) Open(name string) (fs.File, error) {
	f, err := p.FS.Open(name)
	return plainFile{f}, err
}

func TestNewReader(t *testing.T) {
	data := smallFile()
	f, err := safetensors.NewReader(eofAtEnd{data}, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	checkSmall(t, f)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	_, err = safetensors.NewReader(bytes.NewReader(data), int64(len(data)+1), safetensors.WithName("x"))
	if !errors.Is(err, safetensors.ErrTrailingBytes) || !strings.HasPrefix(err.Error(), "safetensors: x: byte ") {
		t.Error(err)
	}
}

// eofAtEnd says io.EOF together with the last byte, as an io.ReaderAt may.
type eofAtEnd struct{ b []byte }

func (e eofAtEnd) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, e.b[off:])
	if off+int64(n) == int64(len(e.b)) {
		return n, io.EOF
	}
	return n, nil
}

// failing fails every read from byte from on.
type failing struct {
	io.ReaderAt
	from int64
	err  error
}

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.from {
		return 0, f.err
	}
	return f.ReaderAt.ReadAt(p, off)
}

func TestReadErrors(t *testing.T) {
	data := smallFile()
	r := bytes.NewReader(data)
	for _, from := range []int64{0, 8} {
		for _, name := range []string{"", "x.safetensors"} {
			_, err := safetensors.NewReader(failing{r, from, iotest.ErrTimeout}, int64(len(data)), safetensors.WithName(name))
			if !errors.Is(err, iotest.ErrTimeout) || !strings.Contains(err.Error(), name) {
				t.Errorf("from %d: %v", from, err)
			}
		}
	}
	f, err := safetensors.NewReader(failing{r, int64(len(data) - 6), iotest.ErrTimeout}, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.ReadInto("a", make([]byte, 4)); !errors.Is(err, iotest.ErrTimeout) {
		t.Error(err)
	}
	f, err = safetensors.NewReader(failing{r, int64(len(data) - 6), io.EOF}, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.ReadInto("a", make([]byte, 4)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}
