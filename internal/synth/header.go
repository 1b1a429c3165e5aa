package synth

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/coldload/coldload/safetensors"
)

// fileLayout is where the bytes of a file go: the header, with whatever fills it up, and then the data area.
type fileLayout interface {
	Header() []byte
	FileSize() int64
}

// layout is where the bytes of the Shard's file go.
func (s *Shard) layout() (fileLayout, error) {
	if s.gguf != nil {
		return s.ggufLayout()
	}
	specs := make([]safetensors.Spec, len(s.Specs))
	for i := range s.Specs {
		specs[i] = safetensors.Spec{Name: s.Specs[i].Name, DType: s.Specs[i].DType, Shape: s.Specs[i].Shape}
	}
	l, err := safetensors.NewLayout(specs, safetensors.WriterOptions{Metadata: map[string]string{"format": "pt"}})
	if err != nil {
		return nil, fmt.Errorf("synth: %s: %w", s.Name, err)
	}
	return l, nil
}

// indexFile is model.safetensors.index.json for the Shards, by name as the real writers sort it.
func indexFile(shards []Shard) []byte {
	type entry struct {
		name  string
		shard int
	}
	var entries []entry
	total := int64(0)
	for i := range shards {
		total += shards[i].Bytes
		for j := range shards[i].Specs {
			entries = append(entries, entry{shards[i].Specs[j].Name, i})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	b := make([]byte, 0, 128+len(entries)*128)
	b = append(b, "{\n  \"metadata\": {\n    \"total_size\": "...)
	b = strconv.AppendInt(b, total, 10)
	b = append(b, "\n  },\n  \"weight_map\": {"...)
	for i, e := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, "\n    "...)
		b = appendString(b, e.name)
		b = append(b, ": "...)
		b = appendString(b, shards[e.shard].Name)
	}
	return append(b, "\n  }\n}\n"...)
}

// appendString appends s as a JSON string. Names are nearly always plain, so the fast path is a scan.
func appendString(b []byte, s string) []byte {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }) {
		quoted, err := json.Marshal(s)
		if err != nil { // strings always marshal
			panic(fmt.Sprintf("synth: %v", err))
		}
		return append(b, quoted...)
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
