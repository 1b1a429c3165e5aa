package gguf

import (
	"fmt"
	"io"
	"iter"
	"os"
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
	opts = append([]Option{WithName(path)}, opts...)
	info, err := os.Stat(path)
	if err != nil {
		return nil, inFile(err, path)
	}
	if !info.Mode().IsRegular() {
		return nil, notRegular(path, info)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, inFile(err, path)
	}
	file, err := fromFile(f, opts)
	if err != nil {
		_ = f.Close() // the fault is what matters; nothing was written
		return nil, err
	}
	return file, nil
}

// fromFile looks again at what was opened: the name may have changed hands since the first look.
func fromFile(f *os.File, opts []Option) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, inFile(err, f.Name())
	}
	if !info.Mode().IsRegular() {
		return nil, notRegular(f.Name(), info)
	}
	file, err := NewReader(f, info.Size(), opts...)
	if err != nil {
		return nil, err
	}
	file.closer = f
	return file, nil
}

func notRegular(path string, info os.FileInfo) error {
	return &FormatError{File: path, Offset: NoOffset, Err: ErrNotRegular, Expected: "a regular file", Found: "mode " + info.Mode().String()}
}

// NewReader checks the header of the size bytes that r holds. The caller still owns r, which must stay usable as long as the File.
func NewReader(r io.ReaderAt, size int64, opts ...Option) (*File, error) {
	h, err := ReadHeader(r, size, opts...)
	if err != nil {
		return nil, err
	}
	return &File{header: h, r: r, name: newConfig(opts).name}, nil
}

// Close closes the file that Open opened; it does nothing for NewReader. The Header stays usable.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Name is the name that errors show: the path of Open, or what WithName gave.
func (f *File) Name() string { return f.name }

// Header is the checked table.
func (f *File) Header() *Header { return f.header }

// All is every tensor in the order of the header.
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

// Value is the bytes of a value of the metadata as they stand in the file, without its type: of an array its element type, its length and its
// elements. It reads nothing yet.
func (f *File) Value(v Value) *io.SectionReader { return io.NewSectionReader(f.r, v.Offset, v.Size) }

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
			File: f.name, Offset: at, Tensor: name, Err: ErrBufferSize, Expected: fmt.Sprintf("%d bytes", end-begin), Found: decimal(len(dst)),
		}
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
