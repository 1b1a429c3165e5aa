// Package decode has the Ops that turn the bytes of a checkpoint into plain values: [Copy] for a tensor that is kept and [Cast] for one
// that changes its dtype. Dequantisation belongs here too.
package decode

import (
	"github.com/coldload/coldload/internal/convert/rows"
	"github.com/coldload/coldload/stages"
)

// Copy is the Op of a kept tensor. It has one Input: Rows rows of RowBytes bytes, next to each other, which it writes to the Rect
// unchanged. It fails when the sizes do not agree, which is a fault of the plan. It returns the same Op at every call.
func Copy() stages.Op { return keep }

type copyOp struct{}

var keep stages.Op = copyOp{}

func (copyOp) Phase() stages.Phase { return stages.PhaseDecode }

func (copyOp) String() string { return "copy" }

func (copyOp) Run(j *stages.Job) error { return rows.Copy(j) }

// CheckWord compares four bytes with those of the file.
func (copyOp) CheckWord(j *stages.Job, row, word int) error { return rows.CheckWord(j, row, word) }
