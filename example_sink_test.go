package coldload_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/stages"
)

// hashSink keeps a digest of every Slab and nothing else.
type hashSink struct {
	mu      sync.Mutex
	digests map[string][32]byte
	outputs []stages.Output
}

// Begin is told all Outputs before a byte moves.
func (s *hashSink) Begin(_ context.Context, outputs []stages.Output) error {
	s.outputs, s.digests = outputs, map[string][32]byte{}
	return nil
}

// Reserve gives the Ops memory to write to. StagingBytes has told the budget of it.
func (*hashSink) Reserve(_ context.Context, s stages.Slab) ([]byte, error) {
	return make([]byte, s.Len), nil
}

// StagingBytes is what Reserve holds until Write.
func (*hashSink) StagingBytes(s stages.Slab) int64 { return s.Len }

// Write gets the memory back, filled.
func (s *hashSink) Write(_ context.Context, slab stages.Slab, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.digests[fmt.Sprintf("%s/%d", s.outputs[slab.Output].Name, slab.Index)] = sha256.Sum256(b)
	return nil
}

// Commit makes the result final; Close without it would have to leave nothing.
func (*hashSink) Commit(context.Context) error { return nil }

// Close frees what there is to free.
func (*hashSink) Close() error { return nil }

// A sink of one's own is where the Outputs go: files, devices, another process. sinks/sinktest checks that it keeps the rules.
func Example_sink() {
	sink := &hashSink{}
	_, err := coldload.Load(context.Background(), "testdata/fixtures/gptq_moe_4b_g128_sharded/checkpoint", sink, coldload.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%d slabs, the norm is %x...\n", len(sink.digests), sink.digests["model.norm.weight/0"])
	// Output:
	// 27 slabs, the norm is 2bc4b2ffa2c5c2648b48cb79d98e72ca838ad0c45e71307a3cf02110a83fc58b...
}
