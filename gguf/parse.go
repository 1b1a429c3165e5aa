package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	magic            = "GGUF"
	minTensorBytes   = 8 + 1 + 4 + 8 + 4 + 8 // of an entry of the table: length, name, rank, one dim, type, offset
	minKeyBytes      = 8 + 1 + 4 + 1         // of a key with its value: length, key, type, value
	defaultAlignment = 32
	alignmentKey     = "general.alignment"
	maxFileBytes     = 1 << 62 // sums of two sizes do not overflow
)

// parser reads one header.
type parser struct {
	scanner
	limits Limits
	h      *Header
	text   strings.Builder // names of tensors
}

func parse(r io.ReaderAt, size int64, limits Limits) (*Header, error) {
	if size < 0 || size > maxFileBytes {
		return nil, &FormatError{Offset: 0, Err: ErrTruncated, Expected: fmt.Sprintf("a file of 0 to %d bytes", int64(maxFileBytes)), Found: decimal(size)}
	}
	p := &parser{
		scanner: scanner{r: r, size: size, most: limits.MaxHeaderBytes}, limits: limits,
		h: &Header{size: size, alignment: defaultAlignment},
	}
	tensors, keys, err := p.preamble()
	if err != nil {
		return nil, err
	}
	p.h.keys, p.h.keyTab = make([]keyed, 0, keys), newTable(int(keys))
	for range keys {
		if err := p.keyValue(); err != nil {
			return nil, err
		}
	}
	if err := p.align(); err != nil {
		return nil, err
	}
	p.h.metaEnd = p.pos
	p.makeRoom(tensors)
	for range tensors {
		if err := p.tensor(); err != nil {
			return nil, err
		}
	}
	p.h.dataOffset = alignUp(p.pos, p.h.alignment)
	if len(p.h.records) == 0 {
		p.h.dataOffset = min(p.h.dataOffset, size)
	}
	if err := p.h.checkSplit(); err != nil {
		return nil, err
	}
	return p.h, p.h.check()
}

// preamble reads magic, version and the two counts.
func (p *parser) preamble() (tensors, keys uint64, err error) {
	b, err := p.next(4)
	if err != nil {
		return 0, 0, err
	}
	if string(b) != magic {
		return 0, 0, &FormatError{Offset: 0, Err: ErrMagic, Expected: quote(magic), Found: strconv.Quote(string(b))}
	}
	if p.h.version, err = p.u32(); err != nil {
		return 0, 0, err
	}
	if err := checkVersion(p.h.version); err != nil {
		return 0, 0, err
	}
	if tensors, err = p.count(minTensorBytes, p.limits.MaxTensors, ErrTooManyTensors); err != nil {
		return 0, 0, err
	}
	keys, err = p.count(minKeyBytes, p.limits.MaxKeys, ErrTooManyKeys)
	return tensors, keys, err
}

func checkVersion(v uint32) error {
	e := &FormatError{Offset: 4, Err: ErrVersion, Expected: "2 or 3", Found: strconv.FormatUint(uint64(v), 10)}
	switch {
	case v == 2 || v == 3:
		return nil
	case v == 1:
		e.Expected = "2 or 3 (convert the model again with a newer llama.cpp)"
	case v&0xFFFF == 0 && bits.ReverseBytes32(v) <= math.MaxUint16 && v != 0:
		e.Err, e.Expected, e.Found = ErrBigEndian, "version 2 or 3 with the low byte first", fmt.Sprintf("version %d with the high byte first", bits.ReverseBytes32(v))
	}
	return e
}

// count reads a number of things of at least each bytes, of which there may be most.
func (p *parser) count(each int64, most int, tooMany error) (uint64, error) {
	at := p.pos
	n, err := p.u64()
	if err != nil {
		return 0, err
	}
	if n > uint64(most) {
		return 0, &FormatError{Offset: at, Err: tooMany, Expected: "at most " + decimal(most), Found: strconv.FormatUint(n, 10)}
	}
	return n, p.room(at, n, each)
}

