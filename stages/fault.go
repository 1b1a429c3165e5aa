package stages

import (
	"fmt"
	"strings"
)

// Code classifies a Fault; scripts and tests rely on it, messages may change.
type Code string

// The codes of faults that are found before a byte moves.
const (
	CodeNotFound     Code = "not-found"       // nothing there, or nothing that coldload reads
	CodeConfig       Code = "config"          // a config file that cannot be read or contradicts itself
	CodeIndex        Code = "index"           // model.safetensors.index.json is malformed or names what it must not
	CodeMissingShard Code = "missing-shard"   // a Shard that the index names is not there
	CodeShard        Code = "shard"           // a Shard that is no regular file or cannot be opened
	CodeHeader       Code = "header"          // a Shard's header breaks a rule of the format
	CodeEscape       Code = "escape"          // a path or a link that leaves the trusted folder
	CodeMissing      Code = "missing-tensor"  // in the index but in no header, or needed by a Module
	CodeExtra        Code = "extra-tensor"    // in a header but not in the index, or part of nothing known
	CodeDuplicate    Code = "duplicate"       // one name twice
	CodeWrongShard   Code = "wrong-shard"     // not in the Shard that the index names
	CodeAmbiguous    Code = "ambiguous"       // a single file and an index that disagree
	CodeUnsupported  Code = "unsupported"     // recognised, but not processed by this version
	CodeShape        Code = "shape"           // shapes or dtypes that contradict each other or the config
	CodeMember       Code = "missing-member"  // a Module, expert or member that must be there
	CodeMismatch     Code = "member-mismatch" // members that must fuse and do not agree
	CodeBudget       Code = "budget"          // a Batch that is larger than the budget
	CodeLayout       Code = "layout"          // what the layout cannot hold, under Strict
	CodeSink         Code = "sink"            // Outputs that the Sink cannot take
)

// Fault is one reason why a Checkpoint is refused. It says where, what was expected and found, and what to do.
type Fault struct {
	Code     Code   `json:"code"`
	File     string `json:"file,omitempty"`
	Tensor   string `json:"tensor,omitempty"` // a tensor, a Module or an Output
	Problem  string `json:"problem"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
	Advice   string `json:"advice,omitempty"`
}

// String is the Fault as one line.
func (f Fault) String() string {
	var b strings.Builder
	if f.File != "" {
		b.WriteString(f.File + ": ")
	}
	if f.Tensor != "" {
		b.WriteString(f.Tensor + ": ")
	}
	b.WriteString(f.Problem)
	switch {
	case f.Expected != "" && f.Found != "":
		fmt.Fprintf(&b, " (expected %s, found %s)", f.Expected, f.Found)
	case f.Expected != "":
		fmt.Fprintf(&b, " (expected %s, found none)", f.Expected)
	case f.Found != "":
		fmt.Fprintf(&b, " (found %s)", f.Found)
	}
	if f.Advice != "" {
		b.WriteString("; " + f.Advice)
	}
	return b.String()
}

// RefusedError says that a Checkpoint cannot be loaded. It carries every Fault found, not only the first.
type RefusedError struct {
	Faults []Fault
}

// Refuse makes a RefusedError; nil when there is no fault.
func Refuse(faults ...Fault) error {
	if len(faults) == 0 {
		return nil
	}
	return &RefusedError{Faults: faults}
}

func (e *RefusedError) Error() string {
	if len(e.Faults) == 1 {
		return "checkpoint refused: " + e.Faults[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "checkpoint refused: %d faults", len(e.Faults))
	const most = 20
	for i, f := range e.Faults {
		if i == most {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Faults)-most)
			break
		}
		b.WriteString("\n  " + f.String())
	}
	return b.String()
}

// MismatchError says that what an Op wrote is not what its source says, as a [Checker] found. Neither the checkpoint nor the options are at fault.
type MismatchError struct {
	What      string // which element, counted in the Part: "code of input feature 3, output feature 17"
	Want, Got string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s is %s in the result, and must be %s by its source", e.What, e.Got, e.Want)
}

// DataError says that the bytes of a tensor are not what they must be: found only while running.
type DataError struct {
	File     string // filled in by whoever knows it
	Tensor   string
	Problem  string
	Expected string
	Found    string
	Advice   string
	Err      error // the cause, when there is one
}

func (e *DataError) Error() string {
	s := Fault{File: e.File, Tensor: e.Tensor, Problem: e.Problem, Expected: e.Expected, Found: e.Found, Advice: e.Advice}.String()
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is the cause.
func (e *DataError) Unwrap() error { return e.Err }
