package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Names of measures that rows of the table use.
const (
	nCopyOne    = "memcpy, 1 core"
	nCopyAll    = "memcpy, all cores"
	nFresh      = "page cache into fresh memory"
	nRead       = "raw read"
	nReadPacked = "raw read of the packed folder"
	nWrite      = "raw write"
	nReadWrite  = "raw read and write at once"
	nHostWarm   = "load --to host, warm"
	nHostCold   = "load --to host, cold"
	nDiscard    = "load --to discard, warm"
	nPackWarm   = "pack, warm"
	nPackCold   = "pack, cold"
	nPacked     = "load of the packed folder, cold"
	nHeader     = "header of many tensors, 1 core"
	nOpen       = "open a folder of many tensors, 1 core"
	nOtherCold  = "load --to host, cold, the other checkpoint"
)

// small is the memory that a run takes that keeps nothing: budget, staging and buffers.
const small = 768 << 20

// bench is everything that measures work on.
type bench struct {
	opt          options
	dir          string // of what is written; removed at the end
	program      string
	in, packed   *fileSet
	other        *fileSet // nil when there is none
	mem          *memory
	peers        []peer
	reads, write way
	probes       map[string][]probe
}

func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// measures are all of a round, in the order in which they run: each next to its limit.
func (b *bench) measures() ([]measure, error) {
	list := []measure{
		{name: nCopyOne, how: isLimit, bytes: b.copied(), run: inProcess(func() (reading, error) { return b.mem.copyOne(b.opt.passes) })},
		{name: nCopyAll, how: isLimit, bytes: b.copied(), run: inProcess(func() (reading, error) { return b.mem.copyAll(b.opt.passes) })},
	}
	all, err := kernels()
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		list = append(list, k.measures(b.mem, b.opt.passes)...)
	}
	list = append(list, b.index()...)
	list = append(list, b.warm()...)
	list = append(list, b.cold()...)
	list = append(list, b.packing()...)
	if b.other != nil {
		list = append(list, b.load(nOtherCold, b.other, b.other.evict, b.opt.other, "--to", "host"))
	}
	return append(b.chosen(list), b.peerMeasures()...), nil
}

// chosen are the measures that were asked for; with peers, those that they are compared with.
func (b *bench) chosen(list []measure) []measure {
	return slices.DeleteFunc(list, func(m measure) bool {
		switch {
		case b.opt.only != nil:
			return !b.opt.only.MatchString(m.name)
		case len(b.peers) > 0:
			return !slices.Contains([]string{nFresh, nHostWarm, nRead, nHostCold}, m.name)
		default:
			return false
		}
	})
}

func (b *bench) peerMeasures() (list []measure) {
	for _, p := range b.peers {
		list = append(list, p.measures(b)...)
	}
	return list
}

func (b *bench) copied() int64 { return int64(b.opt.passes) * b.opt.region }

func (b *bench) index() []measure {
	many := b.path("many")
	return []measure{
		{name: nHeader, how: inside, run: inProcess(func() (reading, error) { return readHeader(many) })},
		{name: nOpen, how: inside, run: func(ctx context.Context) (reading, error) { return openCheckpoint(ctx, many) }},
	}
}

func (b *bench) warm() []measure {
	return []measure{
		{
			name: nFresh, how: isLimit, bytes: b.in.size, need: b.in.size, before: b.in.warm,
			run: inProcess(func() (reading, error) { return freshCopy(b.in) }),
		},
		b.load(nHostWarm, b.in, b.in.warm, b.opt.path, "--to", "host"),
		b.load(nDiscard, b.in, b.in.warm, b.opt.path, "--to", "discard"),
	}
}

func (b *bench) cold() []measure {
	return []measure{
		b.read(nRead, b.in),
		b.load(nHostCold, b.in, b.in.evict, b.opt.path, "--to", "host"),
		b.read(nReadPacked, b.packed),
		b.load(nPacked, b.packed, b.packed.evict, b.path("packed"), "--to", "host"),
	}
}

func (b *bench) packing() []measure {
	raw := b.path("raw")
	remove := func() error { return os.Remove(raw) }
	return []measure{
		{
			name: nWrite, how: isLimit, bytes: b.packed.size, need: b.writeNeed(), after: remove,
			run: inProcess(func() (reading, error) { return rawWrite(raw, b.packed.size, b.write) }),
		},
		b.pack(nPackCold, b.in.evict),
		b.pack(nPackWarm, b.in.warm),
		{
			name: nReadWrite, how: isLimit, bytes: b.in.size, need: small, before: b.in.evict, after: remove,
			run: inProcess(func() (reading, error) { return rawCopy(b.in, raw, b.both()) }),
		},
	}
}

