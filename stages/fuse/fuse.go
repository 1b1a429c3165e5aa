// Package fuse has the Op that puts members of one Output side by side: the projections of a fused layer (q, k, v; gate, up), the experts
// of a stack, and raw GPTQ members joined along N. Nothing is staged: each member is its own Part and writes its own Rect of the Slab.
package fuse

import (
	"github.com/coldload/coldload/internal/convert/rows"
	"github.com/coldload/coldload/stages"
)

// Concat is the Op that copies one member to its place. It has one Input: Rows rows of RowBytes bytes, next to each other. It writes
// them Stride bytes apart and leaves the bytes between them, which are the other members', alone. Members joined along the first
// dimension are one run of rows (Stride == RowBytes); along the last dimension the Stride is a row of the whole Output.
//
// It fails when the sizes do not agree, which is a fault of the plan. It returns the same Op at every call.
func Concat() stages.Op { return concat }

type concatOp struct{}

var concat stages.Op = concatOp{}

func (concatOp) Phase() stages.Phase { return stages.PhaseFuse }

func (concatOp) String() string { return "concat" }

func (concatOp) Run(j *stages.Job) error { return rows.Copy(j) }

// CheckWord compares four bytes with those of the file.
func (concatOp) CheckWord(j *stages.Job, row, word int) error { return rows.CheckWord(j, row, word) }
