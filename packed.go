package coldload

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"sync"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// packedFolder is what is kept of a packed folder's manifest.
type packedFolder struct {
	plan    plan.Packed
	options packedOptions
	files   []packed.File
}

// readManifest makes a packed folder of the Checkpoint when there is a manifest, and compares that with the headers.
func (ck *Checkpoint) readManifest() error {
	f, err := ck.found.Open(packed.ManifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return ck.refuseUnfinished()
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	c := manifestChecks{ck: ck, traits: make([]uint16, ck.catalog.Len())}
	m, err := packed.Scan(f, st.Size(), c.output)
	if err != nil {
		return err
	}
	p := &packedFolder{files: m.Files}
	if p.options, err = parsePackedOptions(m.Options); err != nil {
		return err
	}
	if err := stages.Refuse(c.all(m)...); err != nil {
		return err
	}
	p.plan = p.options.plan(m.Program)
	p.plan.Output = func(i int) plan.PackedOutput { return c.kinds[c.traits[i]-1].output() }
	p.plan.Modules = sync.OnceValue(func() map[string][]int32 { return plan.ModuleTensors(ck.catalog) })
	ck.packed = p
	return nil
}

// refuseUnfinished refuses shards that coldload packed without their manifest, which comes last: what is in them may be anything.
func (ck *Checkpoint) refuseUnfinished() error {
	for i, s := range ck.found.Shards {
		if _, ok := ck.catalog.Metadata(int32(i), packed.LayoutKey); ok {
			return stages.Refuse(packed.Unfinished(s.Name))
		}
	}
	return nil
}

// manifestChecks compares a manifest with the headers, which were compared with the index before, and keeps what only the manifest says.
type manifestChecks struct {
	ck     *Checkpoint
	n      int      // Outputs
	traits []uint16 // per tensor: 1 + index into kinds; 0 for one that the manifest has not
	kinds  []trait
	faults []stages.Fault
}

// trait is what only the manifest says of an Output.
type trait struct {
	layout  stages.Layout
	kind    stages.Kind
	padding stages.Padding // the zero value for none
}

func (t *trait) output() plan.PackedOutput {
	o := plan.PackedOutput{Layout: t.layout, Kind: t.kind}
	if t.padding != (stages.Padding{}) {
		o.Padding = &t.padding
	}
	return o
}

// mostManifestFaults are listed: more of them tell nothing new.
const mostManifestFaults = 100

func (c *manifestChecks) add(file, tensor, problem, expected, found string) {
	if len(c.faults) < mostManifestFaults {
		c.faults = append(c.faults, stages.Fault{
			Code: packed.CodeManifest, File: file, Tensor: tensor, Problem: problem, Expected: expected, Found: found,
			Advice: "coldload verify lists all that differs; pack again",
		})
	}
}

// output compares one Output with its header.
func (c *manifestChecks) output(o *packed.Output) error {
	c.n++
	cat := c.ck.catalog
	i, ok := cat.Lookup(o.Name)
	if !ok {
		c.add(o.File, o.Name, "is in the manifest and in no header", "", "")
		return nil
	}
	at := cat.Extent(i)
	var dims [8]int64
	shape := cat.AppendShape(dims[:0], i)
	if file := cat.ShardName(at.Shard); file != o.File || at.Off != o.Offset || cat.DType(i) != o.DType || !slices.Equal(shape, o.Shape) {
		c.add(o.File, o.Name, "the header does not say what the manifest says", fmt.Sprintf("%s %v at byte %d", o.DType, o.Shape, o.Offset),
			fmt.Sprintf("%s %v at byte %d of %s", cat.DType(i), shape, at.Off, file))
	}
	t := trait{layout: o.Layout, kind: o.Kind}
	if o.Padding != nil {
		t.padding = *o.Padding
	}
	n := slices.Index(c.kinds, t)
	if n < 0 {
		if n = len(c.kinds); n == math.MaxUint16 {
			c.add(o.File, o.Name, "more kinds of output than there can be", "", string(o.Kind))
			return nil
		}
		c.kinds = append(c.kinds, t)
	}
	c.traits[i] = uint16(n + 1)
	return nil
}

// all lists every fault, when the Outputs were seen.
func (c *manifestChecks) all(m *packed.Manifest) []stages.Fault {
	if c.ck.found.Kind == discover.KindFile {
		return []stages.Fault{{
			Code: stages.CodeUnsupported, File: c.ck.found.Shards[0].Name, Problem: "is one shard of a packed folder",
			Advice: "name the folder",
		}}
	}
	for _, s := range c.ck.found.Shards {
		i := slices.IndexFunc(m.Shards, func(p packed.Shard) bool { return p.File == s.Name })
		switch {
		case i < 0:
			c.add(s.Name, "", "is not in the manifest", "", "")
		case m.Shards[i].Bytes != s.Size:
			c.add(s.Name, "", "has another size than when it was packed", fmt.Sprint(m.Shards[i].Bytes), fmt.Sprint(s.Size))
		}
	}
	if n := c.ck.catalog.Len(); n != c.n {
		c.add("", "", "the headers do not have the tensors of the manifest", fmt.Sprint(c.n), fmt.Sprint(n))
	}
	return c.faults
}

// ParseDType is the dtype of a name that the command and the manifest know: f16, bf16, f32, or keep, which is none. ok is false for others.
func ParseDType(name string) (d stages.DType, ok bool) {
	d, ok = dtypeNames[name]
	return d, ok
}

// dtypeNames are the dtypes that can be asked for, as the command and the manifest name them.
var dtypeNames = map[string]stages.DType{
	"keep": safetensors.Invalid, "f16": safetensors.F16, "bf16": safetensors.BF16, "f32": safetensors.F32,
}
