package safetensors

// Limits bound what a header or an index may make a reader do. Zero fields mean the default; a value above the ceiling means the ceiling.
// The defaults are far above what real checkpoints need: the largest have half a million tensors in all their shards together.
type Limits struct {
	MaxHeaderBytes int64 // JSON text of one header, bytes; default and ceiling 100,000,000, which the format sets
	MaxIndexBytes  int64 // model.safetensors.index.json, bytes; default 256 MiB, ceiling 1 GiB
	MaxTensors     int   // tensors in one header, or entries in an index; default 2,000,000
	MaxRank        int   // dimensions of one shape; default 64, ceiling 255
	MaxNameBytes   int   // one tensor's name in UTF-8, bytes; default 4,096, ceiling 65,535
	MaxShards      int   // different files in one index; default 10,000, ceiling 65,535
}

// The limits that the format sets, or that the compact tables are built for.
const (
	// MaxHeaderBytes is the largest JSON text that the format allows: 10^8 bytes.
	MaxHeaderBytes = 100_000_000

	maxIndexBytes   = 1 << 30
	maxTensors      = 1 << 30
	maxRank         = 255
	maxShards       = 1<<16 - 1
	defaultIndex    = 256 << 20
	defaultTensors  = 2_000_000
	defaultRank     = 64
	defaultName     = 4096
	defaultShards   = 10_000
	maxNoteCount    = 64 // notes kept for one header
	maxShardNameLen = 255
)

// withDefaults replaces what is unset and caps what is above a ceiling.
func (l Limits) withDefaults() Limits {
	return Limits{
		MaxHeaderBytes: bound(l.MaxHeaderBytes, MaxHeaderBytes, MaxHeaderBytes),
		MaxIndexBytes:  bound(l.MaxIndexBytes, defaultIndex, maxIndexBytes),
		MaxTensors:     bound(l.MaxTensors, defaultTensors, maxTensors),
		MaxRank:        bound(l.MaxRank, defaultRank, maxRank),
		MaxNameBytes:   bound(l.MaxNameBytes, defaultName, maxNameBytes),
		MaxShards:      bound(l.MaxShards, defaultShards, maxShards),
	}
}

func bound[T int | int64](v, unset, ceiling T) T {
	if v <= 0 {
		return unset
	}
	return min(v, ceiling)
}

// Option changes how a reader treats what it reads.
type Option func(*config)

type config struct {
	limits   Limits
	trailing bool
	name     string
}

// WithLimits replaces the default Limits.
func WithLimits(l Limits) Option { return func(c *config) { c.limits = l } }

// WithTrailingBytes accepts bytes after the last tensor, with a note. Nothing else becomes lenient. It is for files that a block device or
// an object store has padded.
func WithTrailingBytes() Option { return func(c *config) { c.trailing = true } }

// WithName sets the name of the file that errors show. Open, OpenFS and the sharded readers set it themselves.
func WithName(name string) Option { return func(c *config) { c.name = name } }

func newConfig(opts []Option) config {
	var c config
	for _, o := range opts {
		o(&c)
	}
	c.limits = c.limits.withDefaults()
	return c
}
