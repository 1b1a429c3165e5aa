package packed_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/stages"
)

// compare plays a load of the folder's own bytes, changed by spoil, with Slabs of the size that slab says.
func compare(t *testing.T, dir string, m *packed.Manifest, slab func(o stages.Output) int64, spoil func(name string, data []byte)) []packed.Difference {
	t.Helper()
	c := packed.NewComparer(openFolder(t, dir), m)
	var outputs []stages.Output
	for i := range m.Outputs {
		o := m.Outputs[i].Stage()
		o.SlabBytes = slab(o)
		outputs = append(outputs, o)
	}
	if err := c.Begin(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	for i := range outputs {
		p := &m.Outputs[i]
		data, err := os.ReadFile(filepath.Join(dir, p.File))
		if err != nil {
			t.Fatal(err)
		}
		data = data[p.Offset : p.Offset+p.Bytes]
		spoil(p.Name, data)
		for k := range outputs[i].Slabs() {
			s := outputs[i].Slab(i, k)
			b, err := c.Reserve(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			copy(b, data[s.Off:])
			if err := c.Write(t.Context(), s, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := c.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return c.Differences()
}

// TestComparer: equal bytes are equal and one other bit is found, whether the Slabs are those of the manifest or not.
func TestComparer(t *testing.T) {
	dir, m := folder(t)
	m.Sort()
	largest := slices.MaxFunc(m.Outputs, func(a, b packed.Output) int { return int(a.Bytes - b.Bytes) })
	for name, slab := range map[string]func(o stages.Output) int64{
		"slabs as packed": func(o stages.Output) int64 { return o.SlabBytes },
		"other slabs":     func(o stages.Output) int64 { return min(max(o.Size, 1), 7) },
	} {
		t.Run(name, func(t *testing.T) {
			if d := compare(t, dir, m, slab, func(string, []byte) {}); len(d) > 0 {
				t.Errorf("equal bytes: %v", d)
			}
			d := compare(t, dir, m, slab, func(name string, data []byte) {
				if name == largest.Name {
					data[len(data)-1] ^= 0x80
				}
			})
			if len(d) != 1 || d[0].Output != largest.Name || d[0].Kind != packed.Differs || d[0].File != largest.File || !strings.Contains(d[0].Detail, "computed again") {
				t.Errorf("one bit: %v", d)
			}
		})
	}
}

// TestComparerLists: Outputs that only one side has, and that are something else.
func TestComparerLists(t *testing.T) {
	dir, m := folder(t)
	m.Sort()
	c := packed.NewComparer(openFolder(t, dir), m)
	var outputs []stages.Output
	for i := range m.Outputs {
		outputs = append(outputs, m.Outputs[i].Stage())
	}
	gone := outputs[0].Name
	outputs[0].Name = "new"
	outputs[1].Layout = stages.LayoutMarlin
	if err := c.Begin(t.Context(), outputs[:2]); err != nil {
		t.Fatal(err)
	}
	var kinds []string
	for _, d := range c.Differences() {
		kinds = append(kinds, string(d.Kind)+" "+d.Output)
	}
	for _, want := range []string{"missing new", "differs " + outputs[1].Name, "extra " + gone} {
		if !slices.Contains(kinds, want) {
			t.Errorf("%q is not among %q", want, kinds)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestComparerNeedsEverySlab: a load that left something out must not pass.
func TestComparerNeedsEverySlab(t *testing.T) {
	dir, m := folder(t)
	m.Sort()
	c := packed.NewComparer(openFolder(t, dir), m)
	var outputs []stages.Output
	for i := range m.Outputs {
		outputs = append(outputs, m.Outputs[i].Stage())
	}
	if err := c.Begin(t.Context(), outputs); err != nil {
		t.Fatal(err)
	}
	if err := c.Commit(t.Context()); err == nil {
		t.Error("nothing was written, and that is no error")
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
