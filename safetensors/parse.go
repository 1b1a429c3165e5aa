package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// minTensorText is less than the shortest tensor takes in a header: `"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}` is 50 bytes.
// It turns a number of bytes into a bound on the number of tensors.
const minTensorText = 50

// headerParser checks one header text and fills a Header in one pass.
type headerParser struct {
	walker
	limits   Limits
	h        *Header
	starts   list[uint32] // where each tensor's name stands in the text, for errors; dropped after the checks
	dims     [maxRank]int64
	shape    []byte // the dims of the current tensor as varints
	scratch  []byte // a name that had escapes
	extra    extras
	noted    int
	metaSeen bool
}

// parseText checks the JSON text of a header in a file of size bytes.
func parseText(text []byte, size int64, c config) (*Header, error) {
	p := &headerParser{
		walker: walker{text: text, base: prefixBytes},
		limits: c.limits,
		h:      &Header{dataOffset: prefixBytes + int64(len(text)), size: size},
	}
	if err := p.document(); err != nil {
		return nil, err
	}
	p.h.strings.close()
	p.h.records.close()
	if err := p.indexNames(); err != nil {
		return nil, err
	}
	if err := p.cover(c.trailing); err != nil {
		return nil, err
	}
	if more := p.noted - len(p.h.notes); more > 0 {
		p.h.notes = append(p.h.notes, fmt.Sprintf("%d more notes left out", more))
	}
	return p.h, nil
}

// document is the outermost object and the spaces behind it.
func (p *headerParser) document() error {
	if p.text[0] != '{' {
		return p.unexpected(ErrHeaderStart, 0, `"{"`)
	}
	p.pos = 1
	for more := p.first('}'); more; {
		key, err := p.key()
		if err != nil {
			return err
		}
		if err := p.member(key); err != nil {
			return err
		}
		if more, err = p.more('}'); err != nil {
			return err
		}
	}
	for i, c := range p.text[p.pos:] {
		if c != ' ' {
			return p.unexpected(ErrTrailingJSON, p.pos+i, "spaces to the end of the header")
		}
	}
	return nil
}

// member is one key of the outermost object with its value.
func (p *headerParser) member(key token) error {
	if !key.is(metadataKey) {
		return p.tensor(key)
	}
	if p.metaSeen {
		return p.fail(ErrDuplicateMetadata, key.pos, "one "+metadataKey, "a second one")
	}
	p.metaSeen = true
	return aboutTensor(p.metadata(), metadataKey)
}

// aboutTensor puts the tensor's name into err.
func aboutTensor[T string | []byte](err error, name T) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*FormatError](err); ok && e.Tensor == "" {
		e.Tensor = string(name)
	}
	return err
}

// tensor reads the object behind a tensor's name and stores the tensor.
func (p *headerParser) tensor(key token) error {
	remaining := len(p.text) - key.pos
	name, err := p.name(key, p.limits, p.scratch)
	if err != nil {
		return err
	}
	if key.escaped {
		p.scratch = name
	}
	if p.h.records.n == p.limits.MaxTensors {
		return aboutTensor(p.fail(ErrTooManyTensors, key.pos, fmt.Sprintf("at most %d", p.limits.MaxTensors), "one more"), name)
	}
	r := record{nameLen: uint16(len(name))}
	if err := p.fields(&r, name); err != nil {
		return aboutTensor(err, name)
	}
	if err := p.checkSize(&r, key.pos); err != nil {
		return aboutTensor(err, name)
	}
	r.at = p.h.strings.put(name, p.shape, remaining)
	p.h.records.add(r, remaining/minTensorText+1)
	p.starts.add(uint32(key.pos), remaining/minTensorText+1)
	return nil
}

// name checks a tensor's name and returns its bytes, which are part of the text or of scratch.
func (w *walker) name(key token, l Limits, scratch []byte) ([]byte, error) {
	if key.size > l.MaxNameBytes { // before it is decoded
		err := w.fail(ErrNameTooLong, key.pos, fmt.Sprintf("at most %d bytes", l.MaxNameBytes), decimal(key.size))
		return nil, aboutTensor(err, clip(key.raw))
	}
	name := key.bytes(scratch)
	if key.plain && len(name) > 0 && bytes.IndexByte(name, 0x7f) < 0 {
		return name, nil // nearly always: the scan has seen every other control character
	}
	if expected, rule := checkName(string(name), l.MaxNameBytes); rule != nil {
		return nil, w.fail(rule, key.pos, expected, quote(name))
	}
	return name, nil
}

// checkName is the rule for names, for readers and writers: what is broken and what is expected, or nil.
func checkName(name string, most int) (expected string, rule error) {
	switch {
	case name == "":
		return "a name that is not empty", ErrName
	case len(name) > most:
		return fmt.Sprintf("at most %d bytes", most), ErrNameTooLong
	case strings.ContainsFunc(name, unicode.IsControl):
		return "no control characters", ErrName
	}
	return "", nil
}

// The fields of a tensor, as bits of what has been seen.
const (
	sawDType = 1 << iota
	sawShape
	sawOffsets
)

