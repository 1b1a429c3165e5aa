package safetensors_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/coldload/coldload/safetensors"
)

const benchTensors = 100_000

func perTensor(b *testing.B, n int) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/tensor")
}

func BenchmarkParseHeader(b *testing.B) {
	text, data := experts(benchTensors)
	prefix, size := headerOf(text, data)
	b.SetBytes(int64(len(prefix)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := safetensors.ParseHeader(prefix, size); err != nil {
			b.Fatal(err)
		}
	}
	perTensor(b, benchTensors)
}

// BenchmarkParseHeaderShuffled has tensors in random order of their offsets, which must be sorted.
func BenchmarkParseHeaderShuffled(b *testing.B) {
	order := rand.New(rand.NewPCG(1, 2)).Perm(benchTensors)
	text := manyTensors(benchTensors, func(s *strings.Builder, i int) {
		fmt.Fprintf(s, `"model.layers.%d.weight":{"dtype":"U8","shape":[4,4],"data_offsets":[%d,%d]}`, i, order[i]*16, order[i]*16+16)
	})
	prefix, size := headerOf(text, benchTensors*16)
	b.SetBytes(int64(len(prefix)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := safetensors.ParseHeader(prefix, size); err != nil {
			b.Fatal(err)
		}
	}
	perTensor(b, benchTensors)
}

func BenchmarkReadHeader(b *testing.B) {
	text, data := experts(benchTensors)
	prefix, size := headerOf(text, data)
	r := bytes.NewReader(prefix)
	b.SetBytes(int64(len(prefix)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := safetensors.ReadHeader(r, size); err != nil {
			b.Fatal(err)
		}
	}
	perTensor(b, benchTensors)
}

func BenchmarkLookup(b *testing.B) {
	text, data := experts(benchTensors)
	h := mustParse(b, text, data)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, ok := h.Lookup(h.Name(i)); !ok {
			b.Fatal(h.Name(i))
		}
		i = (i + 7919) % benchTensors
	}
}

func indexText(n int) string {
	var b strings.Builder
	b.WriteString("{\n  \"metadata\": {\n    \"total_size\": 1\n  },\n  \"weight_map\": {")
	for i := range n {
		sep := ","
		if i == 0 {
			sep = ""
		}
		fmt.Fprintf(&b, "%s\n    \"model.layers.%d.mlp.experts.%d.gate_proj.%d\": \"model-%05d-of-00096.safetensors\"", sep, i/1024, i%1024, i, i*96/n)
	}
	b.WriteString("\n  }\n}\n")
	return b.String()
}

func BenchmarkParseIndex(b *testing.B) {
	const n = 500_000
	data := []byte(indexText(n))
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := safetensors.ParseIndex(data); err != nil {
			b.Fatal(err)
		}
	}
	perTensor(b, n)
}

func BenchmarkNewLayout(b *testing.B) {
	text, data := experts(benchTensors)
	h := mustParse(b, text, data)
	var specs []safetensors.Spec
	for name, t := range h.All() {
		specs = append(specs, safetensors.Spec{Name: name, DType: t.DType, Shape: t.Shape})
	}
	b.ReportAllocs()
	for b.Loop() {
		w, err := safetensors.NewWriter(io.Discard, specs, safetensors.WriterOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if w.Layout().Len() != benchTensors {
			b.Fatal(w.Layout().Len())
		}
	}
	perTensor(b, benchTensors)
}
