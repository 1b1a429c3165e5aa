package file

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/edsrzf/mmap-go"

	"github.com/coldload/coldload/stages"
)

// Shard is an open Shard as it was when its header was read.
type Shard struct {
	Name    string // for errors
	File    *os.File
	Size    int64     // bytes
	ModTime time.Time // taken from the file by New when zero
}

// shard is a Shard with what is found out once, when it is first needed.
type shard struct {
	Shard
	unchanged func() error              // compare, at the first Fetch
	mapping   func() (mmap.MMap, error) // the whole file
	remote    func() bool               // on a network file system
	layered   func() bool               // on a file system that direct reads gain nothing on
	direct    func() (*directFile, error)
	refusal   atomic.Pointer[error] // why direct reads were refused; nil while they were not
	latency   *latency              // of reads of all Shards; nil records nothing

	mem    mmap.MMap // what mapping made, for close
	passBy *os.File  // what direct opened, for close
}

// newShard returns a shard on error too: it owns the file.
func newShard(in Shard, tuners *tuners, by calls) (*shard, error) {
	sh := &shard{Shard: in}
	sh.unchanged = sync.OnceValue(sh.compare)
	sh.mapping = sync.OnceValues(sh.mapFile)
	sh.remote = sync.OnceValue(func() bool { return remote(sh.File) })
	sh.layered = sync.OnceValue(func() bool { return layered(sh.File) })
	sh.direct = sync.OnceValues(func() (*directFile, error) { return sh.openDirect(tuners, by) })
	if sh.File == nil {
		return sh, fmt.Errorf("%s: the shard is not open", sh.Name)
	}
	if sh.ModTime.IsZero() {
		info, err := sh.File.Stat()
		if err != nil {
			return sh, fmt.Errorf("%s: %w", sh.Name, err)
		}
		sh.ModTime = info.ModTime()
	}
	return sh, nil
}

// compare reports whether the file is still the one that was described.
func (sh *shard) compare() error {
	info, err := sh.File.Stat()
	if err != nil {
		return fmt.Errorf("%s: %w", sh.Name, err)
	}
	var problem string
	switch size := info.Size(); {
	case size < sh.Size:
		problem = "the file was truncated since its header was read"
	case size > sh.Size:
		problem = "the file grew since its header was read"
	case !info.ModTime().Equal(sh.ModTime):
		problem = "the file was written since its header was read"
	default:
		return nil
	}
	return &stages.DataError{
		File:     sh.Name,
		Problem:  problem,
		Expected: state(sh.Size, sh.ModTime),
		Found:    state(info.Size(), info.ModTime()),
		Advice:   "leave the checkpoint alone while it is read, and run again",
	}
}

func state(size int64, t time.Time) string {
	return fmt.Sprintf("%d bytes of %s", size, t.UTC().Format(time.RFC3339Nano))
}

// close unmaps and closes. It is called once, when nothing uses the shard.
func (sh *shard) close() error {
	var errs []error
	if sh.mem != nil {
		errs = append(errs, sh.mem.Unmap())
	}
	for _, f := range []*os.File{sh.passBy, sh.File} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// rangeError is a DataError with the Extent that could not be read, so that the fetch stage can name the tensor in it.
type rangeError struct {
	extent stages.Extent
	err    *stages.DataError
}

func (e *rangeError) Error() string         { return e.err.Error() }
func (e *rangeError) Unwrap() error         { return e.err }
func (e *rangeError) Extent() stages.Extent { return e.extent }

// lost says that the bytes of e cannot be had.
func (sh *shard) lost(e stages.Extent, de *stages.DataError) error {
	de.File = sh.Name
	return &rangeError{extent: e, err: de}
}
