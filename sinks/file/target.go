package file

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

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
	made    bool     // the file of the journal was not there before
	// worthless: what is in OUT.partial is this run's, or was taken over by it, so without a durable Slab nothing in it is worth keeping.
	worthless bool
}

// found is what lies at target.dir.
type found uint8

const (
	nothing found = iota // absent, or an empty folder
	done                 // complete, of the same work
	damaged              // of the same work, but with files that are missing or of other sizes
	foreign              // anything else
)

// Precheck fails with a *TargetError when a Sink for dir would be refused, as far as that can be told without knowing the work: whatever
// its key, and whatever a killed run left. It changes nothing on the disk. Overwrite and protect are those of Options. Begin asks the same, so a caller
// needs this only to ask before long work.
func Precheck(dir string, overwrite bool, protect []string) error {
	t, err := locate(dir)
	if err != nil {
		return err
	}
	return t.usable(overwrite, protect)
}

// resolve finds the place, refuses what Precheck refuses, and makes the folders above it.
func resolve(d *disk, dir string, overwrite bool, protect []string) (*target, error) {
	t, err := locate(dir)
	if err != nil {
		return nil, err
	}
	t.d = d
	if err := t.usable(overwrite, protect); err != nil {
		return nil, err
	}
	parent := filepath.Dir(t.dir)
	return t, unusable(parent, d.mkdirAll(parent))
}

// locate finds the place. It touches nothing.
func locate(dir string) (*target, error) {
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
	if parent, err = withoutLinks(parent); err != nil {
		return nil, unusable(parent, err)
	}
	abs = filepath.Join(parent, filepath.Base(abs))
	return &target{dir: abs, partial: abs + ".partial", state: abs + JournalSuffix, aside: abs + ".coldload-old"}, nil
}

// withoutLinks resolves the links in a path of which the end may not exist.
func withoutLinks(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	above := filepath.Dir(path)
	if !errors.Is(err, fs.ErrNotExist) || above == path {
		return cmp.Or(resolved, path), err
	}
	above, err = withoutLinks(above)
	return filepath.Join(above, filepath.Base(path)), err
}

// usable refuses what can be refused without the key and the lock. It touches nothing.
func (t *target) usable(overwrite bool, protect []string) error {
	if err := t.spares(protect); err != nil {
		return err
	}
	st, err := os.Stat(t.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return unusable(t.dir, err)
	case !st.IsDir():
		return t.notAFolder(t.dir)
	case isMount(t.dir, filepath.Dir(t.dir)):
		return &TargetError{
			Path: t.dir, Err: errors.New("something is mounted here, and the finished folder could not be renamed to it"),
			Advice: "name a folder in it",
		}
	}
	if st, err := os.Lstat(t.partial); err == nil && !st.IsDir() {
		return t.notAFolder(t.partial)
	}
	if st, err := os.Lstat(t.state); err == nil && !st.Mode().IsRegular() {
		return t.noJournal()
	}
	return t.free(overwrite)
}

// free refuses what lies at dir when it is not to be replaced and cannot be a result of the same work.
func (t *target) free(overwrite bool) error {
	empty, err := isEmpty(t.dir)
	if empty || err != nil {
		return unusable(t.dir, err)
	}
	if !overwrite {
		if _, err := os.Lstat(filepath.Join(t.dir, packed.ManifestName)); errors.Is(err, fs.ErrNotExist) {
			return t.exists()
		}
		return nil
	}
	if _, err := os.Lstat(t.state); errors.Is(err, fs.ErrNotExist) { // without a journal nothing says that aside is a sink's
		return t.asideIsFree()
	}
	return nil
}

// isEmpty says whether a folder is empty or not there.
func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }() // it was only read
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

