package synth

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// partial ends the name of a Shard that is not finished: a killed run leaves nothing that looks like a checkpoint.
const partial = ".partial"

// target is the folder that a run fills. It remembers what it made, so that abort leaves the disk as it was.
type target struct {
	dir     string
	created bool
	files   []string // paths made so far
}

// openTarget makes the folder, or takes an empty one. It fails with ErrNotEmpty for anything else that is there.
func openTarget(dir string) (*target, error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("synth: %w", err)
		}
		return &target{dir: dir, created: true}, nil
	case err != nil:
		return nil, fmt.Errorf("synth: %w", err)
	case len(entries) > 0:
		return nil, fmt.Errorf("%w: %s has %s", ErrNotEmpty, dir, entries[0].Name())
	}
	return &target{dir: dir}, nil
}

// create opens a new file of the folder; one that exists is another run's.
func (t *target) create(name string) (*os.File, error) {
	path := filepath.Join(t.dir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("synth: %w", err)
	}
	t.files = append(t.files, path)
	return f, nil
}

// write makes a small file in one go.
func (t *target) write(name string, data []byte) error {
	f, err := t.create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("synth: %w", err)
	}
	return nil
}

func (t *target) writeJSON(name string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("synth: %s: %w", name, err)
	}
	return t.write(name, append(data, '\n'))
}

// publish gives the unfinished file its final name.
func (t *target) publish(name string) error {
	path := filepath.Join(t.dir, name)
	if err := os.Rename(path+partial, path); err != nil {
		return fmt.Errorf("synth: %w", err)
	}
	t.files = append(t.files, path)
	return nil
}

// abort removes everything that the run made. Its error is what could not be removed.
func (t *target) abort() error {
	var errs []error
	for _, path := range t.files {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // a published file is gone under its first name
			errs = append(errs, err)
		}
	}
	if t.created {
		errs = append(errs, os.Remove(t.dir))
	}
	return errors.Join(errs...)
}