// room refuses n things of at least each bytes when the file has not so many left.
func (p *parser) room(at int64, n uint64, each int64) error {
	if n > uint64((p.size-p.pos)/each) {
		return &FormatError{
			Offset: at, Err: ErrTruncated, Expected: fmt.Sprintf("room for %d entries of at least %d bytes", n, each),
			Found: fmt.Sprintf("%d bytes up to the end", p.size-p.pos),
		}
	}
	return nil
}

// string reads a text of at most most bytes, which is valid until the next read.
func (p *parser) string(most int, rule error) (string, error) {
	at := p.pos
	n, err := p.u64()
	if err != nil {
		return "", err
	}
	if err := p.fits(n); err != nil {
		return "", err
	}
	if n == 0 || n > uint64(most) {
		return "", &FormatError{Offset: at, Err: rule, Expected: fmt.Sprintf("1 to %d bytes", most), Found: strconv.FormatUint(n, 10)}
	}
	b, err := p.next(int(n))
	if err != nil {
		return "", err
	}
	s := string(b)
	switch {
	case !utf8.ValidString(s):
		return "", &FormatError{Offset: at + 8, Err: rule, Expected: "valid UTF-8", Found: quote(s)}
	case hasControl(s):
		return "", &FormatError{Offset: at + 8, Err: rule, Expected: "no control characters", Found: quote(s)}
	}
	return s, nil
}

func hasControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return true
		}
	}
	return false
}

// keyValue reads one entry of the metadata.
func (p *parser) keyValue() error {
	at := p.pos
	key, err := p.string(maxKeyBytes, ErrKey)
	if err != nil {
		return err
	}
	v, err := p.value()
	if err != nil {
		if e, ok := err.(*FormatError); ok { //nolint:errorlint // made right here
			e.Key = key
		}
		return err
	}
	p.h.keys = append(p.h.keys, keyed{key, v})
	if !p.h.keyTab.add(p.h.keyAt) {
		return &FormatError{Offset: at, Key: key, Err: ErrDuplicateKey}
	}
	return nil
}

// value reads a type and a value of it.
func (p *parser) value() (v Value, err error) {
	if v.Type, err = p.valueType(); err != nil {
		return v, err
	}
	v.Offset = p.pos
	switch v.Type {
	case Array:
		v.Elem, v.Len, err = p.array(1)
	case String:
		err = p.textValue(&v)
	default:
		v.bits, err = p.scalar(v.Type)
	}
	v.Size = p.pos - v.Offset
	return v, err
}

func (p *parser) valueType() (ValueType, error) {
	at := p.pos
	t, err := p.u32()
	if err == nil && t >= valueTypes {
		err = &FormatError{Offset: at, Err: ErrValueType, Expected: "0 to 12", Found: strconv.FormatUint(uint64(t), 10)}
	}
	return ValueType(t), err
}

// textValue reads a string, and keeps it when it is not too long.
func (p *parser) textValue(v *Value) error {
	n, err := p.u64()
	if err != nil {
		return err
	}
	if v.kept = n <= maxTextBytes; !v.kept {
		return p.skip(n)
	}
	b, err := p.next(int(n))
	v.text = string(b)
	return err
}

func (p *parser) scalar(t ValueType) (bits uint64, err error) {
	at := p.pos
	b, err := p.next(int(t.size()))
	if err != nil {
		return 0, err
	}
	var wide [8]byte
	copy(wide[:], b)
	bits = binary.LittleEndian.Uint64(wide[:])
	if t == Bool && bits > 1 {
		return 0, &FormatError{Offset: at, Err: ErrBool, Expected: "0 or 1", Found: strconv.FormatUint(bits, 10)}
	}
	return bits, nil
}