// fields reads the object of one tensor into r and p.shape.
func (p *headerParser) fields(r *record, name []byte) error {
	if err := p.open('{', "an object with dtype, shape and data_offsets"); err != nil {
		return err
	}
	p.extra.n = 0
	seen := 0
	for more := p.first('}'); more; {
		key, err := p.key()
		if err != nil {
			return err
		}
		bit := fieldBit(key)
		if seen&bit != 0 {
			return p.fail(ErrDuplicateField, key.pos, "", quote(key.raw))
		}
		seen |= bit
		if err := p.field(bit, key, r, name); err != nil {
			return err
		}
		if more, err = p.more('}'); err != nil {
			return err
		}
	}
	return p.missing(seen)
}

// fieldBit is 0 for an unknown field. Names are case-sensitive.
func fieldBit(key token) int {
	switch {
	case key.is("dtype"):
		return sawDType
	case key.is("shape"):
		return sawShape
	case key.is("data_offsets"):
		return sawOffsets
	default:
		return 0
	}
}

// field reads the value of one field.
func (p *headerParser) field(bit int, key token, r *record, name []byte) error {
	switch bit {
	case sawDType:
		return p.dtypeField(r)
	case sawShape:
		return p.shapeField(r)
	case sawOffsets:
		return p.offsetsField(r)
	default:
		if err := p.extra.field(&p.walker, key, 2); err != nil {
			return err
		}
		if p.noted++; len(p.h.notes) < maxNoteCount {
			p.h.notes = append(p.h.notes, fmt.Sprintf("tensor %s: unknown field %s ignored", quote(name), quote(key.raw)))
		}
		return nil
	}
}

func (p *headerParser) missing(seen int) error {
	var what string
	switch {
	case seen&sawDType == 0:
		what = "dtype"
	case seen&sawShape == 0:
		what = "shape"
	case seen&sawOffsets == 0:
		what = "data_offsets"
	default:
		return nil
	}
	return p.fail(ErrMissingField, p.pos-1, what, "the end of the object")
}

func (p *headerParser) dtypeField(r *record) error {
	t, err := p.str("a dtype name")
	if err != nil {
		return err
	}
	const longest = len("F8_E4M3FNUZ")
	if t.size <= longest {
		var scratch [longest]byte
		if d, ok := parseDType(t.bytes(scratch[:])); ok {
			r.dtype = d
			return nil
		}
	}
	return p.fail(ErrDType, t.pos, "one of the 22 dtypes of the format", quote(t.raw))
}

func (p *headerParser) shapeField(r *record) error {
	if err := p.open('[', "an array of dimensions"); err != nil {
		return err
	}
	p.shape = p.shape[:0]
	rank := 0
	for more := p.first(']'); more; rank++ {
		if rank == p.limits.MaxRank {
			return p.unexpected(ErrRank, p.pos, fmt.Sprintf("at most %d dimensions", p.limits.MaxRank))
		}
		dim, err := p.integer("a dimension")
		if err != nil {
			return err
		}
		p.dims[rank] = dim
		p.shape = binary.AppendUvarint(p.shape, uint64(dim))
		if more, err = p.more(']'); err != nil {
			return err
		}
	}
	r.rank = uint8(rank)
	return nil
}

func (p *headerParser) offsetsField(r *record) error {
	if err := p.open('[', "an array of two offsets"); err != nil {
		return err
	}
	start := p.pos
	for i, v := range [...]*int64{&r.begin, &r.end} {
		if p.peek() == ']' {
			return p.unexpected(ErrOffsets, p.pos, "two offsets")
		}
		var err error
		if *v, err = p.integer("an offset"); err != nil {
			return err
		}
		more, err := p.more(']')
		if err != nil {
			return err
		}
		if more != (i == 0) {
			return p.unexpected(ErrOffsets, p.pos, "two offsets")
		}
	}
	if r.begin > r.end {
		return p.fail(ErrOffsets, start, "begin <= end", fmt.Sprintf("[%d,%d]", r.begin, r.end))
	}
	return nil
}

// checkSize compares shape and dtype with the byte range.
func (p *headerParser) checkSize(r *record, pos int) error {
	shape := p.dims[:r.rank]
	size, err := byteSize(r.dtype, shape)
	if err != nil {
		return p.fail(err, pos, "a whole number of bytes below 2^63", describe(r.dtype, shape))
	}
	if size != r.end-r.begin {
		found := fmt.Sprintf("%d in [%d,%d]", r.end-r.begin, r.begin, r.end)
		return p.fail(ErrSizeMismatch, pos, fmt.Sprintf("%d bytes for %s", size, describe(r.dtype, shape)), found)
	}
	return nil
}

// describe is a dtype and a shape in short.
func describe(d DType, shape []int64) string {
	const most = 8
	if len(shape) > most {
		return fmt.Sprintf("%s %v and %d more dimensions", d, shape[:most], len(shape)-most)
	}
	return fmt.Sprintf("%s %v", d, shape)
}

// indexNames makes the table of names and finds duplicates. It runs when the count is known, so that the table never grows.
func (p *headerParser) indexNames() error {
	h := p.h
	h.names = newTable(h.Len())
	for i := range h.Len() {
		if earlier, ok := h.names.insert(i, h.Name); !ok {
			first := fmt.Sprintf("a second one; the first is at byte %d", p.base+int64(*p.starts.at(earlier)))
			return aboutTensor(p.fail(ErrDuplicateTensor, int(*p.starts.at(i)), "one tensor of that name", first), h.Name(i))
		}
	}
	return nil
}
