package file

import (
	"fmt"
	"slices"
	"strings"
)

// Mode says how a Source reads.
type Mode uint8

const (
	// ModeAuto maps a range when the file system is local and the page cache holds at least 95 % of the range, and reads it directly
	// otherwise. It copies where the file system is a network's, or one of layers (tmpfs, overlay), or refuses direct reads. Where the
	// kernel does not tell what is in the page cache, or refuses to (the process neither owns the file nor may write it), everything
	// counts as cold.
	ModeAuto Mode = iota
	// ModeMmap maps every range.
	ModeMmap
	// ModePread copies every range.
	ModePread
	// ModeDirect reads every range past the page cache, and copies what is too small or the file system refuses to read that way:
	// [Source.Notes] then says so.
	ModeDirect
)

var modeNames = []string{"auto", "mmap", "pread", "direct"}

// String is the Mode as ParseMode reads it.
func (m Mode) String() string {
	if int(m) >= len(modeNames) {
		return fmt.Sprintf("mode %d", uint8(m))
	}
	return modeNames[m]
}

// ParseMode reads the name of a Mode. An unknown name is an error that lists the known ones.
func ParseMode(s string) (Mode, error) {
	if i := slices.Index(modeNames, s); i >= 0 {
		return Mode(i), nil
	}
	return ModeAuto, fmt.Errorf("unknown way to read %q (known: %s)", s, strings.Join(modeNames, ", "))
}
