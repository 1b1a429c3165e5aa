package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/coldload/coldload/internal/packed"
)

// JournalSuffix ends the name of the file beside a folder in the making that is its lock and journal.
const JournalSuffix = ".partial.journal"

// target is the folder to make, and the names beside it.
type target struct {
	d       *disk
	dir     string // absolute, without links in it
	partial string
	state   string // lock and journal
	aside   string // what dir was, while it is replaced

	journal *journal // nil without the lock
}

// found is what lies at target.dir.
type found uint8

const (
	nothing found = iota // absent, or an empty folder
	done                 // complete, of the same work
	foreign              // anything else
)

// resolve finds the place and makes the folders above it.
func resolve(d *disk, dir string, protect []string) (*target, error) {
	if dir == "" {
		return nil, &TargetError{Path: `""`, Err: errors.New("no folder is named"), Advice: "name one"}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, unusable(dir, err)
	}
	if st, err := os.Lstat(abs); err == nil && st.Mode()&fs.ModeSymlink != 0 {
		if abs, err = filepath.EvalSymlinks(abs); err != nil {
			return nil, &TargetError{Path: dir, Err: err, Advice: "it is a link that leads nowhere"}
		}
	}
	parent := filepath.Dir(abs)
	if parent == abs {
		return nil, &TargetError{Path: abs, Err: errors.New("the root of a file system cannot be replaced"), Advice: "name a folder in it"}
	}
	if err := d.mkdirAll(parent); err != nil {
		return nil, unusable(parent, err)
	}
	if parent, err = filepath.EvalSymlinks(parent); err != nil {
		return nil, unusable(parent, err)
	}
	abs = filepath.Join(parent, filepath.Base(abs))
	t := &target{d: d, dir: abs, partial: abs + ".partial", state: abs + JournalSuffix, aside: abs + ".coldload-old"}
	return t, t.usable(protect)
}

func (t *target) usable(protect []string) error {
	for _, p := range protect {
		p, err := filepath.Abs(p)
		if err != nil {
			return unusable(p, err)
		}
		if q, err := filepath.EvalSymlinks(p); err == nil {
			p = q
		}
		if p == t.dir || strings.HasPrefix(p, t.dir+string(filepath.Separator)) {
			return &TargetError{Path: t.dir, Err: fmt.Errorf("it holds %s, which is read", p), Advice: "choose another folder"}
		}
	}
	st, err := os.Stat(t.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return unusable(t.dir, err)
	case !st.IsDir():
		return &TargetError{Path: t.dir, Err: fmt.Errorf("%w and is not a folder", ErrTargetExists), Advice: "remove it or choose another name"}
	case isMount(t.dir, filepath.Dir(t.dir)):
		return &TargetError{
			Path: t.dir, Err: errors.New("something is mounted here, and the finished folder could not be renamed to it"),
			Advice: "name a folder in it",
		}
	}
	return nil
}

// look says what lies at dir.
func (t *target) look(key packed.Sum) (found, error) {
	entries, err := os.ReadDir(t.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nothing, nil
	case err != nil:
		return foreign, unusable(t.dir, err)
	case len(entries) == 0:
		return nothing, nil
	case whole(t.dir, key):
		return done, nil
	}
	return foreign, nil
}

// whole reports whether dir is complete and of the work with this key: a good manifest, and every file of the right size.
func whole(dir string, key packed.Sum) bool {
	m, err := packed.ReadFile(dir)
	if err != nil || m.Key != key {
		return false
	}
	for _, s := range m.Shards {
		if !hasSize(filepath.Join(dir, s.File), s.Bytes) {
			return false
		}
	}
	for _, f := range m.Files {
		if !hasSize(filepath.Join(dir, filepath.FromSlash(f.Name)), f.Bytes) {
			return false
		}
	}
	return true
}

func hasSize(path string, n int64) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() == n
}

// acquire takes the lock. The holder before may have removed the file that was opened, and made the target complete.
func (t *target) acquire() error {
	for {
		f, err := os.OpenFile(t.state, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return unusable(t.state, err)
		}
		locked, err := lock(f)
		if err != nil || !locked {
			_ = f.Close() // nothing was written
			if err != nil {
				return unusable(t.state, err)
			}
			return &TargetError{Path: t.dir, Err: ErrLocked, Advice: "wait for it, or stop it"}
		}
		mine, errMine := f.Stat()
		there, errThere := os.Stat(t.state)
		if errMine == nil && errThere == nil && os.SameFile(mine, there) {
			t.journal = &journal{d: t.d, f: f}
			return nil
		}
		_ = f.Close() // nothing was written
	}
}

// release lets go of the lock.
func (t *target) release() error {
	if t == nil || t.journal == nil {
		return nil
	}
	f := t.journal.f
	t.journal = nil
	return f.Close()
}

// forget removes the journal, and then lets go of the lock that it is.
func (t *target) forget() error {
	return errors.Join(t.d.remove(t.state), t.release())
}

// start writes the journal's first line, and then makes OUT.partial: where that is, the journal says whose it is.
func (t *target) start(key packed.Sum) error {
	if err := t.journal.start(key); err != nil {
		return err
	}
	if err := t.d.syncDir(filepath.Dir(t.dir)); err != nil {
		return err
	}
	return t.d.mkdirAll(t.partial)
}

// recover puts right what a run left that was killed while it replaced dir. It needs the lock.
func (t *target) recover(key packed.Sum) error {
	if at, err := t.look(key); err != nil {
		return err
	} else if at == nothing && whole(t.partial, key) {
		if err := t.publish(); err != nil {
			return err
		}
		return ErrAlreadyDone
	}
	if _, err := os.Lstat(t.aside); err != nil {
		return nil //nolint:nilerr // nothing is left over
	}
	if _, err := packed.ReadFile(t.dir); err == nil {
		return unusable(t.aside, t.d.removeAll(t.aside))
	}
	if err := t.d.rename(t.aside, t.dir); err != nil {
		return &TargetError{Path: t.aside, Err: err, Advice: "it is what " + t.dir + " was before a run was killed: move it away"}
	}
	return nil
}

// publish gives the complete folder its name. What is there is moved aside first, and removed at the end. It needs the lock.
func (t *target) publish() error {
	parent := filepath.Dir(t.dir)
	entries, err := os.ReadDir(t.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unusable(t.dir, err)
	}
	replaced := len(entries) > 0
	if replaced {
		if err := t.d.rename(t.dir, t.aside); err != nil {
			return unusable(t.dir, err)
		}
	}
	if err := t.d.rename(t.partial, t.dir); err != nil {
		if replaced {
			err = errors.Join(err, t.d.rename(t.aside, t.dir))
		}
		return unusable(t.dir, err)
	}
	if err := t.d.syncDir(parent); err != nil {
		return unusable(parent, err)
	}
	return nil
}

// tidy removes what is of no use once dir is complete. It needs the lock, which it lets go of.
func (t *target) tidy() error { return errors.Join(t.d.removeAll(t.aside), t.forget()) }
