package discover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// Options say where to look.
type Options struct {
	// HubCache is the folder of the Hugging Face cache, for Checkpoints named by id; see [HubCacheFromEnv]. Empty: there is none.
	HubCache string
	// Refused, when set, is asked before a Checkpoint is refused what else is wrong with it: the Shards that were found can be opened
	// until it returns. So a missing Shard does not hide what is wrong with the others.
	Refused func(*Checkpoint) []stages.Fault
}

// Kind says how a Checkpoint was named.
type Kind string

// The kinds of Checkpoint.
const (
	KindFolder Kind = "folder" // a folder
	KindFile   Kind = "file"   // one .safetensors or .gguf file
	KindHub    Kind = "hub"    // an entry of the Hugging Face cache, named by id or by path
)

// Shard is one weight file.
type Shard struct {
	Name    string // base name
	Size    int64  // bytes
	ModTime time.Time
}

// Checkpoint is what Discover found. Its fields are not changed afterwards; its methods are safe for concurrent use until Close.
type Checkpoint struct {
	Path string // as asked for
	Dir  string // the folder that holds the Shards, absolute and without links
	Kind Kind

	// Repo ("org/name") and Commit are set when the Checkpoint lies in a hub cache, Revision when it was named by id.
	Repo, Revision, Commit string

	Shards []Shard // sorted by name, never empty

	// Index is what the file IndexFile says; nil without one.
	IndexFile string
	Index     *safetensors.Index

	// Single is a model.safetensors that lies beside the Index's Shards and is none of them, so that it is not read. The index stage
	// compares its tensor names with the Index: a Checkpoint whose two halves disagree is refused.
	Single string

	Config *ModelConfig // never nil; Config.Present tells whether config.json was there
	Quant  *QuantConfig // nil when no file names a quantisation
	Notes  []string     // what was decided on the way, for people

	trust           *trust
	sub             string // Dir below the trust root
	others, folders []string
}

// Locate finds the folder that path names, and nothing in it: of the Checkpoint there are Path, Dir, Kind and the names of the hub, and the
// methods Open, FS and Close. It is for looking at a folder that may be damaged. The caller closes it.
func Locate(path string, opt Options) (*Checkpoint, error) {
	p, err := locate(path, opt)
	if err != nil {
		return nil, wrap(path, err)
	}
	return p.checkpoint(path), nil
}

func (p *place) checkpoint(path string) *Checkpoint {
	return &Checkpoint{
		Path: path, Dir: p.trust.path(p.sub), Kind: p.kind,
		Repo: p.repo, Revision: p.revision, Commit: p.commit,
		trust: p.trust, sub: p.sub,
	}
}

// Discover finds the Checkpoint that path names. What is wrong with it comes back as a *stages.RefusedError. The caller closes it.
func Discover(ctx context.Context, path string, opt Options) (*Checkpoint, error) {
	p, err := locate(path, opt)
	if err != nil {
		return nil, wrap(path, err)
	}
	d := &discoverer{place: p, ck: p.checkpoint(path)}
	if err := d.run(ctx); err != nil {
		return nil, wrap(path, errors.Join(also(err, d.ck, opt), p.trust.close()))
	}
	return d.ck, nil
}

// also adds to a refusal what Options.Refused finds.
func also(err error, ck *Checkpoint, opt Options) error {
	refusal, ok := errors.AsType[*stages.RefusedError](err)
	if !ok || opt.Refused == nil || len(ck.Shards) == 0 {
		return err
	}
	return stages.Refuse(slices.Concat(refusal.Faults, opt.Refused(ck))...)
}

// wrap names the Checkpoint in an error, unless it is a refusal: that says itself what it is about.
func wrap(path string, err error) error {
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok {
		return refused
	}
	return fmt.Errorf("discover %s: %w", path, err)
}

// discoverer collects what it finds, and every Fault on the way.
type discoverer struct {
	*place
	ck     *Checkpoint
	names  []string // of the entries of the folder, sorted
	gguf   bool     // the Shards are GGUF files
	faults []stages.Fault
}

