package file

import (
	"errors"
	"os"
	"sync"
)

// windowBytes is what is handed to the disk at once.
const windowBytes = 16 << 20

// writeback bounds the dirty pages of all shards: half of the bound may be waiting to be handed to the disk, half may be on its way. On
// top come 16 MiB for each goroutine that waits.
type writeback struct {
	half    int64
	handles *handles

	mu      sync.Mutex // guards all below, and the shards' windows
	dirty   int64      // bytes written and not handed over
	flying  int64      // bytes handed over and not waited for
	touched []*window  // those with dirty bytes, by the time of the first
	sent    []flight   // by the time
}

// window is a range of one shard.
type window struct {
	shard   *shard
	index   int64
	written int64 // bytes, ever
	dirty   int64
	listed  bool // in writeback.touched
}

// flight is what was handed over.
type flight struct {
	shard *shard
	off   int64
	bytes int64 // that were dirty
}

// wrote notes that a range of a shard was written, hands over what is due and waits for what is too much. What went past the page cache
// only counts for its window being full.
func (w *writeback) wrote(s *shard, off, n int64, direct bool) error {
	w.mu.Lock()
	send := w.touch(s, off, n, direct)
	for w.dirty > w.half && len(w.touched) > 0 {
		oldest := w.touched[0]
		w.touched = w.touched[1:]
		oldest.listed = false
		if oldest.dirty > 0 {
			send = append(send, w.hand(oldest))
		}
	}
	var wait []flight
	for w.flying > w.half && len(w.sent) > 0 {
		wait = append(wait, w.sent[0])
		w.flying -= w.sent[0].bytes
		w.sent = w.sent[1:]
	}
	w.mu.Unlock()

	for _, fl := range send {
		if err := fl.do(w.handles, startWrite); err != nil {
			return err
		}
	}
	for _, fl := range wait {
		if err := fl.do(w.handles, waitWritten); err != nil {
			return err
		}
	}
	return nil
}

// touch adds the bytes to the windows that they lie in, and hands over those that are full.
func (w *writeback) touch(s *shard, off, n int64, direct bool) (send []flight) {
	for n > 0 {
		i := off / windowBytes
		begin, end := i*windowBytes, min((i+1)*windowBytes, s.size)
		k := min(n, end-off)
		win := s.windows[i]
		if win == nil {
			if s.windows == nil {
				s.windows = make(map[int64]*window)
			}
			win = &window{shard: s, index: i}
			s.windows[i] = win
		}
		win.written += k
		if !direct {
			win.dirty += k
			w.dirty += k
		}
		if win.written >= end-max(begin, s.data) {
			delete(s.windows, i)
			if win.dirty > 0 {
				send = append(send, w.hand(win))
			}
		} else if !win.listed && win.dirty > 0 {
			win.listed = true
			w.touched = append(w.touched, win)
		}
		off, n = off+k, n-k
	}
	return send
}

func (w *writeback) hand(win *window) flight {
	fl := flight{win.shard, win.index * windowBytes, win.dirty}
	w.dirty -= win.dirty
	w.flying += win.dirty
	win.dirty = 0
	w.sent = append(w.sent, fl)
	return fl
}

// do calls a function of the system on the window. A shard that was closed was synced before.
func (fl flight) do(h *handles, call func(f *os.File, off, n int64) error) error {
	f := h.file(fl.shard)
	if f == nil {
		return nil
	}
	if err := call(f, fl.off, windowBytes); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
