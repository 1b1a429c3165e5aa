package execute_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/execute"
	"github.com/coldload/coldload/stages"
)

// op is an Op that does what a test says.
type op struct {
	phase stages.Phase
	name  string
	run   func(j *stages.Job) error
}

func (o op) Phase() stages.Phase            { return o.phase }
func (o op) String() string                 { return o.name }
func (o op) Run(j *stages.Job) error        { return o.run(j) }
func nothing(*stages.Job) error             { return nil }
func fileName(shard int32) string           { return fmt.Sprintf("shard-%d", shard) }
func repack(run func(*stages.Job) error) op { return op{stages.PhaseRepack, "swizzle", run} }

// views are Views over plain memory.
type views struct {
	bytes    [][]byte
	released int
}

func (v *views) Bytes(i int) []byte { return v.bytes[i] }
func (*views) Method() string       { return "test" }
func (v *views) Release()           { v.released++ }

func input(tensor string, shard int32, rng int, off, n int64) stages.Input {
	return stages.Input{Tensor: tensor, Extent: stages.Extent{Shard: shard, Off: off, Len: n}, Range: rng, Off: off}
}

// batch has one Slab of 16 bytes and one range of the bytes 0..31.
func batch(parts ...stages.Part) (*stages.Batch, *views) {
	src := make([]byte, 32)
	for i := range src {
		src[i] = byte(i)
	}
	v := &views{bytes: [][]byte{src}}
	return &stages.Batch{
		Seq:    5,
		Slabs:  []stages.Slab{{Output: 3, Index: 2, Len: 16}},
		Ranges: []stages.Extent{{Shard: 7, Len: 32}},
		Parts:  parts,
		Views:  v,
		Dst:    [][]byte{make([]byte, 16)},
	}, v
}

func TestProcessRunsThePartsOfItsPhaseInOrder(t *testing.T) {
	var ran []string
	part := func(p stages.Phase, name string) stages.Part {
		return stages.Part{Slab: stages.NoSlab, Op: op{p, name, func(*stages.Job) error { ran = append(ran, name); return nil }}}
	}
	b, v := batch(part(stages.PhaseDecode, "a"), part(stages.PhaseFuse, "b"), part(stages.PhaseDecode, "c"))
	st := execute.Stage(stages.PhaseDecode, execute.Options{})
	out, err := st.Process(t.Context(), b)
	if err != nil || out != b {
		t.Fatalf("got %v, %v", out, err)
	}
	if got := strings.Join(ran, ""); got != "ac" {
		t.Errorf("ran %q", got)
	}
	if st.Name() != "decode" || v.released != 0 || b.Views == nil {
		t.Errorf("name %q, released %d", st.Name(), v.released)
	}
}

