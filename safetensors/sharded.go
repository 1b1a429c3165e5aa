package safetensors

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// Sharded is a folder of shards with its index, checked against each other. It may be used from several goroutines; Close must come after
// the last use.
type Sharded struct {
	index *Index
	files []*File // in the order of index.files
	root  *os.Root
}

// OpenSharded opens the folder dir: IndexName in it and every shard that the index names. Index and headers are checked against each
// other both ways (see Index.Check), and every fault found is in the *FaultsError that it returns.
//
// Nothing outside dir is opened, not even through a symbolic link. A snapshot in the cache of Hugging Face consists of links that leave
// its folder: open the cache as the root and name the folder in it, with OpenShardedFS.
func OpenSharded(dir string, opts ...Option) (*Sharded, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, inFile(err, dir)
	}
	s, err := openSharded(root.FS(), ".", dir, newConfig(opts))
	if err != nil {
		root.Close() // the fault is what matters; nothing was written
		return nil, err
	}
	s.root = root
	return s, nil
}

// OpenShardedFS is OpenSharded for the folder dir of fsys ("." for its top), whose files must implement io.ReaderAt. To open a folder
// whose links may lead anywhere below some root, give it the file system of an os.Root, which must stay open as long as the Sharded:
//
//	root, err := os.OpenRoot("/home/me/.cache/huggingface/hub")
//	s, err := safetensors.OpenShardedFS(root.FS(), "models--org--name/snapshots/0123abc")
func OpenShardedFS(fsys fs.FS, dir string, opts ...Option) (*Sharded, error) {
	return openSharded(fsys, dir, dir, newConfig(opts))
}

// openSharded opens dir in fsys; shown is how errors call it.
func openSharded(fsys fs.FS, dir, shown string, c config) (*Sharded, error) {
	ix, err := readIndex(fsys, path.Join(dir, IndexName), filepath.Join(shown, IndexName), c.limits)
	if err != nil {
		return nil, err
	}
	s := &Sharded{index: ix, files: make([]*File, len(ix.files))}
	headers := make([]*Header, len(ix.files))
	var faults FaultsError
	for i, name := range ix.files {
		c.name = filepath.Join(shown, name)
		f, err := openFS(fsys, path.Join(dir, name), c)
		if err != nil {
			faults.add(shardFault(err, c.name))
			continue
		}
		s.files[i], headers[i] = f, f.header
	}
	ix.check(headers, shown, &faults)
	if err := faults.err(); err != nil {
		s.Close() // the faults are what matters; nothing was written
		return nil, err
	}
	return s, nil
}

// readIndex reads and checks the index; its size is compared with the limit before it is read.
func readIndex(fsys fs.FS, name, shown string, l Limits) (*Index, error) {
	f, info, err := openRegular(fsys, name)
	if err != nil {
		return nil, inFile(err, shown)
	}
	defer f.Close()
	data, err := readLimited(f, info.Size(), l.MaxIndexBytes)
	if err != nil {
		return nil, inFile(err, shown)
	}
	ix, err := parseIndex(data, l)
	return ix, inFile(err, shown)
}

// readLimited reads size bytes of r at once, or what there is of them.
func readLimited(r io.Reader, size, limit int64) ([]byte, error) {
	if size > limit {
		return nil, &FormatError{
			Offset: NoOffset, Err: ErrIndexTooLarge, Expected: fmt.Sprintf("at most %d bytes", limit), Found: decimal(size),
		}
	}
	data := make([]byte, size)
	n, err := io.ReadFull(r, data)
	switch {
	case err == nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return data[:n], nil
	default:
		return nil, err
	}
}

// shardFault makes a fault of what stopped a shard from being opened.
func shardFault(err error, name string) *FormatError {
	if e, ok := errors.AsType[*FormatError](err); ok {
		return e
	}
	cause := errors.Unwrap(err) // without the name, which the fault has
	e := &FormatError{File: name, Offset: NoOffset, Err: cause}
	if errors.Is(cause, fs.ErrNotExist) {
		e.Err, e.Expected = wrapCause(ErrMissingShard, cause), "the file that the index names"
	}
	return e
}

// Check compares the index with the headers of its shards, by file name, both ways. A tensor may be in the index and in no header, in a
// header and not in the index, in another shard than the index says, or in several. Every fault is in the *FaultsError it returns. A
// shard that headers lacks is one fault, and so is a header that the index does not name.
func (ix *Index) Check(headers map[string]*Header) error {
	var faults FaultsError
	list := make([]*Header, len(ix.files))
	for i, name := range ix.files {
		if list[i] = headers[name]; list[i] == nil {
			faults.add(&FormatError{File: name, Offset: NoOffset, Err: ErrMissingShard, Expected: "the file that the index names"})
		}
	}
	for _, name := range strayFiles(ix, headers) {
		faults.add(&FormatError{File: name, Offset: NoOffset, Err: ErrNotInIndex, Expected: "a shard that the index names"})
	}
	ix.check(list, "", &faults)
	return faults.err()
}