// run fills in the Checkpoint.
func (d *discoverer) run(ctx context.Context) error {
	var err error
	if d.names, err = d.trust.names(d.sub); err != nil {
		return fmt.Errorf("list folder: %w", err)
	}
	slices.Sort(d.names)
	for _, step := range []func(context.Context) error{d.findShards, d.readConfigs, d.findOthers} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return stages.Refuse(d.faults...)
}

func (d *discoverer) fault(f stages.Fault) { d.faults = append(d.faults, f) }

func (d *discoverer) note(format string, args ...any) {
	d.ck.Notes = append(d.ck.Notes, fmt.Sprintf(format, args...))
}

// has tells whether the folder has an entry of that name.
func (d *discoverer) has(name string) bool {
	_, ok := slices.BinarySearch(d.names, name)
	return ok
}

// at is a file of the folder as the trust root names it.
func (d *discoverer) at(name string) string { return filepath.Join(d.sub, name) }

// OpenShard opens the i-th Shard for reading. A Shard that cannot be opened is a *stages.RefusedError, one whose size is not the one
// that was discovered a *stages.DataError.
func (c *Checkpoint) OpenShard(i int) (*os.File, error) {
	s := c.Shards[i]
	f, size, err := c.openAs(stages.CodeShard, s.Name)
	if err != nil {
		return nil, err
	}
	if size != s.Size {
		err := &stages.DataError{
			File: s.Name, Problem: "the file has changed since the load began",
			Expected: fmt.Sprintf("%d bytes", s.Size), Found: fmt.Sprintf("%d bytes", size),
			Advice: "load again when nothing writes to the checkpoint",
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// OtherFiles names the files of the Checkpoint's folder that hold no weights and no index: config, tokenizer, templates. Sorted.
func (c *Checkpoint) OtherFiles() []string { return slices.Clone(c.others) }

// Folders names the folders in the Checkpoint's folder, hidden ones left out. Sorted.
func (c *Checkpoint) Folders() []string { return slices.Clone(c.folders) }

// ETag is the name under which the Hugging Face cache stores the i-th Shard: the SHA-256 of its bytes in hex for what the hub keeps as
// large files. It is empty for a Shard that lies elsewhere.
func (c *Checkpoint) ETag(i int) string {
	if c.Repo == "" {
		return ""
	}
	target, err := c.trust.root.Readlink(filepath.Join(c.sub, c.Shards[i].Name))
	if err != nil || filepath.Base(filepath.Dir(target)) != "blobs" {
		return ""
	}
	return filepath.Base(target)
}

// Open opens a regular file of the Checkpoint's folder by its name below the folder, with slashes, such as one of OtherFiles. A name that
// is not there is an fs.ErrNotExist.
func (c *Checkpoint) Open(name string) (*os.File, error) {
	f, _, err := c.openAs(stages.CodeNotFound, name)
	return f, err
}

// FS is the Checkpoint's folder, for walking. It does not follow links; what it opens is not checked as Open does.
func (c *Checkpoint) FS() (fs.FS, error) {
	return fs.Sub(c.trust.root.FS(), filepath.ToSlash(filepath.Clean(c.sub)))
}

// openAs opens a file of the folder; code is that of the Fault when it is no file that can be read.
func (c *Checkpoint) openAs(code stages.Code, name string) (*os.File, int64, error) {
	local, err := filepath.Localize(name)
	if err != nil {
		return nil, 0, stages.Refuse(stages.Fault{
			Code: stages.CodeEscape, File: name, Problem: "is not the name of a file in the checkpoint's folder",
		})
	}
	at := filepath.Join(c.sub, local)
	f, info, err := c.trust.open(at)
	if err == nil {
		return f, info.Size(), nil
	}
	if _, lerr := c.trust.root.Lstat(at); lerr == nil || code == stages.CodeShard {
		if fault, ok := c.trust.fault(code, at, err); ok {
			return nil, 0, stages.Refuse(fault)
		}
	}
	return nil, 0, fmt.Errorf("open %s: %w", name, err)
}

// Close gives up the Checkpoint's folder. Files that it opened stay open.
func (c *Checkpoint) Close() error { return c.trust.close() }