func TestAnOpSeesItsRectangleAndSources(t *testing.T) {
	warned := execute.NewWarnings(0)
	transpose := repack(func(j *stages.Job) error {
		if len(j.Src) != 2 || len(j.Inputs) != 2 || cap(j.Src[0]) != 3 {
			return fmt.Errorf("sources %v", j.Src)
		}
		if !j.Soon {
			return errors.New("staging is not read soon")
		}
		for i := range j.Rows {
			copy(j.Row(i), j.Src[i])
		}
		j.Warn("odd %d", 1)
		return nil
	})
	b, v := batch(stages.Part{
		Op:     transpose,
		Dst:    stages.Rect{Off: 2, RowBytes: 3, Stride: 8, Rows: 2},
		Inputs: []stages.Input{input("x", 7, 0, 4, 3), input("y", 7, 0, 20, 3)},
	})
	b.Staging = 16
	st := execute.Stage(stages.PhaseRepack, execute.Options{DropSource: true, Warn: warned.Add})
	if _, err := st.Process(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	want := []byte{0, 0, 4, 5, 6, 0, 0, 0, 0, 0, 20, 21, 22, 0, 0, 0}
	if !bytes.Equal(b.Dst[0], want) {
		t.Errorf("wrote %v, want %v", b.Dst[0], want)
	}
	if v.released != 1 || b.Views != nil {
		t.Error("sources were not dropped")
	}
	texts, _ := warned.List()
	if len(texts) != 1 || texts[0] != "swizzle: x: odd 1" {
		t.Errorf("warned %q", texts)
	}
}

func TestProcessRefusesWhatLiesOutside(t *testing.T) {
	ok := []stages.Input{input("x", 7, 0, 0, 32)}
	cases := map[string]stages.Part{
		"negative offset":         {Dst: stages.Rect{Off: -1, RowBytes: 4, Stride: 4, Rows: 1}},
		"one byte too far":        {Dst: stages.Flat(9, 8)},
		"last row too far":        {Dst: stages.Rect{Off: 0, RowBytes: 4, Stride: 5, Rows: 4}},
		"rows overlap":            {Dst: stages.Rect{Off: 0, RowBytes: 4, Stride: 3, Rows: 2}},
		"offset overflow":         {Dst: stages.Rect{Off: 1 << 62, RowBytes: 1 << 62, Stride: 1 << 62, Rows: 1}},
		"rows overflow":           {Dst: stages.Rect{Off: 0, RowBytes: 1, Stride: 1 << 62, Rows: 1 << 62}},
		"row bytes too long":      {Dst: stages.Flat(0, 17)},
		"negative rows":           {Dst: stages.Rect{Rows: -1}},
		"no such slab":            {Slab: 1, Dst: stages.Flat(0, 1)},
		"negative slab":           {Slab: -2, Dst: stages.Flat(0, 1)},
		"source too long":         {Slab: stages.NoSlab, Inputs: []stages.Input{ok[0], input("y", 7, 0, 1, 32)}},
		"source overflow":         {Slab: stages.NoSlab, Inputs: []stages.Input{input("y", 7, 0, 1<<62, 1<<62)}},
		"source negative":         {Slab: stages.NoSlab, Inputs: []stages.Input{input("y", 7, 0, -1, 2)}},
		"negative length":         {Slab: stages.NoSlab, Inputs: []stages.Input{input("y", 7, 0, 1, -1)}},
		"source of elsewhere":     {Slab: stages.NoSlab, Inputs: []stages.Input{{Tensor: "y", Extent: stages.Extent{Shard: 7, Off: 4, Len: 4}}}},
		"source of another shard": {Slab: stages.NoSlab, Inputs: []stages.Input{input("y", 8, 0, 0, 4)}},
		"no such range":           {Slab: stages.NoSlab, Inputs: []stages.Input{input("y", 7, 1, 0, 1)}},
	}
	for name, p := range cases {
		t.Run(name, func(t *testing.T) {
			p.Op = repack(func(*stages.Job) error { t.Error("the Op ran"); return nil })
			b, v := batch(p)
			_, err := execute.Stage(stages.PhaseRepack, execute.Options{}).Process(t.Context(), b)
			if err == nil || !strings.HasPrefix(err.Error(), "swizzle: ") {
				t.Errorf("got %v", err)
			}
			if v.released != 1 {
				t.Error("the batch was not released")
			}
		})
	}
}

func TestProcessAcceptsTheEdges(t *testing.T) {
	cases := map[string]stages.Part{
		"whole slab": {Dst: stages.Flat(0, 16)},
		"last row":   {Dst: stages.Rect{Off: 0, RowBytes: 1, Stride: 5, Rows: 4}},
		"empty end":  {Dst: stages.Flat(16, 0)},
		"no rows":    {Dst: stages.Rect{Off: 16, RowBytes: 99, Stride: 99}},
		"zero row":   {Dst: stages.Rect{Rows: 3}},
		"whole view": {Slab: stages.NoSlab, Inputs: []stages.Input{input("x", 7, 0, 0, 32)}},
		"empty view": {Slab: stages.NoSlab, Inputs: []stages.Input{input("x", 7, 0, 32, 0)}},
	}
	for name, p := range cases {
		t.Run(name, func(t *testing.T) {
			p.Op = repack(nothing)
			b, _ := batch(p)
			if _, err := execute.Stage(stages.PhaseRepack, execute.Options{}).Process(t.Context(), b); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestProcessNeedsTheSources(t *testing.T) {
	b, _ := batch(stages.Part{Op: repack(nothing), Slab: stages.NoSlab, Inputs: []stages.Input{input("x", 7, 0, 0, 1)}})
	b.DropSource()
	_, err := execute.Stage(stages.PhaseRepack, execute.Options{}).Process(t.Context(), b)
	if err == nil || !strings.Contains(err.Error(), "dropped before this stage") {
		t.Errorf("got %v", err)
	}
}

func TestErrorsNameOpTensorAndFile(t *testing.T) {
	plain := errors.New("boom")
	two := []stages.Input{input("x", 7, 0, 0, 1), input("y", 8, 1, 1, 1)}
	cases := map[string]struct {
		err    error
		inputs []stages.Input
		want   string
	}{
		"plain":           {plain, two, "swizzle: x: boom"},
		"no input":        {plain, nil, "swizzle: slab 2 of output 3: boom"},
		"data, unnamed":   {&stages.DataError{Problem: "bad"}, two, "swizzle: shard-7: x: bad"},
		"data, second":    {&stages.DataError{Tensor: "y", Problem: "bad"}, two, "swizzle: shard-8: y: bad"},
		"data, wrapped":   {fmt.Errorf("row 3: %w", &stages.DataError{Tensor: "y", Problem: "bad"}), two, "swizzle: shard-8: row 3: y: bad"},
		"data, elsewhere": {&stages.DataError{Tensor: "z", Problem: "bad"}, two, "swizzle: z: bad"},
		"data, has file":  {&stages.DataError{File: "f", Tensor: "y", Problem: "bad"}, two, "swizzle: f: y: bad"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b, v := batch(stages.Part{Op: repack(func(*stages.Job) error { return c.err }), Dst: stages.Flat(0, 1), Inputs: c.inputs})
			b.Ranges, v.bytes = append(b.Ranges, stages.Extent{Shard: 8, Len: 32}), append(v.bytes, v.bytes[0])
			_, err := execute.Stage(stages.PhaseRepack, execute.Options{FileName: fileName}).Process(t.Context(), b)
			if err == nil || err.Error() != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if v.released != 1 {
				t.Error("the batch was not released")
			}
		})
	}
}

func TestProcessEndsWithTheCause(t *testing.T) {
	cause := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	first := stages.Part{Slab: stages.NoSlab, Op: repack(func(*stages.Job) error { cancel(cause); return nil })}
	second := stages.Part{Slab: stages.NoSlab, Op: repack(func(*stages.Job) error { t.Error("ran after the end"); return nil })}
	b, v := batch(first, second)
	_, err := execute.Stage(stages.PhaseRepack, execute.Options{}).Process(ctx, b)
	if !errors.Is(err, cause) || v.released != 1 {
		t.Errorf("got %v, released %d", err, v.released)
	}
}

func TestAPanicReleasesAndGoesOn(t *testing.T) {
	b, v := batch(stages.Part{Slab: stages.NoSlab, Op: repack(func(*stages.Job) error { panic("bug") })})
	defer func() {
		if r := recover(); r != "bug" || v.released != 1 {
			t.Errorf("panic %v, released %d", r, v.released)
		}
	}()
	_, err := execute.Stage(stages.PhaseRepack, execute.Options{}).Process(t.Context(), b)
	t.Errorf("no panic, error %v", err)
}

func TestWorkCountsThePhase(t *testing.T) {
	b, _ := batch(
		stages.Part{Op: repack(nothing), Dst: stages.Rect{RowBytes: 3, Stride: 8, Rows: 2}, Inputs: []stages.Input{input("x", 7, 0, 0, 5), input("y", 7, 0, 5, 6)}},
		stages.Part{Op: repack(nothing), Slab: stages.NoSlab, Dst: stages.Flat(0, 99), Inputs: []stages.Input{input("g", 7, 0, 0, 4)}},
		stages.Part{Op: op{stages.PhaseFuse, "cat", nothing}, Dst: stages.Flat(0, 16)},
	)
	items, in, out := execute.Work(stages.PhaseRepack)(b)
	if items != 2 || in != 15 || out != 6 {
		t.Errorf("got %d items, %d in, %d out", items, in, out)
	}
}

func TestManyPartsAllocateNothingEach(t *testing.T) {
	parts := make([]stages.Part, 1000)
	for i := range parts {
		parts[i] = stages.Part{Op: repack(nothing), Dst: stages.Flat(0, 4), Inputs: []stages.Input{input("x", 7, 0, 0, 4)}}
	}
	b, _ := batch(parts...)
	st := execute.Stage(stages.PhaseRepack, execute.Options{})
	allocs := testing.AllocsPerRun(5, func() {
		if _, err := st.Process(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 20 {
		t.Errorf("%.0f allocations for 1000 parts", allocs)
	}
}
