package gguf

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// One sentinel per rule. Readers wrap them in a *FormatError that says where; test with errors.Is.
var (
	ErrMagic          = errors.New("file does not begin with GGUF")
	ErrVersion        = errors.New("version is not read")
	ErrBigEndian      = errors.New("file of a big-endian machine is not read")
	ErrTruncated      = errors.New("file ends too early")
	ErrHeaderTooLarge = errors.New("header is too large")

	// The metadata.
	ErrTooManyKeys  = errors.New("too many keys")
	ErrKey          = errors.New("key is not allowed")
	ErrDuplicateKey = errors.New("key appears twice")
	ErrValueType    = errors.New("unknown type of value")
	ErrArray        = errors.New("array is longer than the file")
	ErrDepth        = errors.New("arrays are nested too deeply")
	ErrBool         = errors.New("bool is neither 0 nor 1")
	ErrAlignment    = errors.New("general.alignment cannot be used")
	ErrSplit        = errors.New("keys of a split file do not go together")

	// The tensors.
	ErrTooManyTensors  = errors.New("too many tensors")
	ErrName            = errors.New("name is not allowed")
	ErrDuplicateTensor = errors.New("tensor appears twice")
	ErrRank            = errors.New("tensor has not from one to four dims")
	ErrDim             = errors.New("dim is zero or too large")
	ErrOverflow        = errors.New("product of the dims is too large")
	ErrType            = errors.New("unknown type of tensor")
	ErrBlocks          = errors.New("rows are no whole number of blocks")

	// The bytes of the data area.
	ErrMisaligned    = errors.New("offset is not aligned")
	ErrHole          = errors.New("bytes that belong to no tensor")
	ErrOverlap       = errors.New("byte ranges overlap")
	ErrTrailingBytes = errors.New("bytes after the last tensor")

	// Use of a reader or a writer.
	ErrNotRegular = errors.New("not a regular file")
	ErrNotFound   = errors.New("no such tensor")
	ErrBufferSize = errors.New("buffer has not the size of the tensor")
	ErrValue      = errors.New("value cannot be written")
	ErrOrder      = errors.New("tensor is written out of order")
	ErrIncomplete = errors.New("not every tensor has been written")
	ErrClosed     = errors.New("already closed")
)

// FormatError is one broken rule and the place where it was found.
type FormatError struct {
	File     string // name of the file, as the caller gave it; empty when unknown
	Offset   int64  // byte offset in that file; NoOffset when the fault has no place
	Tensor   string // name of the tensor; empty when the fault is not about one
	Key      string // of the metadata; empty when the fault is not about one
	Err      error  // the rule: one of this package's sentinels, possibly with a cause
	Expected string // what the rule wants
	Found    string // what was there
}

// NoOffset is FormatError.Offset when the fault has no place in the file.
const NoOffset = -1

// Error is one line: file, byte offset, tensor or key, rule, expected and found, as far as they are known.
func (e *FormatError) Error() string {
	var b strings.Builder
	b.WriteString("gguf: ")
	if e.File != "" {
		b.WriteString(e.File + ": ")
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, "byte %d: ", e.Offset)
	}
	if name := e.Tensor + e.Key; name != "" {
		b.WriteString(quote(name) + ": ")
	}
	b.WriteString(e.Err.Error())
	if e.Expected != "" {
		b.WriteString(": expected " + e.Expected)
	}
	switch {
	case e.Expected != "" && e.Found != "":
		b.WriteString(", found " + e.Found)
	case e.Found != "":
		b.WriteString(": found " + e.Found)
	}
	return b.String()
}

// Unwrap is the rule, so that errors.Is finds the sentinel.
func (e *FormatError) Unwrap() error { return e.Err }

// inFile puts the file's name into err.
func inFile(err error, name string) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*FormatError](err); ok {
		if e.File == "" {
			e.File = name
		}
		return err
	}
	if name == "" {
		return fmt.Errorf("gguf: %w", err)
	}
	return fmt.Errorf("gguf: %s: %w", name, err)
}

// clip is a copy of the beginning of s, cut between characters: it bounds how much of a hostile name or value a message repeats.
func clip(s string) string {
	const most = 128
	if len(s) <= most {
		return strings.Clone(s)
	}
	n := most
	for n > most-utf8.UTFMax && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}

// quote makes any text safe for a terminal and a log line.
func quote(s string) string { return strconv.Quote(clip(s)) }

func decimal[T int | int64](n T) string { return strconv.FormatInt(int64(n), 10) }
