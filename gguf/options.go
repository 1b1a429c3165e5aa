package gguf

// Limits bound what a header may make a reader do. Zero fields mean the default.
type Limits struct {
	MaxHeaderBytes int64 // everything before the data, bytes; default 256 MiB, ceiling 2 GiB. Real ones have some 10 MB, nearly all of it a tokenizer
	MaxTensors     int   // default 2,000,000
	MaxKeys        int   // of the metadata; default 4,096, ceiling 65,536. Real files have less than 100
	MaxNameBytes   int   // the name of a tensor, bytes; default 1,024, ceiling 65,535. The specification says 64, and not every writer keeps to it
}

const (
	maxKeyBytes   = 1<<16 - 1 // what the specification sets
	maxTextBytes  = 64 << 10  // of a string of the metadata that is kept
	maxDepth      = 4         // of arrays in arrays; llama.cpp reads none
	maxAlignment  = 1 << 20
	ceilingHeader = 2 << 30
	ceilingName   = 1<<16 - 1
)

func (l Limits) withDefaults() Limits {
	bound := func(v, unset, ceiling int) int {
		if v <= 0 {
			return unset
		}
		return min(v, ceiling)
	}
	return Limits{
		MaxHeaderBytes: int64(bound(int(l.MaxHeaderBytes), 256<<20, ceilingHeader)),
		MaxTensors:     bound(l.MaxTensors, 2_000_000, 1<<30),
		MaxKeys:        bound(l.MaxKeys, 4096, 1<<16),
		MaxNameBytes:   bound(l.MaxNameBytes, 1024, ceilingName),
	}
}

// Option changes how a reader treats what it reads.
type Option func(*config)

type config struct {
	limits Limits
	name   string
}

// WithLimits replaces the default Limits.
func WithLimits(l Limits) Option { return func(c *config) { c.limits = l } }

// WithName sets the name of the file that errors show. Open sets it itself.
func WithName(name string) Option { return func(c *config) { c.name = name } }

func newConfig(opts []Option) config {
	var c config
	for _, o := range opts {
		o(&c)
	}
	c.limits = c.limits.withDefaults()
	return c
}
