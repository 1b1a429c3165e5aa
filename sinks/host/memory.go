package host

import (
	"iter"

	"github.com/coldload/coldload/internal/offheap"
	"github.com/coldload/coldload/stages"
)

// Memory is a committed result. Its methods may be called from several goroutines at once, but none during or after Close.
type Memory struct {
	region  *offheap.Region
	outputs []stages.Output
	places  places
	closed  bool
}

// Tensor is one Output in memory.
type Tensor struct {
	DType   stages.DType
	Shape   []int64 // shared with the Memory: not to be changed
	Layout  stages.Layout
	Padding *stages.Padding // nil for none; shared with the Memory: not to be changed
	// Bytes is the memory itself, starting at a multiple of 64. It may be written to. It is invalid after Memory.Close, and the garbage
	// collector does not know of it: a touch after Close crashes the process.
	Bytes []byte
}

// Outputs lists what is there, in the order of Begin. The slice is shared with the Memory and not to be changed.
func (m *Memory) Outputs() []stages.Output { return m.outputs }

// Lookup finds an Output by its name; false when there is none, or when the Memory is closed.
func (m *Memory) Lookup(name string) (Tensor, bool) {
	i, ok := m.places.index[name]
	if !ok || m.closed {
		return Tensor{}, false
	}
	return m.tensor(int(i)), true
}

// All yields every Output with its name, in the order of Begin; nothing when the Memory is closed.
func (m *Memory) All() iter.Seq2[string, Tensor] {
	return func(yield func(string, Tensor) bool) {
		for i := range m.outputs {
			if m.closed || !yield(m.outputs[i].Name, m.tensor(i)) {
				return
			}
		}
	}
}

// Bytes is the size of all Outputs in bytes. The mapping is larger by the padding: less than 64 bytes per Output.
func (m *Memory) Bytes() int64 { return m.places.bytes }

// Close gives the memory back to the system. Every slice of it is invalid afterwards. It is idempotent.
func (m *Memory) Close() error {
	m.closed = true
	return m.region.Free()
}

func (m *Memory) tensor(i int) Tensor {
	o := &m.outputs[i]
	return Tensor{DType: o.DType, Shape: o.Shape, Layout: o.Layout, Padding: o.Padding, Bytes: m.bytes(m.places.starts[i], o.Size)}
}

// slab is the memory of a Slab that exists.
func (m *Memory) slab(s stages.Slab) []byte { return m.bytes(m.places.starts[s.Output]+s.Off, s.Len) }

// bytes clips the capacity, so that an append cannot reach the neighbour.
func (m *Memory) bytes(off, n int64) []byte { return m.region.Bytes()[off : off+n : off+n] }
