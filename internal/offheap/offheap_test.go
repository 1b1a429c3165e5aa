package offheap

import "testing"

func TestAllocIsAlignedZeroAndWritable(t *testing.T) {
	for _, n := range []int64{1, 4096, HugePage - 1, HugePage, 5*HugePage + 3} {
		r, err := Alloc(n)
		if err != nil {
			t.Fatal(err)
		}
		b := r.Bytes()
		if int64(len(b)) != n || int64(cap(b)) != n {
			t.Fatalf("n=%d: len %d cap %d", n, len(b), cap(b))
		}
		if n >= HugePage && address(b)%HugePage != 0 {
			t.Errorf("n=%d: address %#x is not aligned", n, address(b))
		}
		if b[0] != 0 || b[n-1] != 0 {
			t.Errorf("n=%d: not zero", n)
		}
		b[0], b[n-1] = 1, 2
		if err := r.Free(); err != nil {
			t.Fatal(err)
		}
		if err := r.Free(); err != nil {
			t.Fatalf("second Free: %v", err)
		}
		if r.Bytes() != nil {
			t.Error("bytes survive Free")
		}
	}
}

func TestAllocRefusesWhatCannotBe(t *testing.T) {
	if _, err := Alloc(-1); err == nil {
		t.Error("negative size accepted")
	}
	if _, err := Alloc(1 << 60); err == nil {
		t.Error("an exabyte accepted")
	}
	r, err := Alloc(0)
	if err != nil || r.Bytes() != nil {
		t.Errorf("empty region: %v %v", r.Bytes(), err)
	}
	if err := r.Free(); err != nil {
		t.Error(err)
	}
}
