package coldload

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// layoutKey is the key of __metadata__ that marks the shards of a packed folder.
const layoutKey = "coldload.layout"

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
	m, err := packed.Read(f, st.Size())
	if err != nil {
		return err
	}
	p := &packedFolder{files: m.Files}
	if p.options, err = parsePackedOptions(m.Options); err != nil {
		return err
	}
	if err := stages.Refuse(ck.compareManifest(m)...); err != nil {
		return err
	}
	p.plan = p.options.plan(m.Program)
	p.plan.Outputs = ck.takeOutputs(m)
	ck.packed = p
	return nil
}

// refuseUnfinished refuses shards that coldload packed without their manifest, which comes last: what is in them may be anything.
func (ck *Checkpoint) refuseUnfinished() error {
	for i, s := range ck.found.Shards {
		if _, ok := ck.catalog.Metadata(int32(i), layoutKey); ok {
			return stages.Refuse(stages.Fault{
				Code: stages.CodeMissing, File: s.Name,
				Problem: "belongs to a folder that coldload packed, but the folder's manifest " + packed.ManifestName + " is not there",
				Advice:  "the folder is not complete: finish packing it, or bring the manifest",
			})
		}
	}
	return nil
}

// compareManifest lists where the headers are not what the manifest says. The index was compared with them before.
func (ck *Checkpoint) compareManifest(m *packed.Manifest) []stages.Fault {
	if ck.found.Kind == discover.KindFile {
		return []stages.Fault{{
			Code: stages.CodeUnsupported, File: ck.found.Shards[0].Name, Problem: "is one shard of a packed folder",
			Advice: "name the folder",
		}}
	}
	c := manifestChecks{ck: ck, m: m}
	for _, s := range ck.found.Shards {
		i := slices.IndexFunc(m.Shards, func(p packed.Shard) bool { return p.File == s.Name })
		switch {
		case i < 0:
			c.add(s.Name, "", "is not in the manifest", "", "")
		case m.Shards[i].Bytes != s.Size:
			c.add(s.Name, "", "has another size than when it was packed", fmt.Sprint(m.Shards[i].Bytes), fmt.Sprint(s.Size))
		}
	}
	for i := range m.Outputs {
		c.output(&m.Outputs[i])
	}
	if n := ck.catalog.Len(); n != len(m.Outputs) {
		c.add("", "", "the headers do not have the tensors of the manifest", fmt.Sprint(len(m.Outputs)), fmt.Sprint(n))
	}
	return c.faults
}

type manifestChecks struct {
	ck     *Checkpoint
	m      *packed.Manifest
	faults []stages.Fault
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

func (c *manifestChecks) output(o *packed.Output) {
	cat := c.ck.catalog
	i, ok := cat.Lookup(o.Name)
	if !ok {
		c.add(o.File, o.Name, "is in the manifest and in no header", "", "")
		return
	}
	at := cat.Extent(i)
	shape := cat.AppendShape(nil, i)
	if file := cat.ShardName(at.Shard); file != o.File || at.Off != o.Offset || cat.DType(i) != o.DType || !slices.Equal(shape, o.Shape) {
		c.add(o.File, o.Name, "the header does not say what the manifest says", fmt.Sprintf("%s %v at byte %d", o.DType, o.Shape, o.Offset),
			fmt.Sprintf("%s %v at byte %d of %s", cat.DType(i), shape, at.Off, file))
	}
}

// takeOutputs are the manifest's Outputs, with the headers' own strings: there may be half a million.
func (ck *Checkpoint) takeOutputs(m *packed.Manifest) []stages.Output {
	outputs := make([]stages.Output, len(m.Outputs))
	for n := range m.Outputs {
		outputs[n] = m.Outputs[n].Stage()
		if i, ok := ck.catalog.Lookup(outputs[n].Name); ok {
			outputs[n].Name = ck.catalog.Name(i)
		}
	}
	m.Outputs = nil
	return outputs
}

// dtypeNames are the dtypes that can be asked for, as the command and the manifest name them.
var dtypeNames = map[string]stages.DType{
	"keep": safetensors.Invalid, "f16": safetensors.F16, "bf16": safetensors.BF16, "f32": safetensors.F32,
}
