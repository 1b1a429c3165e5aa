package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/stages"
)

// wantInputs checks that a Job has n inputs.
func wantInputs(op stages.Op, j *stages.Job, n int) error {
	if len(j.Src) != n {
		return fmt.Errorf("%s: %d inputs, want %d", op, len(j.Src), n)
	}
	return nil
}

// CheckGroupOrder makes the Op that proves that a g_idx is trivial: g_idx[k] = k/group (0 everywhere when group is the whole of K).
//
// Input: one, g_idx: I32 [K]. No destination.
func CheckGroupOrder(group int) stages.Op { return checkGroupOrder{group: group} }

type checkGroupOrder struct{ group int }

func (checkGroupOrder) Phase() stages.Phase { return stages.PhaseDecode }
func (op checkGroupOrder) String() string   { return fmt.Sprintf("check g_idx = k/%d", op.group) }

func (op checkGroupOrder) Run(j *stages.Job) error {
	if err := wantInputs(op, j, 1); err != nil {
		return err
	}
	b := j.Src[0]
	groups := (len(b)/4 + op.group - 1) / op.group
	for k := 0; 4*k+4 <= len(b); k++ {
		found := int32(binary.LittleEndian.Uint32(b[4*k:]))
		if int(found) == k/op.group {
			continue
		}
		if found < 0 || int(found) >= groups {
			return outOfRange(j, 0, k, found, groups)
		}
		return &stages.DataError{
			Tensor: j.Inputs[0].Tensor, Problem: fmt.Sprintf("g_idx[%d] is not its group", k),
			Expected: strconv.Itoa(k / op.group), Found: strconv.Itoa(int(found)),
			Advice: "the config says no act-order (desc_act is false, no actorder), but this module was quantised with it: use --act-order",
		}
	}
	return nil
}

// outOfRange is the error for entry k of the g_idx that is an input.
func outOfRange(j *stages.Job, input, k int, found int32, groups int) error {
	return &stages.DataError{
		Tensor: j.Inputs[input].Tensor, Problem: fmt.Sprintf("g_idx[%d] is out of range", k),
		Expected: fmt.Sprintf("0 to %d", groups-1), Found: strconv.Itoa(int(found)), Advice: "the checkpoint is damaged: get it again",
	}
}

// CheckGroupRange makes the Op that proves that every entry of a g_idx names one of the groups.
//
// Input: one, g_idx: I32 [K]. No destination.
func CheckGroupRange(groups int) stages.Op { return checkGroupRange{groups: groups} }

type checkGroupRange struct{ groups int }

func (checkGroupRange) Phase() stages.Phase { return stages.PhaseDecode }
func (op checkGroupRange) String() string   { return fmt.Sprintf("check g_idx < %d", op.groups) }

func (op checkGroupRange) Run(j *stages.Job) error {
	if err := wantInputs(op, j, 1); err != nil {
		return err
	}
	b := j.Src[0]
	for k := 0; 4*k+4 <= len(b); k++ {
		if found := int32(binary.LittleEndian.Uint32(b[4*k:])); found < 0 || int(found) >= op.groups {
			return outOfRange(j, 0, k, found, op.groups)
		}
	}
	return nil
}

// CheckSameOrder makes the Op that proves that two members of a fused module share their g_idx: the module has one.
//
// Inputs: the g_idx of a member and that of the first member, I32 [K] each. No destination.
func CheckSameOrder() stages.Op { return checkSameOrder{} }

type checkSameOrder struct{}

func (checkSameOrder) Phase() stages.Phase { return stages.PhaseDecode }
func (checkSameOrder) String() string      { return "check that members share g_idx" }

func (op checkSameOrder) Run(j *stages.Job) error {
	if err := wantInputs(op, j, 2); err != nil {
		return err
	}
	if bytes.Equal(j.Src[0], j.Src[1]) {
		return nil
	}
	return &stages.DataError{
		Tensor: j.Inputs[0].Tensor, Problem: "the act-order differs from that of a member with which it fuses",
		Expected: "the g_idx of " + j.Inputs[1].Tensor, Found: "another one", Advice: "load it unfused: --no-fuse",
	}
}

// PackConstant is the words that repeat when every code of a packed row is v: as many as hold 32 codes.
func PackConstant(bits int, planar bool, v uint32) []uint32 {
	w := make([]uint32, bits)
	off := 0
	for _, width := range planesOf(bits, planar) {
		field := uint64(v>>off) & (1<<width - 1)
		for i := range 32 {
			at := width * i
			w[off+at/32] |= uint32(field << (at % 32))
			if high := uint32(field << (at % 32) >> 32); high != 0 {
				w[off+at/32+1] |= high
			}
		}
		off += width
	}
	return w
}

// CheckZeros makes the Op that compares the packed zero points of a symmetric module with the words that they must repeat; see
// [PackConstant]. A difference is a warning and no error; means is what follows from it, for that warning: most readers ignore the zeros of
// symmetric modules, some compute with them.
//
// Input: one, qzeros: I32 [G, N*bits/32]. No destination.
func CheckZeros(words []uint32, means string) stages.Op {
	return &checkZeros{words: words, means: means}
}

type checkZeros struct {
	words []uint32
	means string
}

func (*checkZeros) Phase() stages.Phase { return stages.PhaseDecode }
func (*checkZeros) String() string      { return "check symmetric zero points" }

func (op *checkZeros) Run(j *stages.Job) error {
	if err := wantInputs(op, j, 1); err != nil {
		return err
	}
	b := j.Src[0]
	for i, at := 0, 0; at+4 <= len(b); at += 4 {
		if found := binary.LittleEndian.Uint32(b[at:]); found != op.words[i] {
			j.Warn("word %d is 0x%08X where a symmetric module has 0x%08X; %s", at/4, found, op.words[i], op.means)
			return nil
		}
		if i++; i == len(op.words) {
			i = 0
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
	if err := wantInputs(op, j, 1); err != nil {
		return err
	}
	if at := convert.FirstNonFinite(op.dtype, j.Src[0]); at >= 0 {
		return convert.NonFinite(j.Inputs[0].Tensor, op.dtype, at)
	}
	return nil
}
