package report

import (
	"fmt"
	"strings"

	"github.com/coldload/coldload/plan"
	"github.com/coldload/coldload/stages"
)

// Plan is what there is to say of a Plan.
type Plan struct {
	Plan   *plan.Plan
	Path   string // as the user gave it
	DType  string // asked for: "keep", "f16", ...
	Budget int64  // bytes
	// NoFuse, NoPad, Strict and ActOrder are what else was asked for.
	NoFuse, NoPad, Strict, ActOrder bool
	// PlainExponent says that FP8 scales were asked for without the factor of the kernels.
	PlainExponent bool
}

// Headline is the Plan in one line.
func (p Plan) Headline() string {
	s := p.Plan.Summary
	if len(p.Plan.Faults) > 0 {
		return fmt.Sprintf("%s: %s in %s, refused: %s", Clean(p.Path), Plural(int64(s.Tensors), "tensor"),
			Plural(int64(s.Shards), "shard"), Plural(int64(len(p.Plan.Faults)), "fault"))
	}
	return fmt.Sprintf("%s: %s in %s, %s -> %s in %s", Clean(p.Path), Plural(int64(s.Tensors), "tensor"), Plural(int64(s.Shards), "shard"),
		Bytes(s.BytesIn), Bytes(s.BytesOut), Plural(int64(len(p.Plan.Outputs)), "output"))
}

// Text is the whole Plan, at most width columns wide where that is possible; 0 sets no bound. Equal Plans give equal texts. A Plan with
// faults shows what was understood, and the faults.
func (p Plan) Text(width int) string {
	var b strings.Builder
	p.writeSource(&b)
	p.writeKinds(&b)
	p.writeFused(&b)
	p.writeOutputs(&b, width)
	writePadded(&b, p.Plan.Summary)
	writeKept(&b, p.Plan.Summary)
	if len(p.Plan.Faults) == 0 {
		p.writeCosts(&b)
	}
	writeList(&b, "notes", p.Plan.Notes)
	writeList(&b, "faults: this checkpoint is refused", Faults(p.Plan.Faults))
	return b.String()
}

// Faults are the faults as lines.
func Faults(faults []stages.Fault) []string {
	lines := make([]string, len(faults))
	for i, f := range faults {
		lines[i] = Clean(f.String())
	}
	return lines
}

// writeFacts prints names and values, lined up; pairs without a value are left out.
func writeFacts(b *strings.Builder, pairs ...[2]string) {
	for _, p := range pairs {
		if p[1] != "" {
			fmt.Fprintf(b, "%-12s%s\n", p[0], Clean(p[1]))
		}
	}
}

func (p Plan) writeSource(b *strings.Builder) {
	s := p.Plan.Summary
	family, modules := s.Family, "none"
	format := s.Format
	switch {
	case format == plan.MethodPacked:
		format = "packed by coldload"
	case family == "":
		family = "not in the table: see the notes"
	}
	if s.Modules > 0 {
		modules = fmt.Sprintf("%s recognised, loaded as %s", Count(int64(s.Modules)), Count(int64(s.Groups)))
	}
	ignored := ""
	if s.Ignored > 0 {
		ignored = fmt.Sprintf("%s, %s", Plural(int64(s.Ignored), "tensor"), Bytes(s.IgnoredIn))
	}
	writeFacts(b,
		[2]string{"checkpoint", p.Path},
		[2]string{"family", family},
		[2]string{"format", format},
		[2]string{"holds", fmt.Sprintf("%s in %s, %s", Plural(int64(s.Tensors), "tensor"), Plural(int64(s.Shards), "shard"), Bytes(s.BytesIn))},
		[2]string{"ignored", ignored},
		[2]string{"modules", modules},
		[2]string{"asked for", p.askedFor()})
}

func (p Plan) askedFor() string {
	list := []string{"layout " + string(p.Plan.Summary.Layout), "dtype " + p.DType}
	for _, o := range []struct {
		given bool
		says  string
	}{
		{p.NoFuse, "nothing fused or stacked"},
		{p.NoPad, "nothing padded"},
		{p.Strict, "strict"},
		{p.ActOrder, "act-order wherever there is a g_idx"},
		{p.PlainExponent, "FP8 scales without the exponent factor"},
	} {
		if o.given {
			list = append(list, o.says)
		}
	}
	return strings.Join(list, ", ")
}

// KindTotal is how many Outputs are of one Kind.
type KindTotal struct {
	Outputs int   `json:"outputs"`
	Bytes   int64 `json:"bytes"`
}

// Kinds counts the Outputs by what is done to make them.
func Kinds(outputs []stages.Output) map[stages.Kind]KindTotal {
	kinds := map[stages.Kind]KindTotal{}
	for i := range outputs {
		o := &outputs[i]
		k := kinds[o.Kind]
		k.Outputs++
		k.Bytes += o.Size
		kinds[o.Kind] = k
	}
	return kinds
}

