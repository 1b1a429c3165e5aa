package coldload

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/coldload/coldload/internal/convert"
	"github.com/coldload/coldload/internal/fault"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
	"github.com/coldload/coldload/stages/fetch"
)

// ErrNotFound is in the chain of the error when a checkpoint has no tensor, or no module, of the name asked for.
var ErrNotFound = errors.New("no such tensor")

// ErrDType is in the chain of the error when a tensor cannot be had in the type asked for.
var ErrDType = errors.New("not available in this type")

// Has reports whether the checkpoint has a tensor of that name.
func (ck *Checkpoint) Has(name string) bool {
	_, ok := ck.catalog.Lookup(name)
	return ok
}

// Tensor is what the headers say of a tensor.
func (ck *Checkpoint) Tensor(name string) (stages.Tensor, bool) {
	i, ok := ck.catalog.Lookup(name)
	if !ok {
		return stages.Tensor{}, false
	}
	return ck.catalog.Tensor(i), true
}

// lookup is Tensor with an error.
func (ck *Checkpoint) lookup(name string) (stages.Tensor, error) {
	if err := ck.alive(); err != nil {
		return stages.Tensor{}, err
	}
	t, ok := ck.Tensor(name)
	if !ok {
		return t, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return t, nil
}

// viewer is a Source that can show its bytes where they are.
type viewer interface {
	View(ctx context.Context, e stages.Extent) ([]byte, error)
}

// reader is a Source that can copy without a mapping.
type reader interface {
	ReadInto(ctx context.Context, e stages.Extent, dst []byte) error
}

// Bytes is a tensor's bytes as they lie in the mapping of its file: nothing is copied. They are read-only and invalid after Close. When
// somebody truncates the file, a touch crashes the process; where that can happen use ReadInto.
func (ck *Checkpoint) Bytes(name string) ([]byte, error) {
	t, err := ck.lookup(name)
	if err != nil {
		return nil, err
	}
	v, ok := ck.source.(viewer)
	if !ok {
		return nil, fmt.Errorf("%s: this source has no mapping: use ReadInto", name)
	}
	var b []byte
	err = ofSource(name, func() (err error) {
		b, err = v.View(context.Background(), t.Extent)
		return err
	})
	if err == nil && int64(len(b)) != t.Extent.Len {
		err = fmt.Errorf("%s: the source shows %d bytes of %d", name, len(b), t.Extent.Len)
	}
	if err != nil {
		return nil, err
	}
	return b, nil
}

// ofSource asks the source something about a tensor. Its panic is an error, and every error names the tensor: the source knows of files only.
func ofSource(name string, f func() error) error {
	err := pipeline.Recover("source", name, f)
	if data, ok := errors.AsType[*stages.DataError](err); ok {
		data.Tensor = cmp.Or(data.Tensor, name)
	} else if _, panicked := errors.AsType[*pipeline.PanicError](err); err != nil && !panicked {
		err = fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// ReadInto copies a tensor's bytes into dst, which must have exactly their size. It cannot fault.
func (ck *Checkpoint) ReadInto(ctx context.Context, name string, dst []byte) error {
	t, err := ck.lookup(name)
	if err != nil {
		return err
	}
	if int64(len(dst)) != t.Extent.Len {
		return fmt.Errorf("%s: a buffer of %d bytes for %d", name, len(dst), t.Extent.Len)
	}
	if len(dst) == 0 {
		return nil
	}
	return ofSource(name, func() error {
		if r, ok := ck.source.(reader); ok {
			return r.ReadInto(ctx, t.Extent, dst)
		}
		return ck.fetchInto(ctx, t.Extent, dst)
	})
}

// fetchInto copies through the Views of a source that can do no more than Fetch.
func (ck *Checkpoint) fetchInto(ctx context.Context, e stages.Extent, dst []byte) error {
	ranges := []stages.Extent{e}
	views, err := ck.source.Fetch(ctx, ranges)
	if err != nil {
		return err
	}
	if views != nil {
		defer views.Release()
	}
	if err := fetch.Check(views, ranges); err != nil {
		return err
	}
	return fault.Guard(func() error {
		copy(dst, views.Bytes(0))
		return nil
	})
}

// read is a tensor with its bytes in Go memory.
func (ck *Checkpoint) read(ctx context.Context, name string) (stages.Tensor, []byte, error) {
	t, err := ck.lookup(name)
	if err != nil {
		return t, nil, err
	}
	b := make([]byte, t.Extent.Len)
	return t, b, ck.ReadInto(ctx, name, b)
}

// Float32 is a floating-point tensor's values: from F64, F32, F16, BF16, F8_E4M3 or F8_E5M2. A finite F64 that F32 cannot hold is an
// error.
func (ck *Checkpoint) Float32(name string) ([]float32, error) {
	t, b, err := ck.read(context.Background(), name)
	if err != nil {
		return nil, err
	}
	b, err = castBytes(t, b, safetensors.F32)
	if err != nil {
		return nil, err
	}
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out, nil
}

// castBytes converts the bytes of a tensor.
func castBytes(t stages.Tensor, b []byte, to stages.DType) ([]byte, error) {
	if t.DType == to {
		return b, nil
	}
	cast, ok := convert.Func(t.DType, to)
	if !ok {
		return nil, fmt.Errorf("%s: %s as %s: %w", t.Name, t.DType, to, ErrDType)
	}
	out := make([]byte, len(b)/(t.DType.Bits()/8)*(to.Bits()/8))
	if at := cast(out, b); at >= 0 {
		return nil, &stages.DataError{
			Tensor: t.Name, Problem: fmt.Sprintf("element %d does not fit in %s", at, to), Expected: "values that stay finite",
			Found: "a finite value that becomes infinite", Advice: "ask for a dtype with more range",
		}
	}
	return out, nil
}

// Int32 is the values of an I32 tensor: packed codes, indices.
func (ck *Checkpoint) Int32(name string) ([]int32, error) {
	t, b, err := ck.read(context.Background(), name)
	if err != nil {
		return nil, err
	}
	if t.DType != safetensors.I32 {
		return nil, fmt.Errorf("%s: %s as I32: %w", name, t.DType, ErrDType)
	}
	out := make([]int32, len(b)/4)
	for i := range out {
		out[i] = int32(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out, nil
}

// Loaded is one tensor in Go memory.
type Loaded struct {
	DType stages.DType
	Shape []int64
	Bytes []byte // little-endian, row-major
}

// keepF32 is how many elements an F32 vector may have to stay F32: norms, biases and router corrections gain nothing from a cast.
const keepF32 = 1 << 16

// Load reads a tensor in the dtype that a backend prefers: F32, F16 or BF16; [safetensors.Invalid] keeps the file's. Short F32 vectors stay
// F32, and what is no floating-point tensor stays as it is.
func (ck *Checkpoint) Load(ctx context.Context, name string, dtype stages.DType) (Loaded, error) {
	if err := (Options{DType: dtype, Layout: stages.LayoutRaw}).validate(); err != nil {
		return Loaded{}, err
	}
	t, b, err := ck.read(ctx, name)
	if err != nil {
		return Loaded{}, err
	}
	small := t.DType == safetensors.F32 && len(t.Shape) <= 1 && len(b)/4 <= keepF32
	if !small && convert.Supported(t.DType, dtype) {
		if b, err = castBytes(t, b, dtype); err != nil {
			return Loaded{}, err
		}
		t.DType = dtype
	}
	return Loaded{DType: t.DType, Shape: t.Shape, Bytes: b}, nil
}
