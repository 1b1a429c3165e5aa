package safetensors_test

import (
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/coldload/coldload/safetensors"
)

// The oracle is the same rules written a second time, slowly, on the tree that another JSON parser makes, with big numbers, and with the
// data area painted byte by byte. It says only whether a text is accepted, and what it holds.

// node is a JSON value that keeps the order of members, and duplicates.
type node struct {
	kind    jsontext.Kind
	text    string // of a string, decoded; of a number, as it stands
	keys    []string
	values  []node
	deepest int // levels of brackets in it
}

func (n node) get(key string) (node, bool) {
	for i, k := range n.keys {
		if k == key {
			return n.values[i], true
		}
	}
	return node{}, false
}

// distinct reports whether no key appears twice.
func (n node) distinct() bool {
	seen := map[string]bool{}
	for _, k := range n.keys {
		if seen[k] {
			return false
		}
		seen[k] = true
	}
	return true
}

// readTree parses one JSON text with nothing but white space around it.
func readTree(text string) (node, bool) {
	d := jsontext.NewDecoder(strings.NewReader(text), jsontext.AllowDuplicateNames(true))
	n, err := readNode(d)
	if err != nil {
		return node{}, false
	}
	_, err = d.ReadToken()
	return n, errors.Is(err, io.EOF)
}

func readNode(d *jsontext.Decoder) (node, error) {
	t, err := d.ReadToken()
	if err != nil {
		return node{}, err
	}
	n := node{kind: t.Kind()}
	closing := jsontext.Kind('}')
	if n.kind == '"' || n.kind == '0' {
		n.text = t.String()
	}
	if n.kind == '[' {
		closing = ']'
	} else if n.kind != '{' {
		return n, nil
	}
	for d.PeekKind() != closing {
		if n.kind == '{' {
			key, err := readNode(d)
			if err != nil {
				return n, err
			}
			n.keys = append(n.keys, key.text)
		}
		v, err := readNode(d)
		if err != nil {
			return n, err
		}
		n.values = append(n.values, v)
		n.deepest = max(n.deepest, v.deepest)
	}
	n.deepest++
	_, err = d.ReadToken()
	return n, err
}

// slowTensor is a tensor as the oracle reads it.
type slowTensor struct {
	name       string
	dtype      string
	shape      []int64
	begin, end int64
}

// slowHeader applies the rules to the JSON text of a header with data bytes behind it.
func slowHeader(text string, data int) (tensors []slowTensor, metadata node, ok bool) {
	if !strings.HasPrefix(text, "{") || !strings.HasSuffix(strings.TrimRight(text, " "), "}") {
		return nil, metadata, false
	}
	root, ok := readTree(text)
	if !ok || root.deepest > 64 || !root.distinct() {
		return nil, metadata, false
	}
	for i, name := range root.keys {
		if name == "__metadata__" {
			metadata = root.values[i]
			if !slowMetadata(metadata) {
				return nil, metadata, false
			}
			continue
		}
		t, ok := slowRead(name, root.values[i])
		if !ok {
			return nil, metadata, false
		}
		tensors = append(tensors, t)
	}
	return tensors, metadata, slowCover(tensors, data)
}

func slowMetadata(n node) bool {
	for _, v := range n.values {
		if v.kind != '"' {
			return false
		}
	}
	return n.kind == '{' && n.distinct()
}

func slowName(name string) bool {
	return name != "" && len(name) <= 4096 && !strings.ContainsFunc(name, unicode.IsControl)
}

func slowRead(name string, n node) (t slowTensor, ok bool) {
	dtype, a := n.get("dtype")
	shape, b := n.get("shape")
	offsets, c := n.get("data_offsets")
	if !slowName(name) || !a || !b || !c || n.kind != '{' || !n.distinct() || len(n.keys) > 3+16 {
		return t, false
	}
	d, known := safetensors.ParseDType(dtype.text)
	if dtype.kind != '"' || !known || shape.kind != '[' || len(shape.values) > 64 || offsets.kind != '[' || len(offsets.values) != 2 {
		return t, false
	}
	t = slowTensor{name: name, dtype: dtype.text}
	product, empty := big.NewInt(int64(d.Bits())), false
	for _, v := range shape.values {
		dim, ok := slowNumber(v)
		if !ok {
			return t, false
		}
		t.shape = append(t.shape, dim)
		if empty = empty || dim == 0; dim != 0 {
			product.Mul(product, big.NewInt(dim))
		}
	}
	if !product.IsInt64() {
		return t, false
	}
	bits := product.Int64()
	if empty {
		bits = 0
	}
	if t.begin, ok = slowNumber(offsets.values[0]); !ok {
		return t, false
	}
	if t.end, ok = slowNumber(offsets.values[1]); !ok {
		return t, false
	}
	return t, bits%8 == 0 && t.end >= t.begin && t.end-t.begin == bits/8
}

func slowNumber(n node) (int64, bool) {
	if n.kind != '0' || strings.Trim(n.text, "0123456789") != "" {
		return 0, false
	}
	v, ok := new(big.Int).SetString(n.text, 10)
	return v.Int64(), ok && v.IsInt64()
}

// slowCover paints the data area: every byte must get one owner, and a tensor without bytes must not stand inside another.
func slowCover(tensors []slowTensor, data int) bool {
	area := make([]string, data)
	for _, t := range tensors {
		if t.end > int64(data) {
			return false
		}
		for i := t.begin; i < t.end; i++ {
			if area[i] != "" {
				return false
			}
			area[i] = t.name
		}
	}
	if slices.Contains(area, "") {
		return false
	}
	for _, t := range tensors {
		if t.begin == t.end && t.begin > 0 && t.begin < int64(data) && area[t.begin-1] == area[t.begin] {
			return false
		}
	}
	return true
}

// slowIndex applies the rules to an index.
func slowIndex(text string) (weightMap node, ok bool) {
	root, ok := readTree(text)
	weightMap, has := root.get("weight_map")
	if !ok || !has || root.kind != '{' || root.deepest > 64 || !root.distinct() || len(root.keys) > 16+1+len(slowKnown(root)) {
		return weightMap, false
	}
	if meta, has := root.get("metadata"); has {
		sizes := 0
		for _, k := range meta.keys {
			if k == "total_size" {
				sizes++
			}
		}
		if meta.kind != '{' || sizes > 1 {
			return weightMap, false
		}
	}
	for i, name := range weightMap.keys {
		file := weightMap.values[i]
		if name == "__metadata__" || !slowName(name) || file.kind != '"' || !slowFile(file.text) {
			return weightMap, false
		}
	}
	return weightMap, weightMap.kind == '{' && weightMap.distinct()
}

// slowKnown is a character for each optional key that is there and known.
func slowKnown(root node) string {
	if _, has := root.get("metadata"); has {
		return "m"
	}
	return ""
}

func slowFile(name string) bool {
	drive := len(name) > 1 && name[1] == ':'
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !drive &&
		!strings.ContainsAny(name, "/\\") && !strings.ContainsFunc(name, unicode.IsControl)
}
