package safetensors

import (
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"strings"
)

// File is one file with its header checked. It may be used from several goroutines; Close must come after the last use.
type File struct {
	header *Header
	r      io.ReaderAt
	closer io.Closer // nil when the caller owns r
	name   string
}

// Open opens the file at path and checks its header. What is not a regular file is refused without opening it.
func Open(path string, opts ...Option) (*File, error) {
	c := newConfig(append([]Option{WithName(path)}, opts...))
	info, err := os.Stat(path)
	if err != nil {
		return nil, inFile(err, c.name)
	}
	if err := regular(info); err != nil {
		return nil, inFile(err, c.name)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, inFile(err, c.name)
	}
	return fromFile(f, c)
}

// OpenFS opens the file called name in fsys and checks its header. The files of fsys must implement io.ReaderAt, as those of os.DirFS,
// (*os.Root).FS, embed.FS and fstest.MapFS do and those of a zip archive do not: ErrNoReaderAt.
func OpenFS(fsys fs.FS, name string, opts ...Option) (*File, error) {
	return openFS(fsys, name, newConfig(append([]Option{WithName(name)}, opts...)))
}

func openFS(fsys fs.FS, name string, c config) (*File, error) {
	f, _, err := openRegular(fsys, name)
	if err != nil {
		return nil, inFile(err, c.name)
	}
	return fromFile(f, c)
}

// openRegular opens a regular file of fsys. It looks before it opens, since opening a pipe without a writer blocks.
func openRegular(fsys fs.FS, name string) (fs.File, fs.FileInfo, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, nil, outside(err)
	}
	if err := regular(info); err != nil {
		return nil, nil, err
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, nil, outside(err)
	}
	return f, info, nil
}

// outside gives the refusal of an os.Root to follow a link a rule and an advice. The os package has no sentinel for it.
func outside(err error) error {
	if !strings.Contains(err.Error(), "escapes from parent") {
		return err
	}
	return &FormatError{
		Offset: NoOffset, Err: wrapCause(ErrOutside, err), Expected: "a file in the folder, or a wider root given to OpenFS or OpenShardedFS",
	}
}

// fromFile takes ownership of f.
func fromFile(f fs.File, c config) (*File, error) {
	info, err := f.Stat()
	if err == nil {
		err = regular(info) // again: the name may have changed hands since the first look
	}
	r, ok := f.(io.ReaderAt)
	if err == nil && !ok {
		err = &FormatError{Offset: NoOffset, Err: ErrNoReaderAt, Found: fmt.Sprintf("%T", f)}
	}
	var file *File
	if err == nil {
		file, err = newFile(r, info.Size(), c)
	}
	if err != nil {
		f.Close() // the fault is what matters; nothing was written
		return nil, inFile(err, c.name)
	}
	file.closer = f
	return file, nil
}

func regular(info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return &FormatError{Offset: NoOffset, Err: ErrNotRegular, Expected: "a regular file", Found: "mode " + info.Mode().String()}
}

// NewReader checks the header of the size bytes that r holds. The caller still owns r, which must stay usable as long as the File.
func NewReader(r io.ReaderAt, size int64, opts ...Option) (*File, error) {
	c := newConfig(opts)
	f, err := newFile(r, size, c)
	return f, inFile(err, c.name)
}

func newFile(r io.ReaderAt, size int64, c config) (*File, error) {
	h, err := readHeader(r, size, c)
	if err != nil {
		return nil, err
	}
	return &File{header: h, r: r, name: c.name}, nil
}

// Close closes the file that Open or OpenFS opened; it does nothing for NewReader. The Header stays usable.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Name is the name that errors show: the path of Open, the name of OpenFS, what WithName gave.
func (f *File) Name() string { return f.name }

// Header is the checked table.
func (f *File) Header() *Header { return f.header }

// All is every tensor in file order.
func (f *File) All() iter.Seq2[string, Info] { return f.header.All() }

// Info is the tensor called name, or ErrNotFound.
func (f *File) Info(name string) (Info, error) {
	i, err := f.lookup(name)
	if err != nil {
		return Info{}, err
	}
	return f.header.Info(i), nil
}

// Section is the bytes of the tensor called name, or ErrNotFound. It reads nothing yet.
func (f *File) Section(name string) (*io.SectionReader, error) {
	i, err := f.lookup(name)
	if err != nil {
		return nil, err
	}
	begin, end := f.header.Extent(i)
	return io.NewSectionReader(f.r, f.header.DataOffset()+begin, end-begin), nil
}

// ReadInto reads the tensor called name into dst, whose length must be the tensor's size: else ErrBufferSize.
func (f *File) ReadInto(name string, dst []byte) error {
	i, err := f.lookup(name)
	if err != nil {
		return err
	}
	begin, end := f.header.Extent(i)
	at := f.header.DataOffset() + begin
	if int64(len(dst)) != end-begin {
		return &FormatError{
			File: f.name, Offset: at, Tensor: name, Err: ErrBufferSize,
			Expected: fmt.Sprintf("%d bytes", end-begin), Found: decimal(len(dst)),
		}
	}
	if len(dst) == 0 {
		return nil // at the end of the file some readers would say io.EOF
	}
	if err := readAt(f.r, dst, at); err != nil {
		return &FormatError{File: f.name, Offset: at, Tensor: name, Err: fmt.Errorf("read: %w", err)}
	}
	return nil
}

func (f *File) lookup(name string) (int, error) {
	i, ok := f.header.Lookup(name)
	if !ok {
		return 0, &FormatError{File: f.name, Offset: NoOffset, Tensor: name, Err: ErrNotFound}
	}
	return i, nil
}
