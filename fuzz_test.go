package coldload_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/leak"
	"github.com/coldload/coldload/pipeline"
	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// FuzzLoad loads any small file with any config. It is refused, or fails by what its bytes are, or is loaded; nothing panics, and nothing is left.
func FuzzLoad(f *testing.F) {
	dirs, err := filepath.Glob(filepath.Join("testdata", "fixtures", "*", "checkpoint"))
	if err != nil || len(dirs) == 0 {
		f.Fatal(dirs, err)
	}
	for i, dir := range dirs {
		config, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		shards, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
		if err != nil || len(shards) == 0 {
			f.Fatal(err)
		}
		data, err := os.ReadFile(shards[0])
		if err != nil {
			f.Fatal(err)
		}
		n := binary.LittleEndian.Uint64(data)
		f.Add(data[8:8+n], data[8+n:min(len(data), int(8+n)+4096)], config, uint16(37*i))
	}
	f.Add([]byte(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`), []byte{0, 0, 128, 127, 0, 0, 128, 255}, []byte(`{}`), uint16(11))
	f.Fuzz(func(t *testing.T, header, data, config []byte, options uint16) {
		if len(header) > 1<<20 || len(data) > 1<<20 {
			return
		}
		dir := t.TempDir()
		whole := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		whole = append(append(whole, header...), data...)
		if h, err := safetensors.ParseHeader(whole[:8+len(header)], 1<<40, safetensors.WithTrailingBytes()); err == nil {
			size := int64(0)
			for _, info := range h.All() {
				size = max(size, h.DataOffset()+info.End)
			}
			if rest := size - int64(len(whole)); rest > 0 && rest < 1<<22 { // zeros
				whole = append(whole, make([]byte, rest)...)
			}
		}
		if err := errors.Join(os.WriteFile(filepath.Join(dir, single), whole, 0o600), os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)); err != nil {
			t.Fatal(err)
		}
		layouts := []stages.Layout{"", stages.LayoutMarlin, stages.LayoutExllama, stages.LayoutDequant, stages.LayoutRaw}
		dtypes := []stages.DType{safetensors.Invalid, safetensors.F16, safetensors.BF16, safetensors.F32}
		before := leak.Now()
		_, err := coldload.Load(t.Context(), dir, discard.New(), coldload.Options{
			Layout: layouts[options%5], DType: dtypes[options/5%4], NoFuse: options/20%2 == 1, ActOrder: options/40%2 == 1, Strict: options/80%2 == 1,
			IO: []file.Mode{file.ModeAuto, file.ModeMmap, file.ModePread, file.ModeDirect}[options/160%4], Budget: 16 << 20,
		})
		before.Check(t)
		_, refused := errors.AsType[*stages.RefusedError](err)
		_, bytes := errors.AsType[*stages.DataError](err)
		if _, panicked := errors.AsType[*pipeline.PanicError](err); panicked || err != nil && !refused && !bytes && !errors.Is(err, coldload.ErrOptions) {
			t.Errorf("%T: %v", err, err)
		}
	})
}
