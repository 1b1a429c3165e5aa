package coldload_test

import (
	"crypto/sha256"
	"errors"
	"maps"
	"path/filepath"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/cpu/cputest"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/host"
	"github.com/coldload/coldload/stages"
)

// TestEveryProcessorMakesTheSameBytes loads every fixture in every layout with the kernels of every kind of processor that this one can
// play. (With the kernels of this one, other tests compare the fixtures with what the real tools made of them.)
func TestEveryProcessorMakesTheSameBytes(t *testing.T) {
	fixtures, err := filepath.Glob(fixturePath("*"))
	if err != nil || len(fixtures) == 0 {
		t.Fatalf("%d fixtures, %v", len(fixtures), err)
	}
	loaded := 0
	for _, path := range fixtures {
		for name, opt := range map[string]coldload.Options{
			"marlin": {Layout: stages.LayoutMarlin}, "marlin BF16": {Layout: stages.LayoutMarlin, DType: safetensors.BF16, ActOrder: true},
			"exllama": {Layout: stages.LayoutExllama}, "dequant BF16": {Layout: stages.LayoutDequant, DType: safetensors.BF16},
			"dequant F16": {Layout: stages.LayoutDequant, DType: safetensors.F16}, "dequant F32": {Layout: stages.LayoutDequant, DType: safetensors.F32},
		} {
			t.Run(filepath.Base(filepath.Dir(path))+"/"+name, func(t *testing.T) {
				if sameOnEveryProcessor(t, path, opt) {
					loaded++
				}
			})
		}
	}
	if loaded < 10 {
		t.Errorf("only %d loads were possible", loaded)
	}
}

// sameOnEveryProcessor reports whether the checkpoint can be loaded so at all.
func sameOnEveryProcessor(t *testing.T, path string, opt coldload.Options) bool {
	t.Helper()
	var first map[string][sha256.Size]byte
	for mask := range cputest.Masks() {
		sink := host.New(host.Options{})
		res, err := coldload.Load(t.Context(), path, sink, opt)
		if _, refused := errors.AsType[*stages.RefusedError](err); refused {
			return false
		}
		if err != nil {
			t.Fatalf("%s: %v", mask, err)
		}
		if res.Kernels != mask {
			t.Errorf("%s: the result says %q", mask, res.Kernels)
		}
		got := map[string][sha256.Size]byte{}
		for name, x := range memoryOf(t, sink).All() {
			got[name] = sha256.Sum256(x.Bytes)
		}
		if first == nil {
			first = got
		}
		if !maps.Equal(got, first) {
			t.Errorf("%s makes other bytes", mask)
		}
	}
	return true
}
