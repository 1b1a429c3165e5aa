package discover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/stages"
)

const (
	shardSuffix = ".safetensors"
	indexSuffix = ".safetensors.index.json"
	singleName  = "model" + shardSuffix
	indexName   = "model" + indexSuffix
)

// isShardName tells whether a file of that name holds weights that coldload reads. Hidden files do not: macOS leaves "._model.safetensors"
// beside the files that it copies.
func isShardName(name string) bool {
	return strings.HasSuffix(name, shardSuffix) && !strings.HasPrefix(name, ".")
}

// isForeignWeights tells whether a file of that name holds weights in a file format that coldload knows of and does not read.
func isForeignWeights(name string) bool {
	for _, suffix := range []string{".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	// Tokenizers and others use .bin too.
	return strings.HasSuffix(name, ".bin") && (strings.Contains(name, "pytorch_model") || strings.Contains(name, "adapter_model"))
}

// findShards decides which files are the Shards: the one asked for, those of an index, model.safetensors, or what is there and
// leaves no doubt.
func (d *discoverer) findShards(ctx context.Context) error {
	shards := slices.DeleteFunc(slices.Clone(d.names), func(n string) bool { return !isShardName(n) })
	ggufs := slices.DeleteFunc(slices.Clone(d.names), func(n string) bool { return !IsGGUF(n) })
	if IsGGUF(d.file) || len(shards) == 0 && len(ggufs) > 0 && d.index == "" && !d.has(indexName) {
		d.gguf = true
		return d.statShards(ctx, d.findGGUF(ggufs))
	}
	if len(ggufs) > 0 {
		d.note("%d .gguf files are not read, the safetensors files are: name one to load it", len(ggufs))
	}
	index := d.chooseIndex(shards)
	switch {
	case d.file != "":
		shards = d.onlyFile(index, shards)
	case index != "":
		var err error
		if shards, err = d.indexed(index, shards); err != nil {
			return err
		}
	case slices.Contains(shards, singleName):
		d.noteUnread(shards, []string{singleName})
		shards = []string{singleName}
	case len(shards) > 0:
		shards = d.unnamed(shards)
	case len(d.faults) == 0:
		d.fault(d.noWeights())
	}
	return d.statShards(ctx, shards)
}

// onlyFile is the one Shard that was asked for by name.
func (d *discoverer) onlyFile(index string, shards []string) []string {
	if index != "" {
		d.note("only %s is read, as asked for; %s is not used", d.file, index)
	} else if len(shards) > 1 {
		d.note("only %s is read, as asked for; the folder holds %d other .safetensors files", d.file, len(shards)-1)
	}
	return []string{d.file}
}

// chooseIndex names the index to use; empty when there is none.
func (d *discoverer) chooseIndex(shards []string) string {
	if d.index != "" {
		return d.index
	}
	if d.has(indexName) {
		return indexName
	}
	var found []string
	for _, n := range d.names {
		if strings.HasSuffix(n, indexSuffix) && !strings.HasPrefix(n, ".") {
			found = append(found, n)
		}
	}
	switch {
	case len(found) == 0 || slices.Contains(shards, singleName):
		return ""
	case len(found) > 1 && d.file == "":
		d.fault(stages.Fault{
			Code: stages.CodeAmbiguous, File: d.ck.Dir, Problem: "the folder holds several indexes, none of which is called " + indexName,
			Expected: "one index", Found: strings.Join(found, ", "), Advice: "name the index, not the folder",
		})
		return ""
	case d.file == "":
		d.note("%s is used as the index", found[0])
	}
	return found[0]
}

// noteUnread says which weight files of the folder are not part of the Checkpoint. read is sorted.
func (d *discoverer) noteUnread(shards, read []string) {
	unread := slices.DeleteFunc(slices.Clone(shards), func(n string) bool {
		_, found := slices.BinarySearch(read, n)
		return found || n == d.ck.Single
	})
	if len(unread) > 0 {
		d.note("not part of the checkpoint, not read: %s", few(unread))
	}
}

// few joins names and cuts a long list.
func few(names []string) string {
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

var setName = regexp.MustCompile(`^(.+)-(\d{5})-of-(\d{5})\.safetensors$`)

// unnamed accepts Shards that nothing names, when they leave no doubt: a complete numbered set, or a single file.
func (d *discoverer) unnamed(shards []string) []string {
	first := setName.FindStringSubmatch(shards[0])
	if first == nil && len(shards) == 1 {
		d.note("there is no %s; %s, the only .safetensors file, is read", singleName, shards[0])
		return shards
	}
	for _, s := range shards {
		m := setName.FindStringSubmatch(s)
		if m == nil || first == nil || m[1] != first[1] || m[3] != first[3] {
			d.fault(stages.Fault{
				Code: stages.CodeAmbiguous, File: d.ck.Dir, Problem: "the folder holds several .safetensors files and nothing says which belong together",
				Expected: singleName + ", " + indexName + ", or one complete set NAME-00001-of-0000N" + shardSuffix, Found: few(shards),
				Advice: "name one file, or bring the index",
			})
			return nil
		}
	}
	if d.completeSet(first[1], first[3], shards) {
		d.note("there is no index; the %d files of the set %s are read", len(shards), first[1])
	}
	return shards
}

// completeSet checks that a numbered set has every member.
func (d *discoverer) completeSet(stem, of string, shards []string) bool {
	total, err := strconv.Atoi(of)
	if err != nil || total == 0 {
		d.fault(stages.Fault{Code: stages.CodeAmbiguous, File: shards[0], Problem: "is numbered out of " + of})
		return false
	}
	members := make([]string, total)
	for i := range members {
		members[i] = fmt.Sprintf("%s-%05d-of-%s%s", stem, i+1, of, shardSuffix)
	}
	ok := true
	for _, s := range shards {
		if _, found := slices.BinarySearch(members, s); !found {
			d.fault(stages.Fault{Code: stages.CodeAmbiguous, File: s, Problem: "has a number that is not in its set", Expected: "1 to " + of})
			ok = false
		}
	}
	missing := slices.DeleteFunc(members, d.has)
	d.missingShards(missing, "the numbered files of its set are there")
	return ok && len(missing) == 0
}

// missingShards makes a Fault for each; a hostile number of them is cut.
func (d *discoverer) missingShards(missing []string, because string) {
	const most = 1000
	advice := "copy the file into the folder, or download the checkpoint again"
	if d.repo != "" {
		advice = "complete the download: " + download(d.repo, d.wanted())
	}
	for _, name := range missing[:min(most, len(missing))] {
		d.fault(stages.Fault{Code: stages.CodeMissingShard, File: name, Problem: "shard is missing: " + because, Advice: advice})
	}
	if more := len(missing) - most; more > 0 {
		d.fault(stages.Fault{Code: stages.CodeMissingShard, Problem: fmt.Sprintf("%d more shards are missing", more), Advice: advice})
	}
}

// wanted is the revision that a download must name to get the same files.
func (d *discoverer) wanted() string {
	if d.revision != "" {
		return d.revision
	}
	return d.commit
}

// statShards looks at each Shard without opening it.
func (d *discoverer) statShards(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := context.Cause(ctx); ctx.Err() != nil {
			return err
		}
		_, info, err := d.trust.regular(d.at(name))
		if err == nil {
			d.ck.Shards = append(d.ck.Shards, Shard{Name: name, Size: info.Size(), ModTime: info.ModTime()})
			continue
		}
		if err := d.fileFault(stages.CodeShard, name, err); err != nil {
			return err
		}
	}
	return nil
}

// fileFault notes what is wrong with a file of the folder. It returns err itself when that is the system's fault.
func (d *discoverer) fileFault(code stages.Code, name string, err error) error {
	f, ok := d.trust.fault(code, d.at(name), err)
	if !ok {
		return fmt.Errorf("%s: %w", name, err)
	}
	if d.repo != "" && errors.Is(err, fs.ErrNotExist) {
		f.Advice = "complete the download: " + download(d.repo, d.wanted())
	}
	d.fault(f)
	return nil
}

// noWeights is the Fault for a folder without Shards.
func (d *discoverer) noWeights() stages.Fault {
	for _, n := range d.names {
		if isForeignWeights(n) {
			return unsupportedFiles(d.ck.Dir, n)
		}
	}
	f := stages.Fault{
		Code: stages.CodeNotFound, File: d.ck.Dir, Problem: "the folder holds no weights",
		Expected: strings.Join([]string{singleName, indexName, "*" + shardSuffix}, ", "), Found: few(d.names),
	}
	if len(d.names) == 0 {
		f.Problem = "the folder is empty"
	}
	if d.repo != "" {
		f.Advice = "complete the download: " + download(d.repo, d.wanted())
	}
	return f
}

// findOthers lists the files that go along with the weights.
func (d *discoverer) findOthers(ctx context.Context) error {
	if d.gguf {
		return nil // the files say all that there is to the model, and what else lies there may be anything
	}
	for _, name := range d.names {
		if err := context.Cause(ctx); ctx.Err() != nil {
			return err
		}
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, shardSuffix) || strings.HasSuffix(name, ".index.json") || isForeignWeights(name) || IsGGUF(name) {
			continue
		}
		_, info, err := d.trust.stat(d.at(name))
		switch {
		case err != nil:
			d.note("%s is left out: %v", name, err)
		case info.Mode().IsRegular():
			d.ck.others = append(d.ck.others, name)
		case info.IsDir():
			d.ck.folders = append(d.ck.folders, name)
		default:
			d.note("%s is left out: %v", name, notRegularError{info.Mode()})
		}
	}
	return nil
}