// strayFiles is the headers whose file the index does not name, sorted.
func strayFiles(ix *Index, headers map[string]*Header) []string {
	var stray []string
	for name := range headers {
		if _, ok := slices.BinarySearch(ix.files, name); !ok {
			stray = append(stray, name)
		}
	}
	slices.Sort(stray)
	return stray
}

// check compares the index with headers, which are in the order of ix.files and nil for a shard that could not be opened: that one has
// its own fault already, and nothing is said about its tensors.
func (ix *Index) check(headers []*Header, dir string, faults *FaultsError) {
	seen := make([]uint64, (ix.Len()+63)/64) // entries that were found in some header
	for file, h := range headers {
		if h == nil {
			continue
		}
		for i := range h.Len() {
			name := h.Name(i)
			n, ok := ix.Find(name)
			if ok {
				seen[n/64] |= 1 << (n % 64)
				if int(ix.entries.at(n).file) == file {
					continue
				}
			}
			faults.add(ix.misplaced(headers, dir, file, n, name))
		}
	}
	for n := range ix.Len() {
		if file := ix.entries.at(n).file; seen[n/64]>>(n%64)&1 == 0 && headers[file] != nil {
			faults.add(&FormatError{
				File: filepath.Join(dir, IndexName), Offset: NoOffset, Tensor: ix.Name(n), Err: ErrNotInHeader,
				Expected: "it in " + ix.files[file], Found: "it in no shard",
			})
		}
	}
}

// misplaced is the fault for a tensor that stands in a shard where the index does not have it. n is its entry, or -1.
func (ix *Index) misplaced(headers []*Header, dir string, file, n int, name string) *FormatError {
	e := &FormatError{File: filepath.Join(dir, ix.files[file]), Offset: NoOffset, Tensor: name}
	if n < 0 {
		e.Err = ErrNotInIndex
		return e
	}
	named := ix.entries.at(n).file
	e.Err, e.Expected, e.Found = ErrWrongShard, "it in "+ix.files[named], "it in "+ix.files[file]
	if h := headers[named]; h != nil {
		if _, both := h.Lookup(name); both {
			e.Err, e.Expected, e.Found = ErrDuplicateTensor, "it only in "+ix.files[named], "it in "+ix.files[file]+" too"
		}
	}
	return e
}

// Close closes every shard. Index and headers stay usable.
func (s *Sharded) Close() error {
	var errs []error
	for _, f := range s.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if s.root != nil {
		errs = append(errs, s.root.Close())
	}
	return errors.Join(errs...)
}

// Index is the checked index.
func (s *Sharded) Index() *Index { return s.index }

// Files is the shards, sorted by name. The caller owns the slice; Close of the Sharded closes them.
func (s *Sharded) Files() []*File { return slices.Clone(s.files) }

// File is the shard that holds the tensor called name, or ErrNotFound.
func (s *Sharded) File(name string) (*File, error) {
	i, ok := s.index.Find(name)
	if !ok {
		return nil, &FormatError{File: IndexName, Offset: NoOffset, Tensor: name, Err: ErrNotFound}
	}
	return s.files[s.index.entries.at(i).file], nil
}

// All is every tensor with its shard: shards in sorted order, tensors in file order.
func (s *Sharded) All() iter.Seq2[*File, Info] {
	return func(yield func(*File, Info) bool) {
		for _, f := range s.files {
			for _, t := range f.All() {
				if !yield(f, t) {
					return
				}
			}
		}
	}
}

// Info is the tensor called name, or ErrNotFound.
func (s *Sharded) Info(name string) (Info, error) {
	f, err := s.File(name)
	if err != nil {
		return Info{}, err
	}
	return f.Info(name)
}

// Section is the bytes of the tensor called name, or ErrNotFound. It reads nothing yet.
func (s *Sharded) Section(name string) (*io.SectionReader, error) {
	f, err := s.File(name)
	if err != nil {
		return nil, err
	}
	return f.Section(name)
}

// ReadInto reads the tensor called name into dst, whose length must be the tensor's size: else ErrBufferSize.
func (s *Sharded) ReadInto(name string, dst []byte) error {
	f, err := s.File(name)
	if err != nil {
		return err
	}
	return f.ReadInto(name, dst)
}
