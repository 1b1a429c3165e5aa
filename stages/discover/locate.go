package discover

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/coldload/coldload/stages"
)

// place is where a Checkpoint lies, before anything in it was looked at.
type place struct {
	trust *trust
	sub   string // its folder below the trust root
	kind  Kind
	file  string // the one Shard asked for by name, when kind is KindFile
	index string // the index asked for by name

	repo, revision, commit string
}

// locate finds the folder that path names, and the trust root above it.
func locate(path string, opt Options) (*place, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENAMETOOLONG):
		return locateID(path, opt.HubCache)
	case err != nil:
		return nil, err
	case info.IsDir():
		return locateFolder(path)
	default:
		return locateFile(path, info.Mode())
	}
}

// locateFolder finds out whether the folder lies in a hub cache: then the cache is the trust root.
func locateFolder(path string) (*place, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, err
	}
	p := &place{kind: KindFolder, sub: "."}
	base := dir
	if s, ok := splitSnapshot(dir); ok {
		p.kind, p.repo, p.commit = KindHub, s.repo, s.commit
		base, p.sub = s.cache, s.sub
	}
	p.trust, err = openTrust(base)
	return p, err
}

// locateFile finds the folder of a file and checks that it is one that can name a Checkpoint.
func locateFile(path string, mode fs.FileMode) (*place, error) {
	name := filepath.Base(path)
	if !mode.IsRegular() {
		return nil, stages.Refuse(stages.Fault{
			Code: stages.CodeShard, File: path, Problem: "is not a file that can be read", Expected: "a regular file or a folder", Found: modeName(mode),
		})
	}
	isIndex := strings.HasSuffix(name, indexSuffix)
	if !isIndex && !isShardName(name) && !IsGGUF(name) {
		return nil, stages.Refuse(notWeights(path))
	}
	p, err := locateFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	if isIndex {
		p.index = name
	} else {
		p.file, p.kind = name, KindFile
	}
	return p, nil
}

// notWeights is the Fault for a file that cannot name a Checkpoint.
func notWeights(path string) stages.Fault {
	if isForeignWeights(filepath.Base(path)) {
		return unsupportedFiles(path, filepath.Base(path))
	}
	return stages.Fault{
		Code: stages.CodeNotFound, File: path, Problem: "is not a checkpoint",
		Expected: "a folder, a .safetensors or .gguf file, or an index (" + indexName + ")",
	}
}

// unsupportedFiles is the Fault for weights in a file format that is not read yet.
func unsupportedFiles(place, example string) stages.Fault {
	return stages.Fault{
		Code: stages.CodeUnsupported, File: place, Problem: "holds weights in a file format that is recognised but not supported yet",
		Expected: "safetensors or GGUF", Found: example,
		Advice: "convert the checkpoint to safetensors, or download a safetensors variant",
	}
}
