package coldload

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/internal/packed"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/file"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// carriedFiles are the files of the Checkpoint that go into a packed folder, as they will be there.
type carriedFiles struct {
	list  []packed.File
	files []file.File
	notes []string
}

// sourceFolder keeps what described the quantisation of the original.
const sourceFolder = "source/"

// describedName is the file, in sourceFolder, with the metadata of a GGUF checkpoint.
const describedName = "metadata.gguf"

// carry takes over the Checkpoint's other files. config.json says what the weights have become; the files beside it that said how they
// were quantised go to source/, since an engine that finds them would take the weights for what they were.
func (ck *Checkpoint) carry(ctx context.Context, opt Options) (*carriedFiles, error) {
	c := &carriedFiles{}
	if ck.packed != nil {
		for _, f := range ck.packed.files {
			if f.Name != safetensors.IndexName {
				if err := c.add(ctx, ck.found, f.Name, f.Name, discover.ConfigChange{}); err != nil {
					return nil, err
				}
			}
		}
		return c, nil
	}
	if err := c.describe(ctx, ck); err != nil {
		return nil, err
	}
	change := ck.configChange(opt)
	moved := change.Requantise && slices.ContainsFunc(ck.found.OtherFiles(), isQuantFile)
	for _, name := range ck.found.OtherFiles() {
		to, rewrite := name, discover.ConfigChange{}
		switch {
		case strings.HasSuffix(name, file.JournalSuffix):
			continue // of a pack into this folder
		case !packed.FileName(name) || moved && name+"/" == sourceFolder:
			c.notes = append(c.notes, fmt.Sprintf("file %q of the checkpoint is not taken over: a packed folder cannot have one of that name", name))
			continue
		case name == "config.json":
			rewrite = change
		case change.Requantise && isQuantFile(name):
			to = sourceFolder + name
		}
		if err := c.add(ctx, ck.found, name, to, rewrite); err != nil {
			return nil, err
		}
	}
	if folders := ck.found.Folders(); len(folders) > 0 {
		c.notes = append(c.notes, "folders of the checkpoint are not taken over: "+strings.Join(folders, ", "))
	}
	return c, nil
}

// describe takes over what the header of a GGUF file says of the model: for such a checkpoint it is in no other file. It becomes one without tensors.
func (c *carriedFiles) describe(ctx context.Context, ck *Checkpoint) error {
	text, err := ck.catalog.Description()
	if err != nil || text == nil {
		return err
	}
	return c.addContent(ctx, sourceFolder+describedName, content{name: describedName, text: text})
}

func isQuantFile(name string) bool { return slices.Contains(discover.QuantFiles(), name) }

// configChange is what config.json must say of the weights.
func (ck *Checkpoint) configChange(opt Options) (c discover.ConfigChange) {
	c.DType = torchNames[opt.DType]
	q := ck.found.Quant
	if q == nil || opt.Layout == stages.LayoutRaw {
		return c
	}
	c.Requantise = true
	c.Source = q.Raw()
	if opt.Layout != stages.LayoutDequant {
		c.Layout = cmp.Or(opt.Layout, stages.LayoutMarlin)
	} else if c.DType == "" && ck.found.Config.DType == "" {
		c.DType = torchNames[ck.scalesDType()] // which the weights took, since nothing names another
	}
	return c
}

// scalesDType is the dtype of the first scales of the Checkpoint.
func (ck *Checkpoint) scalesDType() stages.DType {
	for i := range ck.catalog.Len() {
		if strings.HasSuffix(ck.catalog.Name(i), ".scales") {
			return ck.catalog.DType(i)
		}
	}
	return safetensors.Invalid
}

var torchNames = map[stages.DType]string{safetensors.F16: "float16", safetensors.BF16: "bfloat16", safetensors.F32: "float32"}

// add reads the file once, to know what it will be, and again when it is written: it must be the same then.
func (c *carriedFiles) add(ctx context.Context, found *discover.Checkpoint, from, to string, change discover.ConfigChange) error {
	content := content{found: found, name: from}
	if change.Requantise || change.DType != "" {
		text, err := rewritten(found, from, change)
		if err != nil {
			return err
		}
		content.text = text
	}
	return c.addContent(ctx, to, content)
}

// addContent adds a file of that name.
func (c *carriedFiles) addContent(ctx context.Context, to string, content content) error {
	entry := packed.File{Name: to}
	var err error
	if entry.SHA256, entry.Bytes, err = copyHashed(ctx, io.Discard, content); err != nil {
		return fmt.Errorf("%s: %w", content.name, err)
	}
	c.list = append(c.list, entry)
	c.files = append(c.files, file.File{Name: to, Bytes: entry.Bytes, Write: func(w io.Writer) error {
		sum, _, err := copyHashed(ctx, w, content)
		if err == nil && sum != entry.SHA256 {
			err = &stages.DataError{
				File: content.name, Problem: "the file has changed since the load began", Advice: "load again when nothing writes to the checkpoint",
			}
		}
		return err
	}})
	return nil
}

func rewritten(found *discover.Checkpoint, name string, change discover.ConfigChange) ([]byte, error) {
	f, err := found.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	text, err = discover.RewriteConfig(jsontext.Value(text), change)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

// content is what a carried file will hold.
type content struct {
	found *discover.Checkpoint
	name  string
	text  []byte // instead of the file's own, when not nil
}

func (c content) open() (io.ReadCloser, error) {
	if c.text != nil {
		return io.NopCloser(bytes.NewReader(c.text)), nil
	}
	return c.found.Open(c.name)
}

// copyHashed copies until the end, or until ctx ends.
func copyHashed(ctx context.Context, w io.Writer, c content) (sum packed.Sum, n int64, err error) {
	r, err := c.open()
	if err != nil {
		return sum, 0, err
	}
	sum, n, err = packed.HashReader(ctx, io.TeeReader(r, w))
	return sum, n, errors.Join(err, r.Close())
}
