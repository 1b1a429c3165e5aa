package safetensors_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

// fileOf is a file with the JSON text as its header and an empty data area.
func fileOf(text string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return append(b, text...)
}

// headerOf is what ParseHeader takes for a file with data bytes of data.
func headerOf(text string, data int64) (prefix []byte, size int64) {
	prefix = fileOf(text)
	return prefix, int64(len(prefix)) + data
}

// experts is the header of a mixture of experts with n tensors, as large checkpoints have them, and the size of its data area.
func experts(n int) (text string, data int64) {
	var b strings.Builder
	b.WriteString(`{"__metadata__":{"format":"pt"}`)
	parts := [...]string{"gate_proj.qweight", "gate_proj.scales", "up_proj.qweight", "up_proj.scales"}
	for i := range n {
		fmt.Fprintf(&b, `,"model.layers.%d.mlp.experts.%d.%s":{"dtype":"I32","shape":[8,16],"data_offsets":[%d,%d]}`,
			i/1024, i/4%256, parts[i%4], data, data+512)
		data += 512
	}
	b.WriteString("}")
	return b.String(), data
}

// manyTensors is a header of n entries.
func manyTensors(n int, entry func(b *strings.Builder, i int)) string {
	var b strings.Builder
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		entry(&b, i)
	}
	b.WriteByte('}')
	return b.String()
}

// shortName is the i-th shortest name.
func shortName(i int) string {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 !#$%&'()*+,-./:;<=>?@[]^_`{|}~"
	var b []byte
	for i++; i > 0; i /= len(letters) {
		i--
		b = append(b, letters[i%len(letters)])
	}
	return string(b)
}

func mustParse(tb testing.TB, text string, data int64) *safetensors.Header {
	tb.Helper()
	prefix, size := headerOf(text, data)
	h, err := safetensors.ParseHeader(prefix, size)
	if err != nil {
		tb.Fatal(err)
	}
	return h
}
