package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/pflag"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/report"
	"github.com/coldload/coldload/stages/discover"
)

// pictureFlags say what files are to show where the time of a load went.
type pictureFlags struct{ report, trace string }

func (f *pictureFlags) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&f.report, "report", "", "write a page that shows where the time went to `FILE`.html, also when the load fails")
	fs.StringVar(&f.trace, "trace", "", "write every step of every worker to `FILE`.json, for ui.perfetto.dev, also when the load fails")
}

// pictures are the files, while the load runs. Without any, nothing is observed.
type pictures struct {
	recorder *report.Recorder // nil without a page
	page     *picture
	trace    *report.Trace // nil without a trace
	steps    *picture
}

// openPictures makes sure, before anything else is done, that the files can be written, and are none of the checkpoint's at path.
func (f *pictureFlags) openPictures(e *env, path string) (_ *pictures, err error) {
	p := &pictures{}
	defer func() {
		if err != nil {
			p.page.drop()
		}
	}()
	start := time.Now()
	for _, c := range []struct{ flag, path string }{{"--report", f.report}, {"--trace", f.trace}} {
		if inCheckpoint(c.path, path, e.hubCache) {
			return nil, usagef("%s %s: a file of the checkpoint would be replaced: name one outside its folder", c.flag, c.path)
		}
	}
	if f.report != "" {
		if p.page, err = openPicture("--report", f.report, ""); err != nil {
			return nil, err
		}
		p.recorder = report.NewRecorder(start)
	}
	if f.trace != "" {
		if p.steps, err = openPicture("--trace", f.trace, p.page.name()); err != nil {
			return nil, err
		}
		p.trace = report.NewTrace(p.steps.file, start)
	}
	return p, nil
}

// observers are several as one.
type observers []pipeline.Observer

// Observe tells each.
func (list observers) Observe(e pipeline.Event) {
	for _, o := range list {
		o.Observe(e)
	}
}

// observer watches the load for the pictures; nil when there are none.
func (p *pictures) observer() pipeline.Observer {
	var list observers
	if p.recorder != nil {
		list = append(list, p.recorder)
	}
	if p.trace != nil {
		list = append(list, p.trace)
	}
	switch len(list) {
	case 0:
		return nil
	case 1:
		return list[0]
	default:
		return list
	}
}

// shown is a load as the pictures show it.
type shown struct {
	*loaded

	flags  *planFlags
	sink   string
	object any   // what --json prints
	failed error // nil when it did not
}

// finish writes what the load has become.
func (p *pictures) finish(e *env, s *shown) error {
	var faults []error
	if p.trace != nil {
		faults = append(faults, p.steps.finish(func(io.Writer) error { return p.trace.End(s.Result, s.failed) }))
	}
	if p.recorder != nil {
		faults = append(faults, p.page.finish(func(w io.Writer) error {
			page, err := s.page(e)
			if err != nil {
				return err
			}
			page.Timeline = p.recorder.Timeline(s.Result.Duration)
			return page.WriteHTML(w)
		}))
	}
	return errors.Join(faults...)
}

// page is what the page of a load says, but for its timeline.
func (s *shown) page(e *env) (report.Page, error) {
	l := s.loaded
	text, err := s.text()
	_, stopped := errors.AsType[*interruptError](s.failed)
	return report.Page{
		Load: l.Load, Path: l.path, Err: s.failed, Stopped: stopped, Budget: l.budget, Machine: machineFacts(l.Result), Options: s.optionFacts(e), Object: text,
	}, err
}

// text is the object that the command prints; of a load that failed, the object of the failure goes before it.
func (s *shown) text() ([]byte, error) {
	text, err := encode(s.object)
	if s.failed == nil || err != nil {
		return text, err
	}
	failure, err := encode(failureJSON{Error: s.failed.Error(), Faults: faultsOf(s.failed)})
	return slices.Concat(failure[:len(failure)-1], []byte(","), text[1:]), err
}