// array passes over the elements of an array, which is the depth-th of those around it, itself counted.
func (p *parser) array(depth int) (elem ValueType, n int64, err error) {
	at := p.pos
	if depth > maxDepth {
		return 0, 0, &FormatError{Offset: at, Err: ErrDepth, Expected: fmt.Sprintf("at most %d arrays in each other", maxDepth), Found: "more"}
	}
	if elem, err = p.valueType(); err != nil {
		return elem, 0, err
	}
	length, err := p.u64()
	if err != nil {
		return elem, 0, err
	}
	each := elem.size()
	switch elem { //nolint:exhaustive // the others have a fixed size
	case String:
		each = 8
	case Array:
		each = 12
	}
	if length > uint64((p.size-p.pos)/each) {
		return elem, 0, &FormatError{
			Offset: at, Err: ErrArray, Expected: fmt.Sprintf("at most %d elements of %s", (p.size-p.pos)/each, elem), Found: strconv.FormatUint(length, 10),
		}
	}
	return elem, int64(length), p.elements(elem, length, depth)
}

// elements passes over n elements, of which there is room for the smallest that they can be.
func (p *parser) elements(elem ValueType, n uint64, depth int) error {
	switch elem { //nolint:exhaustive // the others have a fixed size and any value
	case String:
		for range n {
			size, err := p.u64()
			if err == nil {
				err = p.skip(size)
			}
			if err != nil {
				return err
			}
		}
		return nil
	case Array:
		for range n {
			if _, _, err := p.array(depth + 1); err != nil {
				return err
			}
		}
		return nil
	case Bool:
		for range n {
			if _, err := p.scalar(Bool); err != nil {
				return err
			}
		}
		return nil
	}
	return p.skip(n * uint64(elem.size()))
}

// align takes general.alignment, if it is there.
func (p *parser) align() error {
	v, ok := p.h.Value(alignmentKey)
	if !ok {
		return nil
	}
	n, _ := v.Int()
	if v.Type != Uint32 || n < 8 || n > maxAlignment || n&(n-1) != 0 {
		found := v.Type.String()
		if v.Type == Uint32 {
			found = decimal(n)
		}
		return &FormatError{
			Offset: v.Offset, Key: alignmentKey, Err: ErrAlignment, Expected: fmt.Sprintf("a power of two from 8 to %d, as u32", maxAlignment), Found: found,
		}
	}
	p.h.alignment = n
	return nil
}

// makeRoom passes over the table to know what its entries take, so that nothing grows by copying. It stops where the table is wrong: that is for
// tensor to tell.
func (p *parser) makeRoom(tensors uint64) {
	start, text, dims, n := p.pos, uint64(0), uint32(0), uint64(0)
	for ; n < tensors; n++ {
		name, err := p.u64()
		if err != nil || name == 0 || name > uint64(p.limits.MaxNameBytes) || p.skip(name) != nil {
			break
		}
		rank, err := p.u32()
		if err != nil || rank == 0 || rank > 4 || p.skip(8*uint64(rank)+12) != nil {
			break
		}
		text, dims = text+name, dims+rank
	}
	p.pos = start
	p.text.Grow(int(text))
	p.h.dims = make([]int64, 0, dims)
	p.h.records = make([]record, 0, n)
	p.h.names = newTable(int(n + 1)) // one more for the entry that is wrong
}

// tensor reads one entry of the table.
func (p *parser) tensor() error {
	at := p.pos
	name, err := p.string(p.limits.MaxNameBytes, ErrName)
	if err != nil {
		return err
	}
	h := p.h
	r := record{text: uint32(p.text.Len()), nameLen: uint16(len(name)), dims: uint32(len(h.dims))}
	if err := p.shape(&r); err != nil {
		return inTensor(err, name)
	}
	if err := p.place(&r); err != nil {
		return inTensor(err, name)
	}
	p.text.WriteString(name)
	h.text = p.text.String()
	h.records = append(h.records, r)
	if !h.names.add(h.Name) {
		return &FormatError{Offset: at, Tensor: name, Err: ErrDuplicateTensor}
	}
	return nil
}