// spares refuses a target whose names are those of something that must stay where it is, or hold it.
func (t *target) spares(protect []string) error {
	names := newPlaces(t.dir, t.partial, t.state, t.aside)
	for _, p := range protect {
		abs, err := filepath.Abs(p)
		if err != nil {
			return unusable(p, err)
		}
		at := names.around(abs)
		if resolved, err := filepath.EvalSymlinks(abs); err == nil && at == "" {
			at = names.around(resolved)
		}
		switch at {
		case "":
		case t.dir:
			return &TargetError{Path: t.dir, Err: fmt.Errorf("it holds %s, which is read", abs), Advice: "choose another folder"}
		default:
			return &TargetError{Path: t.dir, Err: fmt.Errorf("%s is needed beside it, and holds %s, which is read", at, abs), Advice: "choose another folder"}
		}
	}
	if here, err := os.Getwd(); err == nil && newPlaces(t.dir).around(here) != "" {
		return &TargetError{
			Path: t.dir, Err: errors.New("it is the current folder or holds it, and the finished folder takes its place: the shell would be left in one that is gone"),
			Advice: "name a folder in it, or start from another folder",
		}
	}
	return nil
}

// places finds which of some paths others lie in: by name, and by what is there, since a folder may have several names.
type places struct {
	paths []string
	infos []os.FileInfo // nil where nothing is
	known map[string]string
}

func newPlaces(paths ...string) *places {
	p := &places{paths: paths, infos: make([]os.FileInfo, len(paths)), known: make(map[string]string)}
	for i, path := range paths {
		p.infos[i], _ = os.Stat(path) // it need not exist
	}
	return p
}

// around is the place that path is or lies in; empty when there is none.
func (p *places) around(path string) string {
	if at, ok := p.known[path]; ok {
		return at
	}
	at := ""
	st, err := os.Stat(path)
	for i, place := range p.paths {
		if path == place || err == nil && p.infos[i] != nil && os.SameFile(st, p.infos[i]) {
			at = place
			break
		}
	}
	if above := filepath.Dir(path); at == "" && above != path {
		at = p.around(above)
	}
	p.known[path] = at
	return at
}

func (t *target) exists() error {
	return &TargetError{Path: t.dir, Err: ErrTargetExists, Advice: "choose another folder, or say that it may be replaced"}
}

func (t *target) notAFolder(path string) error {
	return &TargetError{Path: path, Err: fmt.Errorf("%w and is not a folder", ErrTargetExists), Advice: "remove it or choose another name"}
}

func (t *target) noJournal() error {
	return &TargetError{
		Path: t.state, Err: fmt.Errorf("%w and is no journal of coldload", ErrTargetExists),
		Advice: "the name is needed: move it away, or remove it if it is of no use",
	}
}

// asideIsFree refuses to go on when something has the name that dir must get for the moment of replacing it.
func (t *target) asideIsFree() error {
	switch _, err := os.Lstat(t.aside); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return unusable(t.aside, err)
	}
	return &TargetError{
		Path: t.aside, Err: fmt.Errorf("%w, and the name is needed while %s is replaced", ErrTargetExists, t.dir),
		Advice: "move it away: it may be what was to be replaced by an earlier run, or somebody's",
	}
}

// look says what lies at dir, and what is wrong with it when it is damaged.
func (t *target) look(key packed.Sum) (at found, flaw, err error) {
	empty, err := isEmpty(t.dir)
	switch {
	case err != nil:
		return foreign, nil, unusable(t.dir, err)
	case empty:
		return nothing, nil, nil
	}
	made, flaw := whole(t.dir, key)
	switch {
	case made && flaw == nil:
		return done, nil, nil
	case made:
		return damaged, flaw, nil
	}
	return foreign, nil, nil
}

