package staging

import (
	"errors"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/coldload/coldload/internal/offheap"
)

func TestBlockBytes(t *testing.T) {
	for _, c := range []struct{ n, want int64 }{
		{1, 64},
		{64, 64},
		{65, 128},
		{256, 256},
		{257, 320},
		{512, 512},
		{513, 640},
		{4096, 4096},
		{4097, 5120},
		{5121, 6144},
		{8 << 20, 8 << 20},
		{8<<20 + 1, 10 << 20},
	} {
		if got := BlockBytes(c.n); got != c.want {
			t.Errorf("BlockBytes(%d) = %d, want %d", c.n, got, c.want)
		}
	}
	for n := int64(1); n < 1<<20; n += 1 + n/50 {
		if b := BlockBytes(n); b < n || b%64 != 0 || b-n > max(63, b/5) || BlockBytes(b) != b {
			t.Errorf("BlockBytes(%d) = %d", n, b)
		}
	}
}

// TestPoolKeepsItsBounds drives the pool at random, with phases of small and of large blocks, and checks its books after each step.
func TestPoolKeepsItsBounds(t *testing.T) {
	p := New()
	rng := rand.New(rand.NewPCG(7, 7))
	type lent struct {
		Block
		n    int64
		mark byte
	}
	var out []lent
	for step := range 20_000 {
		if n := size(rng, step); rng.IntN(100) < 52 && p.used+n < 64<<20 {
			b, err := p.Get(n)
			if err != nil {
				t.Fatal(err)
			}
			data := b.Bytes(n)
			if uintptr(unsafe.Pointer(&data[0]))%64 != 0 {
				t.Fatalf("block of %d bytes at %p", n, data)
			}
			l := lent{b, n, byte(step)}
			data[0], data[n-1] = l.mark, l.mark
			out = append(out, l)
		} else if len(out) > 0 {
			i := rng.IntN(len(out))
			l := out[i]
			if data := l.Bytes(l.n); data[0] != l.mark || data[l.n-1] != l.mark {
				t.Fatalf("step %d: a block of %d bytes was written by another owner", step, l.n)
			}
			out[i] = out[len(out)-1]
			out = out[:len(out)-1]
			if err := p.Put(l.Block); err != nil {
				t.Fatal(err)
			}
		}
		if step%100 == 0 {
			audit(t, p)
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if p.mapped != 0 || len(p.regions) != 0 {
		t.Errorf("%d bytes mapped after close", p.mapped)
	}
}

func size(rng *rand.Rand, step int) int64 {
	if step/2000%2 == 0 {
		return rng.Int64N(20_000) + 1
	}
	return rng.Int64N(4<<20) + 1
}

// audit recomputes the books from the regions.
func audit(t *testing.T, p *Pool) {
	t.Helper()
	var mapped, used, idle, unused int64
	for r := range p.regions {
		mapped += r.size
		inUse := int64(r.inUse) * r.class.block
		used += inUse
		if inUse == 0 {
			idle += r.size
		} else {
			unused += r.size - inUse
		}
	}
	if mapped != p.mapped || used != p.used || idle != p.idle.bytes {
		t.Fatalf("mapped %d, used %d, idle %d; the pool says %d, %d, %d", mapped, used, idle, p.mapped, p.used, p.idle.bytes)
	}
	if mapped > used+maxIdle+unused {
		t.Fatalf("mapped %d with %d in use and %d unused", mapped, used, unused)
	}
}

// TestPoolMakesRoom: large blocks of a new size replace idle ones of another instead of coming on top.
func TestPoolMakesRoom(t *testing.T) {
	p := New()
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, n := range []int64{6 << 20, 5 << 20, 7 << 20, 6 << 20} {
		var held []Block
		for range 4 {
			b, err := p.Get(n)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, b)
			if p.mapped > p.peak {
				t.Fatalf("mapped %d MiB, more than the %d MiB ever in use", p.mapped>>20, p.peak>>20)
			}
		}
		for _, b := range held {
			if err := p.Put(b); err != nil {
				t.Fatal(err)
			}
		}
		if p.idle.bytes > maxIdle {
			t.Fatalf("%d bytes idle", p.idle.bytes)
		}
	}
}

// TestSmallBlocksCostNoMapping: half a million blocks of 4 KiB, and as many of two sizes in turn, with few in use at once.
func TestSmallBlocksCostNoMapping(t *testing.T) {
	p := New()
	mappings := 0
	p.alloc = func(n int64) (*offheap.Region, error) { mappings++; return offheap.Alloc(n) }
	for i := range 500_000 {
		a, errA := p.Get(4096)
		b, errB := p.Get(int64(100 + i%2*3000))
		if err := errors.Join(errA, errB, p.Put(a), p.Put(b)); err != nil {
			t.Fatal(err)
		}
	}
	if mappings > 4 {
		t.Errorf("%d mappings", mappings)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPoolReportsMemoryThatTheSystemDoesNotGive(t *testing.T) {
	p := New()
	refused := errors.New("no memory")
	p.alloc = func(int64) (*offheap.Region, error) { return nil, refused }
	if _, err := p.Get(100); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	if p.used != 0 || p.mapped != 0 || p.idle.bytes != 0 {
		t.Errorf("books after a failure: used %d, mapped %d, idle %d", p.used, p.mapped, p.idle.bytes)
	}
}

// TestAlignedBlocks: every phase of every alignment is met, within the bytes that are told, and blocks are used again.
func TestAlignedBlocks(t *testing.T) {
	p := New()
	for _, align := range []int64{64, 4096, 64 << 10} {
		for _, n := range []int64{1, 4096, 64 << 10, 1<<20 + 1, 2 << 20} {
			for _, phase := range []int64{0, 63 % align, align / 2, align - 1} {
				before := p.used
				b, err := p.GetAligned(n, phase, align)
				if err != nil {
					t.Fatal(err)
				}
				if p.used-before != AlignedBytes(n, align) {
					t.Errorf("%d bytes take %d, not %d", n, p.used-before, AlignedBytes(n, align))
				}
				mem := b.Bytes(n)
				if at := int64(uintptr(unsafe.Pointer(unsafe.SliceData(mem)))); at&(align-1) != phase {
					t.Errorf("%d bytes at %#x, not at %d of %d", n, at, phase, align)
				}
				if b.lead < 0 || b.lead+n > AlignedBytes(n, align) {
					t.Errorf("%d bytes, %d from the start of a block of %d", n, b.lead, AlignedBytes(n, align))
				}
				mem[0], mem[n-1] = 1, 2
				audit(t, p)
				if err := p.Put(b); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
}
