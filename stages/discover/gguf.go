package discover

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/stages"
)

// MethodGGUF is the quantisation method of checkpoints that are GGUF files. Each of their tensors says its own type, so there is no more to it.
const MethodGGUF = "gguf"

const ggufSuffix = ".gguf"

// IsGGUF reports whether a file of that name holds weights as GGUF.
func IsGGUF(name string) bool {
	return strings.HasSuffix(name, ggufSuffix) && !strings.HasPrefix(name, ".")
}

// ggufSet is the name of a file of a set, as llama.cpp splits them.
var ggufSet = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.gguf$`)

// findGGUF decides which GGUF files are the Shards: the file asked for with its set, or the only file or set of the folder.
func (d *discoverer) findGGUF(files []string) []string {
	if d.file != "" {
		return d.namedGGUF(files)
	}
	set := d.setOf(files[0])
	for _, f := range files {
		if !slices.Contains(set, f) {
			d.fault(stages.Fault{
				Code: stages.CodeAmbiguous, File: d.ck.Dir, Problem: "the folder holds several GGUF models", Expected: "one file, or one set NAME-00001-of-0000N.gguf",
				Found: few(files), Advice: "name one of the files (the first of a set), not the folder",
			})
			return nil
		}
	}
	return d.presentOf(set)
}

// namedGGUF is the file that was asked for, with the rest of its set.
func (d *discoverer) namedGGUF(files []string) []string {
	set := d.setOf(d.file)
	if set[0] != d.file {
		d.fault(stages.Fault{
			Code: stages.CodeAmbiguous, File: d.file, Problem: "is one file of a set, and not its first", Expected: set[0], Advice: "name the first file of the set",
		})
		return nil
	}
	if len(set) > 1 {
		d.note("the %d files of the set of %s are read", len(set), d.file)
	}
	present := d.presentOf(set)
	if other := len(files) - len(present); other > 0 {
		d.note("the folder holds %d other .gguf files, which are not read", other)
	}
	return present
}

// PlaceInSet is what the name of a GGUF file says of a set: file number no, from 1 on, of count. ok is false for a name that is not that of a set.
func PlaceInSet(file string) (no, count int, ok bool) {
	m := ggufSet.FindStringSubmatch(file)
	if m == nil {
		return 0, 0, false
	}
	for i, to := range []*int{&no, &count} {
		if _, err := fmt.Sscanf(m[i+2], "%d", to); err != nil {
			return 0, 0, false
		}
	}
	return no, count, count > 0
}

// setOf are the names of the set that a file belongs to: of the file alone when its name is not that of a set.
func (d *discoverer) setOf(file string) []string {
	_, total, ok := PlaceInSet(file)
	if !ok {
		return []string{file}
	}
	m := ggufSet.FindStringSubmatch(file)
	set := make([]string, total)
	for i := range set {
		set[i] = fmt.Sprintf("%s-%05d-of-%s%s", m[1], i+1, m[3], ggufSuffix)
	}
	return set
}

// presentOf reports the files of a set that are missing, and gives the others.
func (d *discoverer) presentOf(set []string) []string {
	present, missing := split(set, d.has)
	d.missingShards(missing, "the other files of its set are there")
	return present
}

// readGGUF takes the facts of the model from the metadata of the first Shard, which takes the place of the config files. What is wrong with the
// header is for the index stage to tell.
func (d *discoverer) readGGUF(context.Context) error {
	d.ck.Config = &ModelConfig{}
	if len(d.ck.Shards) == 0 {
		return nil
	}
	first := d.ck.Shards[0].Name
	empty, err := parseObject(first, []byte("{}"))
	if err != nil {
		return err
	}
	d.ck.Quant = &QuantConfig{Method: MethodGGUF, Where: first, Object: empty}
	if d.has(configName) {
		d.note("%s is not used: the metadata of %s describes the model", configName, first)
	}
	f, err := d.ck.OpenShard(0)
	if err != nil {
		return nil // the index stage opens it again, and tells
	}
	defer func() { _ = f.Close() }() // it was only read
	h, err := gguf.ReadHeader(f, d.ck.Shards[0].Size)
	if err != nil {
		return nil // the index stage opens it again, and tells
	}
	d.ck.Config = modelOfGGUF(h)
	if d.ck.Config.ModelType == "" {
		d.note("%s does not say general.architecture: sizes and the number of layers and experts are not known, and nothing is checked against them", first)
	}
	return nil
}

// modelOfGGUF is what the metadata says of the model. Its keys begin with the name of the architecture; one that is an array, with a number for
// every layer, is left out.
func modelOfGGUF(h *gguf.Header) *ModelConfig {
	text := func(key string) string {
		v, _ := h.Value(key)
		s, _ := v.Text()
		return s
	}
	arch := text("general.architecture")
	number := func(key string, most int64) int64 {
		v, _ := h.Value(arch + "." + key)
		if n, ok := v.Int(); ok && n >= 0 && n <= most {
			return n
		}
		return 0
	}
	return &ModelConfig{
		ModelType: arch,
		NumLayers: int(number("block_count", maxCount)), NumExperts: int(number("expert_count", maxCount)),
		HiddenSize: number("embedding_length", maxSize), IntermediateSize: number("feed_forward_length", maxSize),
		MoEIntermediateSize: number("expert_feed_forward_length", maxSize),
	}
}