// both is the way to read and write at once: past the page cache.
func (b *bench) both() way { return way{max(b.reads.depth, b.write.depth), b.write.block, true} }

// writeNeed is the page cache that buffered writes fill.
func (b *bench) writeNeed() int64 {
	if b.write.direct {
		return small
	}
	return b.packed.size
}

// load measures our program from the files' state that before makes.
func (b *bench) load(name string, files *fileSet, before func(context.Context) error, args ...string) measure {
	need := int64(small)
	if slices.Contains(args, "host") {
		need += files.size
	}
	return measure{
		name: name, how: process, bytes: files.size, need: need, before: before,
		run: func(ctx context.Context) (reading, error) {
			return runProgram(ctx, b.program, append([]string{"load"}, args...)...)
		},
	}
}

func (b *bench) read(name string, files *fileSet) measure {
	return measure{
		name: name, how: isLimit, bytes: files.size, need: small, before: files.evict,
		run: inProcess(func() (reading, error) { return rawRead(files, b.reads) }),
	}
}

func (b *bench) pack(name string, before func(context.Context) error) measure {
	to := b.path("again")
	return measure{
		name: name, how: process, bytes: b.in.size, need: small, before: before, after: func() error { return os.RemoveAll(to) },
		run: func(ctx context.Context) (reading, error) { return runProgram(ctx, b.program, "pack", b.opt.path, to) },
	}
}

// inProcess is a run that cannot be cancelled.
func inProcess(work func() (reading, error)) func(context.Context) (reading, error) {
	return func(context.Context) (reading, error) { return work() }
}

// prepare makes everything that is measured; close undoes it.
func prepare(ctx context.Context, opt options) (b *bench, err error) {
	b = &bench{opt: opt, probes: map[string][]probe{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	for _, text := range opt.peers {
		p, err := parsePeer(text)
		if err != nil {
			return b, err
		}
		b.peers = append(b.peers, p)
	}
	if b.in, err = openShards(opt.path); err != nil {
		return b, err
	}
	if b.dir, err = os.MkdirTemp(opt.work, ".limits-"); err != nil {
		return b, err
	}
	if b.program = opt.program; b.program == "" {
		b.program = b.path("coldload")
		if err = build(ctx, b.program); err != nil {
			return b, err
		}
	}
	if err = writeMany(ctx, b.path("many"), opt.tensors); err != nil {
		return b, err
	}
	if b.mem, err = makeMemory(opt.region); err != nil {
		return b, err
	}
	finite(b.mem.src)
	if opt.other != "" {
		if b.other, err = openShards(opt.other); err != nil {
			return b, err
		}
	}
	if _, err = runProgram(ctx, b.program, "pack", opt.path, b.path("packed")); err != nil {
		return b, err
	}
	if b.packed, err = openShards(b.path("packed")); err != nil {
		return b, err
	}
	return b, b.choose(ctx)
}

// choose finds the best ways to read and write, with the first shard and as many bytes.
func (b *bench) choose(ctx context.Context) (err error) {
	var list []probe
	first, n := &fileSet{files: b.in.files[:1], sizes: b.in.sizes[:1], size: b.in.sizes[0]}, b.in.sizes[0]
	b.reads, list, err = best(ctx, readWays, func(ctx context.Context, w way) (reading, error) {
		if err := errors.Join(settle(b.dir), first.evict(ctx)); err != nil {
			return reading{}, err
		}
		return rawRead(first, w)
	})
	if err != nil {
		return fmt.Errorf("raw read: %w", err)
	}
	b.probes[nRead] = list
	b.write, list, err = best(ctx, writeWays, func(_ context.Context, w way) (reading, error) {
		if err := settle(b.dir); err != nil {
			return reading{}, err
		}
		r, err := rawWrite(b.path("raw"), n, w)
		return r, errors.Join(err, os.Remove(b.path("raw")))
	})
	if err != nil {
		return fmt.Errorf("raw write: %w", err)
	}
	b.probes[nWrite] = list
	return nil
}

func (b *bench) close() error {
	var errs []error
	for _, s := range []*fileSet{b.in, b.packed, b.other} {
		if s != nil {
			errs = append(errs, s.close())
		}
	}
	if b.mem != nil {
		errs = append(errs, b.mem.all.free())
	}
	if b.dir != "" {
		errs = append(errs, os.RemoveAll(b.dir))
	}
	return errors.Join(errs...)
}
