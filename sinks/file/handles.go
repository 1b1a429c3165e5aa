package file

import (
	"errors"
	"os"
	"slices"
	"sync"
)

// maxOpen is how many shards are open at once, each with up to two descriptors. A checkpoint whose experts are stacked may fill thousands of
// shards side by side, and a process has 1024 descriptors on many systems. More are open only while more goroutines write.
const maxOpen = 32

// handles opens shards, and closes those that were not used for longest.
type handles struct {
	d      *disk
	block  int64 // that direct writes are multiples of
	random bool  // shards are read too, without read-ahead
	limit  int

	mu   sync.Mutex // guards all below, and what is open of the shards
	open []*shard   // by the time of the last use
}

// opened is what handles knows of a shard.
type opened struct {
	file     *os.File
	direct   *os.File // the same file past the page cache; nil also where that does not work
	buffered bool     // it does not
	users    int
	unsynced bool  // something was written and not synced
	err      error // what was written may be lost
}

// use opens a shard, which stays open until done.
func (h *handles) use(s *shard) (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if s.file == nil {
		if err := h.shrink(h.limit - 1); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(s.path, os.O_RDWR|noFollow, 0)
		if err != nil {
			return nil, err
		}
		if h.random {
			readRandom(f)
		}
		s.file = f
		h.open = append(h.open, s)
	} else {
		i := slices.Index(h.open, s)
		h.open = append(slices.Delete(h.open, i, i+1), s)
	}
	s.users++
	return s.file, nil
}

// done ends a use. Wrote says that something may have been written.
func (h *handles) done(s *shard, wrote bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.users--
	s.unsynced = s.unsynced || wrote
}

// shrink closes shards that nobody uses until no more than keep are open. What is written to them is synced first: an error of the disk
// that nobody has open for might never be heard of. Others wait for that, so that nobody opens the shard and trusts it meanwhile.
func (h *handles) shrink(keep int) error {
	for i := 0; i < len(h.open) && len(h.open) > keep; {
		s := h.open[i]
		if s.users > 0 {
			i++
			continue
		}
		h.open = slices.Delete(h.open, i, i+1)
		if s.unsynced {
			s.err = h.d.sync(s.file)
			s.unsynced = false
		}
		if err := errors.Join(s.err, s.close()); err != nil {
			return err
		}
	}
	return nil
}

// sync makes everything durable that was written before.
func (h *handles) sync(s *shard) error {
	f, err := h.use(s)
	if err != nil {
		return err
	}
	defer h.done(s, false)
	h.mu.Lock()
	s.unsynced = false // what is written from here on may be in time or not
	h.mu.Unlock()
	return h.d.sync(f)
}

// direct is the file past the page cache, opened when it is needed for the first time, or nil when that was found not to work. The shard
// is in use.
func (h *handles) direct(s *shard) (*os.File, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.direct == nil && !s.buffered {
		f, err := h.d.openDirect(s.path, h.block)
		if err != nil {
			return nil, err
		}
		s.direct = f
	}
	if s.buffered {
		return nil, nil
	}
	return s.direct, nil
}

// notDirect notes that a shard cannot be written past the page cache.
func (h *handles) notDirect(s *shard) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.buffered = true
}

// file is the shard's file if it is open, used or not.
func (h *handles) file(s *shard) *os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	return s.file
}

// close closes a shard that will hardly be needed again, unless somebody uses it.
func (h *handles) close(s *shard) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.users > 0 || s.file == nil {
		return nil
	}
	i := slices.Index(h.open, s)
	h.open = slices.Delete(h.open, i, i+1)
	return s.close()
}

// closeAll closes every shard, in use or not, synced or not.
func (h *handles) closeAll() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, s := range h.open {
		errs = append(errs, s.close())
	}
	h.open = nil
	return errors.Join(errs...)
}

// close closes both files. It needs the lock of handles.
func (o *opened) close() error {
	f, direct := o.file, o.direct
	o.file, o.direct = nil, nil
	drop(f)
	if direct == nil {
		return f.Close()
	}
	return errors.Join(direct.Close(), f.Close())
}
