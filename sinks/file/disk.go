package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// maxVectors is IOV_MAX.
const maxVectors = 1024

// errNoProgress is a write of less than a block. On a direct one it means that the way past the page cache does not work here; the other
// way finds out why.
var errNoProgress = fmt.Errorf("%w: less than a block", io.ErrShortWrite)

// disk is every change that the sink makes to the file system, in one place.
type disk struct {
	// before is asked before each change, by the tests: an error stops it. Nil lets everything happen.
	before func(op, path string) error
	// pwritev writes buffers at an offset, some bytes of them or all. It is replaced by the tests; nil is the system's.
	pwritev func(f *os.File, bufs [][]byte, off int64) (int, error)
}

func (d *disk) ask(op, path string) error {
	if d.before == nil {
		return nil
	}
	return d.before(op, path)
}

func (d *disk) mkdirAll(path string) error {
	if err := d.ask("mkdir", path); err != nil {
		return err
	}
	return os.MkdirAll(path, 0o755)
}

// chmod gives a folder the mode of another one.
func (d *disk) chmod(path string, mode fs.FileMode) error {
	mode &= fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if st, err := os.Lstat(path); err == nil && st.Mode()&^fs.ModeDir == mode {
		return nil
	}
	if err := d.ask("chmod", path); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// create opens a file that is empty then.
func (d *disk) create(path string) (*os.File, error) {
	if err := d.ask("create", path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR|noFollow, 0o644)
}

// allocate gives a file its size, with blocks for all of it where the file system can.
func (d *disk) allocate(f *os.File, n int64) error {
	if err := d.ask("allocate", f.Name()); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	return allocate(f, n)
}

func (d *disk) truncate(f *os.File, n int64) error {
	if err := d.ask("truncate", f.Name()); err != nil {
		return err
	}
	return f.Truncate(n)
}

// writeAt writes buffers one after another from off on.
func (d *disk) writeAt(f *os.File, bufs [][]byte, off int64) error {
	if err := d.ask("write", f.Name()); err != nil {
		return err
	}
	return d.writeAll(f, bufs, off, 1)
}

// writeDirect is writeAt for a file of openDirect. Offset, addresses and lengths are multiples of block.
func (d *disk) writeDirect(f *os.File, bufs [][]byte, off, block int64) error {
	if err := d.ask("direct", f.Name()); err != nil {
		return err
	}
	return d.writeAll(f, bufs, off, block)
}

// openDirect opens a file for writes past the page cache in multiples of block.
func (d *disk) openDirect(path string, block int64) (*os.File, error) {
	if err := d.ask("opendirect", path); err != nil {
		return nil, err
	}
	return openDirect(path, block)
}

// writeAll goes on after a short write, with a whole block: what it wrote of that one is written again.
func (d *disk) writeAll(f *os.File, bufs [][]byte, off, block int64) error {
	write := d.pwritev
	if write == nil {
		write = pwritev
	}
	rest := bufs
	for len(rest) > 0 {
		n, err := write(f, rest[:min(len(rest), maxVectors)], off)
		if err != nil {
			return err
		}
		n -= n % int(block)
		if n == 0 {
			return &os.PathError{Op: "write", Path: f.Name(), Err: errNoProgress}
		}
		off += int64(n)
		rest = skip(rest, n)
	}
	return nil
}

// skip is bufs without their first n bytes.
func skip(bufs [][]byte, n int) [][]byte {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if n > 0 {
		bufs = slices.Clone(bufs)
		bufs[0] = bufs[0][n:]
	}
	return bufs
}

// append writes at the end.
func (d *disk) append(f *os.File, b []byte) error {
	if err := d.ask("append", f.Name()); err != nil {
		return err
	}
	_, err := f.Write(b)
	return err
}

// sync makes data and size durable.
func (d *disk) sync(f *os.File) error {
	if err := d.ask("sync", f.Name()); err != nil {
		return err
	}
	return syncData(f)
}

// syncDir makes the names in a folder durable.
func (d *disk) syncDir(path string) error {
	if err := d.ask("syncdir", path); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *disk) rename(from, to string) error {
	if err := d.ask("rename", to); err != nil {
		return err
	}
	if err := rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (d *disk) remove(path string) error {
	if err := d.ask("remove", path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *disk) removeAll(path string) error {
	if err := d.ask("removeall", path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// writeFile makes a whole file, durable, through write.
func (d *disk) writeFile(path string, write func(f *os.File) error) error {
	if err := d.mkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := d.create(path)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = d.sync(f)
	}
	return errors.Join(err, f.Close())
}
