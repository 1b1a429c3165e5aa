package safetensors

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// One sentinel per rule. Readers wrap them in a *FormatError that says where; test with errors.Is.
var (
	// The eight bytes of length and the size of the header.
	ErrFileTooSmall    = errors.New("file is too small to hold a header length")
	ErrHeaderEmpty     = errors.New("header is empty")
	ErrHeaderTooLarge  = errors.New("header is too large")
	ErrHeaderTruncated = errors.New("header runs past the end of the file")

	// The JSON text.
	ErrHeaderStart    = errors.New("header does not start with {")
	ErrSyntax         = errors.New("malformed JSON")
	ErrUTF8           = errors.New("text is not valid UTF-8")
	ErrSurrogate      = errors.New("escape is half a surrogate pair")
	ErrDepth          = errors.New("JSON is nested too deeply")
	ErrTrailingJSON   = errors.New("bytes after the end of the JSON text")
	ErrWrongType      = errors.New("JSON value has the wrong type")
	ErrNumber         = errors.New("number is not a plain decimal integer")
	ErrMissingField   = errors.New("required field is missing")
	ErrDuplicateField = errors.New("field appears twice")
	ErrTooManyFields  = errors.New("too many unknown fields")

	// Names, metadata and shapes.
	ErrName              = errors.New("name is not allowed")
	ErrNameTooLong       = errors.New("name is too long")
	ErrTooManyTensors    = errors.New("too many tensors")
	ErrDuplicateTensor   = errors.New("tensor appears twice")
	ErrDuplicateMetadata = errors.New("metadata key appears twice")
	ErrDType             = errors.New("unknown dtype")
	ErrRank              = errors.New("shape has too many dimensions")
	ErrOverflow          = errors.New("number or product is too large")
	ErrMisaligned        = errors.New("tensor is not a whole number of bytes")

	// The bytes of the data area.
	ErrOffsets       = errors.New("data_offsets are not two offsets in order")
	ErrSizeMismatch  = errors.New("shape and dtype do not match the byte range")
	ErrHole          = errors.New("bytes that belong to no tensor")
	ErrOverlap       = errors.New("byte ranges overlap")
	ErrTruncated     = errors.New("tensor runs past the end of the file")
	ErrTrailingBytes = errors.New("bytes after the last tensor")

	// The index and the shards of a folder.
	ErrNoWeightMap    = errors.New("index has no weight_map")
	ErrIndexTooLarge  = errors.New("index is too large")
	ErrShardName      = errors.New("shard is not a plain file name")
	ErrTooManyShards  = errors.New("too many shards")
	ErrDuplicateEntry = errors.New("weight_map names a tensor twice")
	ErrMissingShard   = errors.New("shard is missing")
	ErrNotInHeader    = errors.New("tensor is in the index but in no header")
	ErrNotInIndex     = errors.New("tensor is in a header but not in the index")
	ErrWrongShard     = errors.New("tensor is not in the shard that the index names")

	// Use of a reader or a writer.
	ErrOutside      = errors.New("link leaves the folder")
	ErrNotRegular   = errors.New("not a regular file")
	ErrNoReaderAt   = errors.New("file does not implement io.ReaderAt")
	ErrNotFound     = errors.New("no such tensor")
	ErrBufferSize   = errors.New("buffer has not the size of the tensor")
	ErrOrder        = errors.New("tensor is written out of order")
	ErrWrittenTwice = errors.New("bytes are written twice")
	ErrIncomplete   = errors.New("not every tensor has been written")
	ErrAlign        = errors.New("alignment is not a power of two up to 65536")
	ErrClosed       = errors.New("already closed")
)

// FormatError is one broken rule and the place where it was found.
type FormatError struct {
	File     string // name of the file, as the caller gave it; empty when unknown
	Offset   int64  // byte offset in that file; -1 when the fault has no place
	Tensor   string // name of the tensor (or of the metadata key); empty when the fault is not about one
	Err      error  // the rule: one of this package's sentinels, possibly with a cause
	Expected string // what the rule wants
	Found    string // what was there
}

// NoOffset is FormatError.Offset when the fault has no place in the file.
const NoOffset = -1

// Error is one line: file, byte offset, tensor, rule, expected and found, as far as they are known.
func (e *FormatError) Error() string {
	var b strings.Builder
	b.WriteString("safetensors: ")
	if e.File != "" {
		b.WriteString(e.File + ": ")
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, "byte %d: ", e.Offset)
	}
	if e.Tensor != "" {
		b.WriteString(quote(e.Tensor) + ": ")
	}
	b.WriteString(e.Err.Error())
	switch {
	case e.Expected != "" && e.Found != "":
		b.WriteString(": expected " + e.Expected + ", found " + e.Found)
	case e.Expected != "":
		b.WriteString(": expected " + e.Expected)
	case e.Found != "":
		b.WriteString(": found " + e.Found)
	}
	return b.String()
}

// Unwrap is the rule, so that errors.Is finds the sentinel.
func (e *FormatError) Unwrap() error { return e.Err }

// FaultsError is every fault that was found in a folder of shards, in a fixed order: shard by shard, then what only the index knows.
type FaultsError struct {
	Faults  []*FormatError
	Omitted int // faults beyond the first 10,000, which are only counted
}

// maxFaults bounds what a hostile folder can make a FaultsError hold.
const maxFaults = 10_000

// Error is one line per fault, up to 20.
func (e *FaultsError) Error() string {
	const most = 20
	total := len(e.Faults) + e.Omitted
	if total == 1 {
		return e.Faults[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "safetensors: %d faults", total)
	for _, f := range e.Faults[:min(most, len(e.Faults))] {
		b.WriteString("\n\t" + strings.TrimPrefix(f.Error(), "safetensors: "))
	}
	if total > most {
		fmt.Fprintf(&b, "\n\tand %d more", total-most)
	}
	return b.String()
}

// Unwrap is the faults, so that errors.Is finds any of their rules.
func (e *FaultsError) Unwrap() []error {
	errs := make([]error, len(e.Faults))
	for i, f := range e.Faults {
		errs[i] = f
	}
	return errs
}

func (e *FaultsError) add(f *FormatError) {
	if len(e.Faults) == maxFaults {
		e.Omitted++
		return
	}
	e.Faults = append(e.Faults, f)
}

// err is e, or nil when nothing was found.
func (e *FaultsError) err() error {
	if len(e.Faults) == 0 {
		return nil
	}
	return e
}

// clipBytes bounds how much of a hostile name or value a message repeats.
const clipBytes = 128

// clip is a copy of the beginning of s, cut between characters.
func clip[T string | []byte](s T) string {
	if len(s) <= clipBytes {
		return string(s)
	}
	n := clipBytes
	for n > clipBytes-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return string(s[:n]) + "..."
}

// quote makes any text safe for a terminal and a log line.
func quote[T string | []byte](s T) string { return strconv.Quote(clip(s)) }

// wrapCause keeps both the rule and the cause findable.
func wrapCause(rule, cause error) error { return fmt.Errorf("%w: %w", rule, cause) }

func decimal[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }
