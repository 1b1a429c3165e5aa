package main

import (
	"errors"
	"os"
	"strings"

	"github.com/coldload/coldload/internal/offheap"
)

// hold touches n bytes of memory by all processors and keeps them until release. A hypervisor takes away what lies free, and to give it back
// costs more than a load does; what was just released is there.
func hold(n int64) (release func() error, err error) {
	r, err := offheap.Alloc(n)
	if err != nil {
		return nil, err
	}
	const step = 64 << 20
	err = onCores(pieces([]int64{n}, step), func(_ int, p piece) error {
		mem := r.Bytes()[p.off : p.off+p.size]
		for at := 0; at < len(mem); at += 4096 {
			mem[at] = 1
		}
		return nil
	})
	return r.Free, err
}

// reserve is how much is held for what needs n: a quarter more, and what programs take besides; at most four fifths of what there is.
func (o options) reserve(n int64) int64 { return min(n+n/4+512<<20, available()/5*4, o.held) }

// available is the memory that programs may take, in bytes.
func available() int64 { return 1024 * field("/proc/meminfo", "MemAvailable:") }

// field is the number behind a name in a file of /proc; 0 when it is not there.
func field(file, name string) int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), name)
	if f := strings.Fields(rest); len(f) > 0 {
		return int64(number(f[0]))
	}
	return 0
}

// buffers are pieces of memory in huge pages, touched.
type buffers []*offheap.Region

func makeBuffers(count int, size int64) (buffers, error) {
	list := make(buffers, count)
	for i := range list {
		r, err := offheap.Alloc(size)
		if err != nil {
			return nil, errors.Join(err, list[:i].free())
		}
		list[i] = r
		fill(r.Bytes())
	}
	return list, nil
}

// fill writes something that is not all the same.
func fill(b []byte) {
	for i := range b {
		b[i] = byte(i * 167 >> 3)
	}
}

func (b buffers) free() error {
	var errs []error
	for _, r := range b {
		errs = append(errs, r.Free())
	}
	return errors.Join(errs...)
}
