package file

import "github.com/coldload/coldload/stages"

// method is how one range is read. Every method has a file of its own.
type method uint8

const (
	mapped method = iota
	copied
	direct
)

var methodNames = [...]string{mapped: "mmap", copied: "pread", direct: "direct"}

// residentEnough is the share of a range that the page cache must hold for it to be mapped. The rest is then read by the kernel's
// readahead while faulting in, which is slower than reading, so it must be little.
const residentEnough = 0.95

// choose decides how e is read. [ModeAuto] documents the rule.
func (s *Source) choose(sh *shard, e stages.Extent) method {
	switch s.mode {
	case ModeMmap:
		return mapped
	case ModePread:
		return copied
	case ModeDirect:
		return sh.cold()
	case ModeAuto:
	}
	if sh.remote() {
		return copied
	}
	if share, known := s.kernel.resident(sh, e); !known || share < residentEnough {
		if sh.layered() {
			return copied
		}
		return sh.cold()
	}
	// A file system that cannot map, or no address space left: the bytes can still be copied.
	if _, err := sh.mapping(); err != nil {
		return copied
	}
	return mapped
}

// cold is how what is not in the page cache is read.
func (sh *shard) cold() method {
	if sh.directly() {
		return direct
	}
	return copied
}
