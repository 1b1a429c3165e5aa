package discover

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// maxIndex is the largest index that is read, in bytes. One of 500,000 tensors has about 50 MB.
const maxIndex = 256 << 20

// indexed reads an index and gives the Shards it names, as far as they are there.
func (d *discoverer) indexed(name string, present []string) ([]string, error) {
	data, err := d.trust.read(d.at(name), maxIndex)
	if err != nil {
		return nil, d.fileFault(stages.CodeIndex, name, err)
	}
	idx, err := safetensors.ParseIndex(data)
	if err != nil {
		d.fault(indexFault(name, err))
		return nil, nil
	}
	if idx.Len() == 0 {
		d.fault(stages.Fault{
			Code: stages.CodeIndex, File: name, Problem: "weight_map is empty",
			Expected: "the file of every tensor", Advice: "download the index again",
		})
		return nil, nil
	}
	d.ck.IndexFile, d.ck.Index = name, idx
	return d.checkFiles(name, idx.Files(), present), nil
}

// checkFiles compares the Shards that the index names with those that are there.
func (d *discoverer) checkFiles(index string, files, present []string) []string {
	there, missing := split(files, d.has)
	if slices.Contains(present, singleName) && !slices.Contains(files, singleName) {
		if len(missing) > 0 {
			d.fault(stages.Fault{
				Code: stages.CodeAmbiguous, File: index,
				Problem:  fmt.Sprintf("%s is there too, and %d of the %d shards that %s names are not", singleName, len(missing), len(files), index),
				Expected: "the index and all its shards, or " + singleName + " alone",
				Found:    singleName + " and " + few(there),
				Advice:   "name " + singleName + " itself to load it, remove the index, or bring its shards",
			})
		} else {
			d.ck.Single = singleName
			d.note("%s and %s are both there: the index and its %d shards are used", singleName, index, len(files))
		}
	}
	d.missingShards(missing, index+" names it")
	d.noteUnread(present, files)
	return there
}

// split parts s by a condition.
func split(s []string, cond func(string) bool) (yes, no []string) {
	for _, v := range s {
		if cond(v) {
			yes = append(yes, v)
		} else {
			no = append(no, v)
		}
	}
	return yes, no
}

// indexFault translates the parser's error.
func indexFault(file string, err error) stages.Fault {
	e, ok := errors.AsType[*safetensors.FormatError](err)
	if !ok {
		return stages.Fault{Code: stages.CodeIndex, File: file, Problem: err.Error()}
	}
	f := stages.Fault{
		Code: stages.CodeIndex, File: file, Tensor: e.Tensor, Problem: e.Err.Error(),
		Expected: e.Expected, Found: e.Found, Advice: "download the index again",
	}
	if e.Offset != safetensors.NoOffset {
		f.Problem += fmt.Sprintf(" at byte %d", e.Offset)
	}
	if errors.Is(e, safetensors.ErrShardName) && leaves(e.Found) {
		f.Code = stages.CodeEscape
		f.Advice = "do not load this checkpoint: its index points out of its folder"
	}
	return f
}

// leaves tells whether the name of a Shard, quoted or not, is a path and not merely an odd name.
func leaves(name string) bool {
	name = strings.Trim(name, `"`)
	// In a quoted name a separator of Windows stands twice; once, it begins an escape.
	drive := len(name) >= 2 && name[1] == ':'
	return drive || strings.Contains(name, "/") || strings.Contains(name, `\\`) || name == "." || name == ".."
}
