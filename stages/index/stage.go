package index

import (
	"context"
	"errors"
	"os"

	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/discover"
)

// Shard is one Shard on its way through the index stage. Its File is open from Process on and belongs to whoever holds the Shard.
type Shard struct {
	Number int // in the Checkpoint
	discover.Shard
	File   *os.File
	Header Header // nil when it is at fault
	Faults []stages.Fault
}

// Header is the table of tensors of one Shard, in the file format that its reader knows. It is immutable.
type Header interface {
	// Len is the number of tensors, which have numbers from 0 in the order of the header.
	Len() int
	Name(i int) string
	DType(i int) stages.DType
	// AppendShape appends the dims of tensor i to dst, slowest first.
	AppendShape(dst []int64, i int) []int64
	// Extent is where the bytes of tensor i lie in the data area.
	Extent(i int) (begin, end int64)
	// DataOffset is where the data area begins in the file.
	DataOffset() int64
	// MetadataValue is what the header says under a key, as text.
	MetadataValue(key string) (value string, ok bool)
	// Notes are what is unusual and accepted.
	Notes() []string
}

// readHeader reads the header of an open Shard by the name of its file.
func readHeader(f *os.File, s *Shard) (Header, error) {
	if discover.IsGGUF(s.Name) {
		return readGGUF(f, s)
	}
	h, err := safetensors.ReadHeader(f, s.Size, safetensors.WithName(s.Name))
	if err != nil {
		return nil, err
	}
	return h, nil
}

// ItemName names the Shard in errors.
func (s *Shard) ItemName() string { return s.Name }

// Release closes the file.
func (s *Shard) Release() {
	if s.File != nil {
		_ = s.File.Close() // opened for reading: nothing can be lost
		s.File = nil
	}
}

// Stage opens Shards and reads their headers. A Shard that is at fault is no error: the faults travel with it, so that all of them can
// be told at once.
type Stage struct {
	Checkpoint *discover.Checkpoint
}

// Name is the phase's.
func (Stage) Name() string { return stages.PhaseIndex.String() }

// Process opens the Shard and reads its header.
func (st Stage) Process(ctx context.Context, s *Shard) (*Shard, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	f, err := st.Checkpoint.OpenShard(s.Number)
	if err == nil {
		s.File = f
		s.Header, err = readHeader(f, s)
	}
	if err == nil {
		return s, nil
	}
	if s.Faults = faultsOf(err); s.Faults != nil {
		return s, nil
	}
	s.Release()
	return nil, err
}

// Work is what a Shard counts for: itself, the bytes of its header read, and nothing written.
func Work(s *Shard) pipeline.Work {
	w := pipeline.Work{Items: 1}
	if s.Header != nil {
		w.BytesIn = s.Header.DataOffset()
	}
	return w
}

// faultsOf turns an error about the checkpoint into Faults; nil for an error of another kind, such as a failed read.
func faultsOf(err error) []stages.Fault {
	if refused, ok := errors.AsType[*stages.RefusedError](err); ok {
		return refused.Faults
	}
	if many, ok := errors.AsType[*safetensors.FaultsError](err); ok {
		var list []stages.Fault
		for _, f := range many.Faults {
			list = append(list, formatFault(f))
		}
		return list
	}
	if one, ok := errors.AsType[*safetensors.FormatError](err); ok {
		return []stages.Fault{formatFault(one)}
	}
	return ggufFault(err)
}

// codes are the rules of the format that have a code of their own; the others are faults of the header.
var codes = []struct {
	rule error
	code stages.Code
}{
	{safetensors.ErrMissingShard, stages.CodeMissingShard},
	{safetensors.ErrNotInHeader, stages.CodeMissing},
	{safetensors.ErrNotInIndex, stages.CodeExtra},
	{safetensors.ErrWrongShard, stages.CodeWrongShard},
	{safetensors.ErrDuplicateTensor, stages.CodeDuplicate},
	{safetensors.ErrOutside, stages.CodeEscape},
	{safetensors.ErrNotRegular, stages.CodeShard},
}

func formatFault(e *safetensors.FormatError) stages.Fault {
	f := stages.Fault{
		Code: stages.CodeHeader, File: e.File, Tensor: e.Tensor, Problem: e.Err.Error(), Expected: e.Expected, Found: e.Found,
		Advice: "the file is damaged or was not written by a conforming writer: get it again",
	}
	if e.Offset >= 0 {
		f.Problem += " (byte " + itoa(e.Offset) + ")"
	}
	for _, c := range codes {
		if errors.Is(e.Err, c.rule) {
			f.Code = c.code
		}
	}
	return f
}