func inTensor(err error, name string) error {
	if e, ok := err.(*FormatError); ok { //nolint:errorlint // made right here
		e.Tensor = name
	}
	return err
}

// shape reads the dims, fastest first, and keeps them slowest first.
func (p *parser) shape(r *record) error {
	at := p.pos
	rank, err := p.u32()
	if err != nil {
		return err
	}
	if rank < 1 || rank > 4 {
		return &FormatError{Offset: at, Err: ErrRank, Expected: "1 to 4", Found: strconv.FormatUint(uint64(rank), 10)}
	}
	r.rank = uint8(rank)
	b, err := p.next(8 * int(rank))
	if err != nil {
		return err
	}
	product := uint64(1)
	for i := range int(rank) {
		d := binary.LittleEndian.Uint64(b[8*i:])
		hi, lo := bits.Mul64(product, d)
		switch {
		case d == 0 || d > math.MaxInt64:
			return &FormatError{Offset: at + 4 + 8*int64(i), Err: ErrDim, Expected: "a number from 1 to 2^63-1", Found: strconv.FormatUint(d, 10)}
		case hi != 0 || lo > math.MaxInt64:
			return &FormatError{Offset: at + 4, Err: ErrOverflow, Expected: "less than 2^63 elements", Found: "more"}
		}
		product = lo
	}
	for i := range int(rank) {
		p.h.dims = append(p.h.dims, int64(binary.LittleEndian.Uint64(b[8*(int(rank)-1-i):])))
	}
	return nil
}

// place reads the type and the offset, and computes how many bytes the tensor takes.
func (p *parser) place(r *record) error {
	at := p.pos
	t, err := p.u32()
	if err != nil {
		return err
	}
	typ := Type(t)
	if !typ.Valid() {
		return &FormatError{Offset: at, Err: ErrType, Expected: "a type that ggml has", Found: describeType(typ)}
	}
	r.typ = uint8(typ)
	begin, err := p.u64()
	if err != nil {
		return err
	}
	size, err := p.bytesOf(typ, r)
	if err != nil {
		return err
	}
	if begin > math.MaxInt64 || begin%uint64(p.h.alignment) != 0 {
		return &FormatError{
			Offset: at + 4, Err: ErrMisaligned, Expected: fmt.Sprintf("a multiple of %d", p.h.alignment), Found: strconv.FormatUint(begin, 10),
		}
	}
	if end := begin + size; end > uint64(p.size) {
		return &FormatError{
			Offset: at + 4, Err: ErrTruncated, Expected: fmt.Sprintf("%d bytes of data from %d on", size, begin), Found: fmt.Sprintf("a file of %d bytes", p.size),
		}
	}
	r.begin, r.end = int64(begin), int64(begin+size)
	return nil
}

// describeType is the number of a type that is not Valid, with what is known of it.
func describeType(t Type) string {
	if t <= lastID && kinds[t].name != "" {
		return fmt.Sprintf("%d (%s, which ggml has removed)", uint32(t), kinds[t].name)
	}
	return strconv.FormatUint(uint64(t), 10)
}

// bytesOf is the size of a tensor whose dims were read.
func (p *parser) bytesOf(t Type, r *record) (uint64, error) {
	elems, size := t.Block()
	dims := p.h.dims[r.dims:][:r.rank]
	row := dims[r.rank-1]
	if row%elems != 0 {
		return 0, &FormatError{
			Offset: p.pos - 12, Err: ErrBlocks, Expected: fmt.Sprintf("a multiple of %d elements for %s", elems, t), Found: decimal(row),
		}
	}
	n := uint64(row / elems)
	for _, d := range dims[:r.rank-1] {
		n *= uint64(d) // no overflow: the product of the elements is none
	}
	hi, lo := bits.Mul64(n, uint64(size))
	if hi != 0 || lo > math.MaxInt64 {
		return 0, &FormatError{Offset: p.pos - 12, Err: ErrOverflow, Expected: "less than 2^63 bytes", Found: "more"}
	}
	return lo, nil
}
