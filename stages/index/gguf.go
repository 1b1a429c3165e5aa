package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/coldload/coldload/gguf"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// ggufHeader is the header of a GGUF file as the tables of other files: plain numbers have their dtype, blocks are bytes. See stages.BlockLayout.
type ggufHeader struct {
	*gguf.Header
	file io.ReaderAt
}

// readGGUF reads the header of a GGUF file.
func readGGUF(f *os.File, s *Shard) (Header, error) {
	h, err := gguf.ReadHeader(f, s.Size, gguf.WithName(s.Name))
	if err != nil {
		return nil, err
	}
	return &ggufHeader{h, f}, nil
}

// plainTypes are the types of plain numbers.
var plainTypes = map[gguf.Type]stages.DType{
	gguf.F64: safetensors.F64, gguf.F32: safetensors.F32, gguf.F16: safetensors.F16, gguf.BF16: safetensors.BF16,
	gguf.I64: safetensors.I64, gguf.I32: safetensors.I32, gguf.I16: safetensors.I16, gguf.I8: safetensors.I8,
}

// DType is that of plain numbers, and U8 for blocks.
func (h *ggufHeader) DType(i int) stages.DType {
	if d, ok := plainTypes[h.Type(i)]; ok {
		return d
	}
	return safetensors.U8
}

// AppendShape gives the last dim of blocks in bytes.
func (h *ggufHeader) AppendShape(dst []int64, i int) []int64 {
	dst = h.Header.AppendShape(dst, i)
	if h.Layout(i) != stages.LayoutRaw {
		elements, size := h.Type(i).Block()
		dst[len(dst)-1] = dst[len(dst)-1] / elements * size
	}
	return dst
}

// Layout names the type of blocks.
func (h *ggufHeader) Layout(i int) stages.Layout { return stages.BlockLayout(h.Type(i)) }

// MetadataValue is the value of a key that has a text.
func (h *ggufHeader) MetadataValue(key string) (string, bool) {
	v, ok := h.Value(key)
	if !ok {
		return "", false
	}
	return v.Text()
}

// Notes are none: what is unusual is refused.
func (*ggufHeader) Notes() []string { return nil }

// Description is a GGUF file with the metadata of the first Shard, tokenizer and all, and without a tensor; nil when the Shards are no GGUF
// files. It is read from the Shard, which must be open.
func (c *Catalog) Description() ([]byte, error) {
	if len(c.headers) == 0 {
		return nil, nil
	}
	h, ok := c.headers[0].(*ggufHeader)
	if !ok {
		return nil, nil
	}
	const tensorsAt = 8 // behind magic and version
	b := make([]byte, h.MetadataEnd())
	if _, err := h.file.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("%s: read metadata: %w", c.names[0], err)
	}
	binary.LittleEndian.PutUint64(b[tensorsAt:], 0)
	if _, err := gguf.ReadHeader(bytes.NewReader(b), int64(len(b))); err != nil {
		return nil, &stages.DataError{File: c.names[0], Problem: "the metadata has changed since the load began", Advice: "load again when nothing writes to the checkpoint"}
	}
	return b, nil
}

// ggufFault turns an error of the format into a Fault; nil for any other error.
func ggufFault(err error) []stages.Fault {
	e, ok := errors.AsType[*gguf.FormatError](err)
	if !ok {
		return nil
	}
	f := stages.Fault{
		Code: stages.CodeHeader, File: e.File, Tensor: e.Tensor, Problem: e.Err.Error(), Expected: e.Expected, Found: e.Found,
		Advice: "the file is damaged or was not written by a conforming writer: get it again",
	}
	if e.Key != "" {
		f.Problem = e.Key + ": " + f.Problem
	}
	if e.Offset >= 0 {
		f.Problem += " (byte " + itoa(e.Offset) + ")"
	}
	switch {
	case errors.Is(e.Err, gguf.ErrDuplicateTensor):
		f.Code = stages.CodeDuplicate
	case errors.Is(e.Err, gguf.ErrVersion), errors.Is(e.Err, gguf.ErrBigEndian):
		f.Code, f.Advice = stages.CodeUnsupported, "convert the model to a version that is read"
	case errors.Is(e.Err, gguf.ErrType):
		f.Code, f.Advice = stages.CodeUnsupported, "quantise the model again, with a type that llama.cpp still has"
	}
	return []stages.Fault{f}
}

// checkSplit compares the files of a set with what their headers say of it. Their names were compared when they were found: what is missing of
// the set is a fault already, and no reason to doubt the files that are there.
func checkSplit(shards []*Shard) (faults []stages.Fault) {
	tensors, total, complete := 0, 0, true
	for i, s := range shards {
		h, ok := s.Header.(*ggufHeader)
		if !ok {
			return nil
		}
		split := h.Split()
		if split.Count <= 1 && len(shards) == 1 {
			return nil
		}
		tensors, total = tensors+h.Len(), split.Tensors
		no, count, ok := discover.PlaceInSet(s.Name)
		if !ok {
			no, count = i+1, len(shards)
		}
		complete = complete && count == len(shards)
		if split.No+1 == no && split.Count == count {
			continue
		}
		f := stages.Fault{
			Code: stages.CodeWrongShard, File: s.Name, Problem: "its header says that it is another file of the set than its name",
			Expected: fmt.Sprintf("file %d of %d", no, count), Found: fmt.Sprintf("file %d of %d", split.No+1, split.Count),
			Advice: "download it again under its own name",
		}
		if !ok {
			f.Code, f.Problem, f.Expected = stages.CodeMissingShard, "is one file of a set whose other files are not there under the names of the set", "a single file"
			f.Advice = "give the files the names NAME-00001-of-0000N.gguf and name the first"
		}
		faults = append(faults, f)
	}
	if len(faults) == 0 && complete && total != tensors {
		faults = append(faults, stages.Fault{
			Code: stages.CodeMissing, File: shards[0].Name, Problem: "the files of the set have not the tensors that split.tensors.count says",
			Expected: fmt.Sprint(total), Found: fmt.Sprint(tensors), Advice: "the files are not of one set: download them again",
		})
	}
	return faults
}
