package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// window is how many bytes are read at a time.
const window = 64 << 10

// scanner reads a header from its beginning to its end, and never beyond the end of the file or of the largest header.
type scanner struct {
	r    io.ReaderAt
	pos  int64 // of the next byte to hand out
	size int64 // of the file
	most int64 // bytes of the largest header
	buf  []byte
	at   int64 // offset in the file of buf[0]
}

// fits refuses n more bytes that the file does not have, or that would make the header too large.
func (s *scanner) fits(n uint64) error {
	if left := uint64(s.size - s.pos); n > left {
		return &FormatError{
			Offset: s.pos, Err: ErrTruncated, Expected: fmt.Sprintf("%d more bytes of the header", n), Found: fmt.Sprintf("%d up to the end", left),
		}
	}
	if n > uint64(s.most-s.pos) {
		return &FormatError{Offset: s.pos, Err: ErrHeaderTooLarge, Expected: fmt.Sprintf("at most %d bytes", s.most), Found: "more"}
	}
	return nil
}

// next is the next n bytes, at most window of them. They are valid until the next call.
func (s *scanner) next(n int) ([]byte, error) {
	if err := s.fits(uint64(n)); err != nil {
		return nil, err
	}
	if s.pos < s.at || s.pos+int64(n) > s.at+int64(len(s.buf)) {
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	b := s.buf[s.pos-s.at:][:n]
	s.pos += int64(n)
	return b, nil
}

// fill reads the window that begins at pos.
func (s *scanner) fill() error {
	if s.buf == nil {
		s.buf = make([]byte, 0, min(window, s.size))
	}
	s.buf, s.at = s.buf[:min(int64(cap(s.buf)), s.size-s.pos)], s.pos
	if err := readAt(s.r, s.buf, s.pos); err != nil {
		s.buf = s.buf[:0]
		return fmt.Errorf("read header at byte %d: %w", s.pos, err)
	}
	return nil
}

// skip passes over n bytes.
func (s *scanner) skip(n uint64) error {
	if err := s.fits(n); err != nil {
		return err
	}
	s.pos += int64(n)
	return nil
}

func (s *scanner) u32() (uint32, error) {
	b, err := s.next(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (s *scanner) u64() (uint64, error) {
	b, err := s.next(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// readAt fills p. An io.ReaderAt may say io.EOF together with the last byte.
func readAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil, errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	default:
		return err
	}
}
