package discover

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/coldload/coldload/stages"
)

// trust opens files below one folder and nowhere else.
type trust struct {
	root   *os.Root
	dir    string // the folder, absolute and without links
	escape error  // what os.Root says of a path that leaves it
}

// openTrust opens dir, which must be absolute and free of links.
func openTrust(dir string) (*trust, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	// The os package does not export its sentinel; a path that must escape yields it.
	_, err = root.Lstat("..")
	var pe *fs.PathError
	if !errors.As(err, &pe) {
		return nil, errors.Join(fmt.Errorf("%s: the operating system does not confine a folder: %w", dir, err), root.Close())
	}
	return &trust{root: root, dir: dir, escape: pe.Err}, nil
}

// path is the name as users know it.
func (t *trust) path(name string) string { return filepath.Join(t.dir, name) }

// stat describes the file behind name, and gives the name under which the root opens it.
func (t *trust) stat(name string) (inner string, info fs.FileInfo, err error) {
	info, err = t.root.Stat(name)
	if !errors.Is(err, t.escape) {
		return name, info, err
	}
	// os.Root refuses every absolute link, also one that stays below the root: resolve it, and let the root judge where it ends.
	target, eerr := filepath.EvalSymlinks(t.path(name))
	if eerr != nil {
		return name, nil, err
	}
	inner, rerr := filepath.Rel(t.dir, target)
	if rerr != nil || !filepath.IsLocal(inner) {
		return name, nil, err
	}
	info, err = t.root.Stat(inner)
	return inner, info, err
}

// notRegularError says what a file is instead of a regular file.
type notRegularError struct{ mode fs.FileMode }

func (e notRegularError) Error() string { return "not a regular file but " + modeName(e.mode) }

func modeName(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "a regular file"
	case m.IsDir():
		return "a folder"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	default:
		return "a special file"
	}
}

// regular describes a regular file and gives the name under which the root opens it.
func (t *trust) regular(name string) (inner string, info fs.FileInfo, err error) {
	inner, info, err = t.stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = notRegularError{info.Mode()}
	}
	return inner, info, err
}

// open opens a regular file. It looks before it opens, since opening a pipe blocks and opening a device may do anything; O_NONBLOCK,
// which means nothing for a regular file, covers a file that is replaced in between.
func (t *trust) open(name string) (*os.File, fs.FileInfo, error) {
	inner, _, err := t.regular(name)
	if err != nil {
		return nil, nil, err
	}
	f, err := t.root.OpenFile(inner, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = notRegularError{info.Mode()}
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// tooLargeError says that a file is larger than any file of its kind.
type tooLargeError struct{ size, most int64 }

func (e tooLargeError) Error() string {
	return fmt.Sprintf("%d bytes, more than the %d that are read", e.size, e.most)
}

// read reads a regular file of at most most bytes.
func (t *trust) read(name string, most int64) ([]byte, error) {
	f, info, err := t.open(name)
	if err != nil {
		return nil, err
	}
	data, err := readSized(f, info.Size(), most)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return data, nil
}

// names lists a folder, sorted.
func (t *trust) names(dir string) ([]string, error) {
	f, err := t.root.Open(dir)
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// fault turns an error about a file into a Fault of the given code. ok is false for what is the system's fault and not the file's.
func (t *trust) fault(code stages.Code, name string, err error) (f stages.Fault, ok bool) {
	f = stages.Fault{Code: code, File: filepath.Base(name)}
	var notRegular notRegularError
	var tooLarge tooLargeError
	switch {
	case errors.Is(err, t.escape):
		f.Code = stages.CodeEscape
		f.Problem = "is a link that leaves the trusted folder"
		f.Expected = "a file below " + t.dir
		f.Advice = "put the file itself into the folder, or name the folder that the link points to"
		if target, err := t.root.Readlink(name); err == nil {
			f.Found = target
		}
	case errors.As(err, &notRegular):
		f.Problem, f.Expected, f.Found = "is not a file that can be read", "a regular file", modeName(notRegular.mode)
	case errors.As(err, &tooLarge):
		f.Problem = "is too large"
		f.Expected, f.Found = fmt.Sprintf("at most %d bytes", tooLarge.most), fmt.Sprintf("%d bytes", tooLarge.size)
	case errors.Is(err, fs.ErrNotExist):
		f.Problem, f.Advice = "is not there", "bring the file back"
		if _, err := t.root.Lstat(name); err == nil {
			f.Problem = "is a link to a file that is not there"
		}
		if code == stages.CodeShard {
			f.Code = stages.CodeMissingShard
		}
	case errors.Is(err, fs.ErrPermission):
		f.Problem, f.Advice = "may not be read by this user", "change its permissions"
	case errors.Is(err, syscall.ELOOP):
		f.Problem = "is a link that leads back to itself"
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ENOTDIR):
		f.Problem = "is a link that leads nowhere"
	default:
		return stages.Fault{}, false
	}
	return f, true
}

func (t *trust) close() error { return t.root.Close() }

// readSized reads a file of size bytes in one piece: an index has tens of megabytes, and growing a buffer would hold them several times.
func readSized(f io.Reader, size, most int64) ([]byte, error) {
	if size > most {
		return nil, tooLargeError{size: size, most: most}
	}
	data := make([]byte, size)
	n, err := io.ReadFull(f, data)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil // it was shortened meanwhile: what is left is judged as it is
	}
	return data[:n], err
}