// optionFacts are what the load was asked for.
func (s *shown) optionFacts(e *env) []report.Fact {
	l, o := s.loaded, s.flags
	workers := "as each stage chooses"
	if o.workers > 0 {
		workers = fmt.Sprint(o.workers)
	}
	layout := o.layout.value
	if p := l.Result.Plan; p != nil {
		layout = string(p.Summary.Layout)
	}
	facts := []report.Fact{
		{Name: "begun", Value: e.start.Format(time.RFC3339)},
		{Name: "checkpoint", Value: l.path},
		{Name: "--to", Value: s.sink},
		{Name: "--layout", Value: layout},
		{Name: "--dtype", Value: o.dtype.value},
		{Name: "--budget", Value: report.BinaryBytes(l.budget)},
		{Name: "--workers", Value: workers},
		{Name: "--io", Value: o.io.value},
	}
	for _, f := range []struct {
		name  string
		given bool
	}{{"--no-fuse", o.noFuse}, {"--no-pad", o.noPad}, {"--strict", o.strict}, {"--act-order", o.actOrder}, {"--no-self-check", o.noSelfCheck}} {
		if f.given {
			facts = append(facts, report.Fact{Name: f.name, Value: "yes"})
		}
	}
	for _, pattern := range o.include {
		facts = append(facts, report.Fact{Name: "--include", Value: pattern})
	}
	for _, pattern := range o.exclude {
		facts = append(facts, report.Fact{Name: "--exclude", Value: pattern})
	}
	return facts
}

// picture is a file that gets its name when it is whole.
type picture struct {
	flag, path string
	file       *os.File // under another name
}

// openPicture refuses what cannot be written, would not be replaced but destroyed, or is taken by the picture other.
func openPicture(flag, path, other string) (*picture, error) {
	path, err := realPath(path)
	if err != nil {
		return nil, usagef("%s: %w", flag, err)
	}
	switch info, err := os.Stat(path); {
	case path == other:
		return nil, usagef("%s %s: --report and --trace name the same file", flag, path)
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, usagef("%s: %w", flag, err)
	case info.IsDir():
		return nil, usagef("%s %s is a folder: give the name of a file in it", flag, path)
	case !info.Mode().IsRegular():
		return nil, usagef("%s %s is not a regular file", flag, path)
	}
	f, err := os.OpenFile(fmt.Sprintf("%s.partial-%d", path, os.Getpid()), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, usagef("%s: %w", flag, err)
	}
	return &picture{flag: flag, path: path, file: f}, nil
}

// inCheckpoint tells whether target is a file that lies in the folder of the checkpoint, or to which a link or another name there leads. Of a
// checkpoint that is not found the load says so.
func inCheckpoint(target, checkpoint, hubCache string) bool {
	info, err := os.Stat(target)
	if err != nil || info.IsDir() {
		return false // there is nothing to replace
	}
	ck, err := discover.Locate(checkpoint, discover.Options{HubCache: hubCache})
	if err != nil {
		return false
	}
	defer func() { _ = ck.Close() }() // it was only looked at
	path, err := realPath(target)
	if err != nil {
		return false
	}
	if inside, err := filepath.Rel(ck.Dir, path); err == nil && filepath.IsLocal(inside) {
		return true
	}
	entries, err := os.ReadDir(ck.Dir)
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		own, err := os.Stat(filepath.Join(ck.Dir, e.Name()))
		return err == nil && os.SameFile(own, info)
	})
}

// realPath is path, absolute and without links, so that one file has one name: what a link leads to is replaced, not the link. The file
// need not be there, its folder must be.
func realPath(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		folder, err := filepath.EvalSymlinks(filepath.Dir(path))
		if err != nil {
			return "", err
		}
		target = filepath.Join(folder, filepath.Base(path))
	}
	return filepath.Abs(target)
}

// finish has write write the rest, and gives the file its name. After an error there is no file, or the one that was there before.
func (p *picture) finish(write func(io.Writer) error) error {
	err := errors.Join(write(p.file), p.file.Close())
	if err == nil {
		err = os.Rename(p.file.Name(), p.path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", p.flag, errors.Join(err, os.Remove(p.file.Name())))
	}
	return nil
}

// name is what the file will be called; "" of none.
func (p *picture) name() string {
	if p == nil {
		return ""
	}
	return p.path
}

// drop gives a file up that nothing was written to.
func (p *picture) drop() {
	if p != nil {
		_ = p.file.Close() // nothing can be lost
		_ = os.Remove(p.file.Name())
	}
}
