package file

import "unsafe"

// directBytes is the least that is written past the page cache at once. For less the system call and the disk's answer cost more than a
// copy. Slabs of at least so many bytes get a buffer that lies as their place in the file does.
const directBytes = 64 << 10

// stretch is adjacent bytes of a shard that are written in one way.
type stretch struct {
	direct bool
	off, n int64 // in the file
	pieces int
	bufs   [][]byte // as many
}

// stretches cuts adjacent pieces into what goes past the page cache and what does not. The former is whole blocks whose memory is aligned,
// so no block, which is a page at least, is written both ways, whatever its neighbours do. Small stretches go with their neighbours.
func stretches(run []piece, block int64) []stretch {
	pieces := len(run)
	for i := range run {
		if int64(len(run[i].buf)) >= block {
			pieces += 2
		}
	}
	bufs := make([][]byte, 0, pieces) // of all stretches, one after another
	var fine, all []stretch
	for i := range run {
		fine, bufs = cut(fine, bufs, run[i].buf, run[i].off, block)
	}
	for _, st := range fine {
		st.direct = st.direct && st.n >= directBytes
		all = join(all, st)
	}
	n := 0
	for i := range all {
		all[i].bufs = bufs[n : n+all[i].pieces]
		n += all[i].pieces
	}
	return all
}

// cut adds a buffer to the stretches, and its pieces to bufs.
func cut(to []stretch, bufs [][]byte, buf []byte, off, block int64) ([]stretch, [][]byte) {
	end := off + int64(len(buf))
	from, until := (off+block-1)&^(block-1), end&^(block-1)
	if from >= until || (address(buf)-off)&(block-1) != 0 {
		from, until = end, end
	}
	for _, part := range [...]struct {
		direct     bool
		begin, end int64
	}{{false, off, from}, {true, from, until}, {false, until, end}} {
		if n := part.end - part.begin; n > 0 {
			bufs = append(bufs, buf[part.begin-off:part.end-off])
			to = join(to, stretch{direct: part.direct, off: part.begin, n: n, pieces: 1})
		}
	}
	return to, bufs
}

// join adds a stretch that begins where the last one ends.
func join(to []stretch, st stretch) []stretch {
	if n := len(to); n > 0 && to[n-1].direct == st.direct {
		to[n-1].n += st.n
		to[n-1].pieces += st.pieces
		return to
	}
	return append(to, st)
}

func address(b []byte) int64 { return int64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) }

// putStretches writes adjacent pieces of a shard.
func (s *Sink) putStretches(sh *shard, run []piece) error {
	f, err := s.handles.use(sh)
	if err != nil {
		return err
	}
	defer s.handles.done(sh, true)
	for _, st := range stretches(run, s.block) {
		past := false
		var err error
		if st.direct {
			past, err = s.putDirect(sh, st)
		}
		if !past && err == nil {
			err = s.disk.writeAt(f, st.bufs, st.off)
		}
		if err == nil {
			err = s.writeback.wrote(sh, st.off, st.n, past)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putDirect writes past the page cache. It is false when that does not work with this file, which is not tried again then. Some of the
// bytes may be there: the other way writes all of them again.
func (s *Sink) putDirect(sh *shard, st stretch) (bool, error) {
	f, err := s.handles.direct(sh)
	if f == nil && err == nil {
		return false, nil
	}
	if err == nil {
		err = s.disk.writeDirect(f, st.bufs, st.off, s.block)
	}
	if !notDirect(err) {
		return true, err
	}
	s.handles.notDirect(sh)
	return false, nil
}