// whole says whether dir is of the work with this key, by its manifest, and what is wrong with the sizes of its files then.
func whole(dir string, key packed.Sum) (made bool, flaw error) {
	m, err := packed.ReadFile(dir)
	if err != nil || m.Key != key {
		return false, nil //nolint:nilerr // then it is something else
	}
	check := func(name string, n int64) error {
		switch st, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(name))); {
		case errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("%s is missing", name)
		case err != nil:
			return err
		case !st.Mode().IsRegular():
			return fmt.Errorf("%s is not a regular file", name)
		case st.Size() != n:
			return fmt.Errorf("%s has %d bytes, not %d", name, st.Size(), n)
		}
		return nil
	}
	for _, s := range m.Shards {
		if err := check(s.File, s.Bytes); err != nil {
			return true, err
		}
	}
	for _, f := range m.Files {
		if err := check(f.Name, f.Bytes); err != nil {
			return true, err
		}
	}
	return true, nil
}

func hasSize(path string, n int64) bool {
	st, err := os.Lstat(path)
	return err == nil && st.Mode().IsRegular() && st.Size() == n
}

// acquire takes the lock, and reads the journal that it is. The holder before may have removed the file that was opened, and made the
// target complete.
func (t *target) acquire() error {
	for range acquireTries {
		f, made, err := openJournal(t.state)
		switch {
		case errors.Is(err, errNoJournal):
			return t.noJournal()
		case errors.Is(err, fs.ErrNotExist):
			if _, err := os.Stat(filepath.Dir(t.state)); err != nil {
				return unusable(t.state, err)
			}
			continue // it was removed meanwhile
		case err != nil:
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
		there, errThere := os.Lstat(t.state)
		if errMine != nil || errThere != nil || !os.SameFile(mine, there) {
			_ = f.Close() // nothing was written
			continue
		}
		t.journal, t.made = &journal{d: t.d, f: f}, made
		if !recognised(f, mine.Size()) {
			return errors.Join(t.noJournal(), t.release())
		}
		if err := t.journal.load(); err != nil {
			return errors.Join(unusable(t.state, err), t.release())
		}
		return nil
	}
	return &TargetError{Path: t.state, Err: errors.New("no file can be made there"), Advice: "choose another folder"}
}

// acquireTries is how often the journal may be gone meanwhile. There are folders in which a file can never be made, and that is all they say: /proc.
const acquireTries = 1000

// errNoJournal is a name that is taken by something else.
var errNoJournal = errors.New("no journal")

// openJournal opens or makes the file. It follows no link, waits for no pipe, and changes nothing that is there.
func openJournal(path string) (f *os.File, made bool, err error) {
	f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err == nil || !errors.Is(err, fs.ErrExist) {
		return f, err == nil, err
	}
	if st, err := os.Lstat(path); err != nil || !st.Mode().IsRegular() {
		return nil, false, cmp.Or(err, errNoJournal)
	}
	if f, err = os.OpenFile(path, os.O_RDWR|noFollow|noWait, 0); err != nil {
		return nil, false, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		_ = f.Close() // nothing was written
		return nil, false, cmp.Or(err, errNoJournal)
	}
	return f, false, nil
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

// start writes the journal's first line, and then makes OUT.partial: where that is, the journal says whose it is. Nobody sees more of the
// folder than of the one that it will replace.
func (t *target) start(key packed.Sum) error {
	if err := t.journal.start(key); err != nil {
		return err
	}
	if err := t.d.syncDir(filepath.Dir(t.dir)); err != nil {
		return err
	}
	if err := t.d.mkdirAll(t.partial); err != nil {
		return err
	}
	if st, err := os.Lstat(t.dir); err == nil {
		return t.d.chmod(t.partial, st.Mode()|0o700)
	}
	return nil
}

// ownAside says whether aside is what a sink has moved there: the journal says so before it happens.
func (t *target) ownAside() bool {
	if t.journal == nil || t.journal.aside == (moved{}) {
		return false
	}
	st, err := os.Lstat(t.aside)
	return err == nil && st.IsDir() && inode(st) == t.journal.aside.Inode
}

// recover puts right what a run left that was killed while it replaced dir: it goes on with the renames when OUT.partial is complete and of
// the same work, and takes them back when not. It removes nothing, and leaves a dir alone that is not empty. It needs the lock.
func (t *target) recover(key packed.Sum) (completed bool, err error) {
	if empty, err := isEmpty(t.dir); err != nil || !empty {
		return false, unusable(t.dir, err)
	}
	if made, flaw := whole(t.partial, key); made && flaw == nil {
		return true, t.publish(key, false)
	}
	if !t.ownAside() {
		return false, nil
	}
	if err := t.putBack(); err != nil {
		return false, unusable(t.aside, fmt.Errorf("it is what %s was before a run was killed: %w", t.dir, err))
	}
	return false, t.d.syncDir(filepath.Dir(t.dir))
}

// publish gives the complete folder its name. What is there is moved aside first when it may be replaced, and removed at the end. It needs
// the lock.
func (t *target) publish(key packed.Sum, overwrite bool) error {
	st, err := os.Lstat(t.dir)
	there := err == nil
	switch {
	case there && !st.IsDir():
		return t.notAFolder(t.dir)
	case !there && !errors.Is(err, fs.ErrNotExist):
		return unusable(t.dir, err)
	}
	empty, err := isEmpty(t.dir)
	switch {
	case err != nil:
		return unusable(t.dir, err)
	case !empty && !overwrite: // it was not there when this run began
		return t.exists()
	case !empty:
		if err := t.setAside(key, st); err != nil {
			return unusable(t.dir, err)
		}
	}
	if there {
		err = t.d.chmod(t.partial, st.Mode())
	}
	if err == nil {
		err = t.d.rename(t.partial, t.dir)
	}
	if err != nil {
		if there { // it is changed again by a later run
			err = errors.Join(err, t.d.chmod(t.partial, st.Mode()|0o700))
		}
		if !empty {
			err = errors.Join(err, t.putBack())
		}
		if notEmpty(err) {
			return errors.Join(t.exists(), err)
		}
		return unusable(t.dir, err)
	}
	parent := filepath.Dir(t.dir)
	return unusable(parent, t.d.syncDir(parent))
}

// setAside moves dir out of the way, after the journal has said so.
func (t *target) setAside(key packed.Sum, st os.FileInfo) error {
	if err := t.asideIsFree(); err != nil {
		return err
	}
	if err := t.journal.append(record{Aside: &moved{Inode: inode(st), Key: key, Moved: true}}); err != nil {
		return err
	}
	return t.d.rename(t.dir, t.aside)
}

// putBack is the opposite of setAside.
func (t *target) putBack() error {
	if err := t.d.rename(t.aside, t.dir); err != nil {
		return err
	}
	return t.journal.append(record{Aside: &moved{}})
}

// makeRoom removes what an earlier run has moved aside and did replace, so that dir can be moved there.
func (t *target) makeRoom() error {
	if t.ownAside() {
		if m, err := packed.ReadFile(t.dir); err == nil && m.Key == t.journal.aside.Key {
			return unusable(t.aside, t.d.removeAll(t.aside))
		}
	}
	return t.asideIsFree()
}

// tidy removes what is of no use once dir is complete and of the work with this key. It needs the lock, which it lets go of. The journal
// stays as long as it is needed to say what something is.
func (t *target) tidy(key packed.Sum) error {
	if t.ownAside() && t.journal.aside.Key == key {
		if err := t.d.removeAll(t.aside); err != nil {
			return errors.Join(err, t.release())
		}
	}
	if _, err := os.Lstat(t.partial); !errors.Is(err, fs.ErrNotExist) {
		return t.release() // of other work
	}
	return t.drop()
}

// drop removes the journal if nothing is left that it tells about, and lets go of the lock.
func (t *target) drop() error {
	if t.ownAside() {
		return t.release()
	}
	return t.forget()
}

// discard removes OUT.partial, and the journal when that has worked.
func (t *target) discard() error {
	if err := t.d.removeAll(t.partial); err != nil {
		return errors.Join(err, t.release())
	}
	return t.drop()
}