// kindOrder is how the kinds are listed, with what they mean.
var kindOrder = []struct {
	kind  stages.Kind
	means string
}{
	{stages.KindKept, "as in the file"},
	{stages.KindCast, "in another dtype"},
	{stages.KindFused, "members side by side in one tensor"},
	{stages.KindStacked, "experts on a leading axis (gate and up fused where both are there)"},
	{stages.KindDequantised, "modules of their own as floating-point weights"},
	{stages.KindRepacked, "in the kernel's layout (fused and stacked where the names say so)"},
}

func (p Plan) writeKinds(b *strings.Builder) {
	kinds := Kinds(p.Plan.Outputs)
	t := table{indent: "  ", columns: []column{{title: "kind"}, {title: "outputs", right: true}, {title: "bytes", right: true}, {title: "what is done"}}}
	for _, k := range kindOrder {
		if n := kinds[k.kind]; n.Outputs > 0 {
			t.add(string(k.kind), Count(int64(n.Outputs)), Bytes(n.Bytes), k.means)
		}
	}
	t.add("all", Count(int64(len(p.Plan.Outputs))), Bytes(p.Plan.Summary.BytesOut), "")
	b.WriteString("\noutputs by kind\n")
	t.write(b, 0)
}

// writeFused says what became one.
func (p Plan) writeFused(b *strings.Builder) {
	if len(p.Plan.Summary.Fused) == 0 {
		return
	}
	b.WriteString("\nfused and stacked\n")
	for _, f := range p.Plan.Summary.Fused {
		how := "fused"
		if f.Stacked {
			how = "fused and stacked by expert"
			if len(f.Members) == 1 {
				how = "stacked by expert"
			}
		}
		fmt.Fprintf(b, "  %s -> %s: %s into %s, %s (%s)\n", Clean(strings.Join(f.Members, ", ")), Clean(f.Into),
			Plural(int64(f.Modules), "module"), Count(int64(f.Groups)), how, Clean(f.Example))
	}
}

// writePadded says what was filled up to whole tiles.
func writePadded(b *strings.Builder, s plan.Summary) {
	if len(s.Padded) == 0 {
		return
	}
	b.WriteString("\npadded with zeros to the kernel's tiles: output x input features\n")
	for _, p := range s.Padded {
		each := ""
		if p.Shares > 1 {
			each = fmt.Sprintf(", in %d equal shares", p.Shares)
		}
		fmt.Fprintf(b, "  - %d x %d to %d x %d%s: %s, first %s\n", p.Unpadded[0], p.Unpadded[1], p.Padded[0], p.Padded[1], each,
			Plural(int64(p.Groups), "module"), Clean(p.Example))
	}
}

// writeKept says what the layout could not hold, and why.
func writeKept(b *strings.Builder, s plan.Summary) {
	if len(s.Kept) == 0 {
		return
	}
	fmt.Fprintf(b, "\nkept raw: what layout %s cannot hold\n", s.Layout)
	for _, k := range s.Kept {
		fmt.Fprintf(b, "  - %s: %s, first %s\n", Clean(k.Reason), Plural(int64(k.Groups), "module"), Clean(k.Example))
	}
}

// writeCosts says what a load takes.
func (p Plan) writeCosts(b *strings.Builder) {
	s := p.Plan.Summary
	batches := Plural(int64(p.Plan.BatchCount()), "batch")
	if s.LargestName != "" {
		batches += fmt.Sprintf(", the largest costs %s (with %s)", Bytes(s.LargestBatch), s.LargestName)
	}
	again := ""
	if extra := s.BytesRead - (s.BytesIn - s.IgnoredIn); extra > 0 && s.BytesIn > 0 {
		again = fmt.Sprintf(", %.1f %% of it gaps and bytes read again", 100*float64(extra)/float64(s.BytesRead))
	}
	if s.Scanned > 0 {
		again += fmt.Sprintf(" (%s by scans, which look ahead for a value of many tensors", Bytes(s.Scanned))
		if s.Spare > 0 {
			again += fmt.Sprintf("; up to %s more where that does not tell", Bytes(s.Spare))
		}
		again += ")"
	}
	b.WriteString("\n")
	writeFacts(b,
		[2]string{"work", Plural(int64(s.Parts), "part") + " in " + batches},
		[2]string{"reads", Bytes(s.BytesRead) + again},
		[2]string{"memory", fmt.Sprintf("at most %s with the result in memory (load --to host), %s without (--to discard); budget %s",
			Bytes(p.Plan.PredictedPeak(p.Budget, true)), Bytes(p.Plan.PredictedPeak(p.Budget, false)), BinaryBytes(p.Budget))},
		[2]string{"disk", "about " + Bytes(p.Plan.DiskBytes()) + " for the outputs as files"})
}
