package decode

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/stages"
)

// CheckGroupOrder makes the Op that proves that a g_idx is trivial: g_idx[k] = k/group (0 everywhere when group is the whole of K).
//
// Input: one, g_idx: I32 [K]. No destination.
func CheckGroupOrder(group int) stages.Op { return checkGroupOrder{group: group} }

type checkGroupOrder struct{ group int }

func (checkGroupOrder) Phase() stages.Phase { return stages.PhaseDecode }
func (op checkGroupOrder) String() string   { return fmt.Sprintf("check g_idx = k/%d", op.group) }

func (op checkGroupOrder) Run(j *stages.Job) error {
	b := j.Src[0]
	groups := (len(b)/4 + op.group - 1) / op.group
	for k := 0; 4*k+4 <= len(b); k++ {
		found := int32(binary.LittleEndian.Uint32(b[4*k:]))
		if int(found) == k/op.group {
			continue
		}
		e := &stages.DataError{
			Tensor:   j.Inputs[0].Tensor,
			Problem:  fmt.Sprintf("g_idx[%d] is not its group", k),
			Expected: strconv.Itoa(k / op.group),
			Found:    strconv.Itoa(int(found)),
		}
		if found < 0 || int(found) >= groups {
			e.Problem = fmt.Sprintf("g_idx[%d] is out of range", k)
			e.Expected = fmt.Sprintf("0 to %d", groups-1)
			e.Advice = "the checkpoint is damaged: get it again"
			return e
		}
		e.Advice = "the config says desc_act is false, but this module was quantised with act-order: use --act-order"
		return e
	}
	return nil
}

// CheckZeros makes the Op that compares the packed zero points of a symmetric module with the constant they must be. Engines ignore the
// zeros of symmetric modules, so a difference is a warning and no error.
//
// Input: one, qzeros: I32 words. No destination.
func CheckZeros(word uint32) stages.Op { return checkZeros{word: word} }

type checkZeros struct{ word uint32 }

func (checkZeros) Phase() stages.Phase { return stages.PhaseDecode }
func (op checkZeros) String() string   { return fmt.Sprintf("check zero points = 0x%08X", op.word) }

func (op checkZeros) Run(j *stages.Job) error {
	b := j.Src[0]
	for i := 0; i+4 <= len(b); i += 4 {
		if found := binary.LittleEndian.Uint32(b[i:]); found != op.word {
			j.Warn("%s: word %d is 0x%08X where a symmetric module has 0x%08X; zero points of symmetric modules are ignored",
				j.Inputs[0].Tensor, i/4, found, op.word)
			return nil
		}
	}
	return nil
}

// CheckFinite makes the Op that refuses scales which are not finite, for the layouts that keep them as they are.
//
// Input: one, elements of dtype. No destination.
func CheckFinite(dtype stages.DType) stages.Op { return checkFinite{dtype: dtype} }

type checkFinite struct{ dtype stages.DType }

func (checkFinite) Phase() stages.Phase { return stages.PhaseDecode }
func (op checkFinite) String() string   { return fmt.Sprintf("check finite %s", op.dtype) }

func (op checkFinite) Run(j *stages.Job) error {
	at := convert.FirstNonFinite(op.dtype, j.Src[0])
	if at < 0 {
		return nil
	}
	return convert.NonFinite(j.Inputs[0].Tensor, op.dtype, at)
}
