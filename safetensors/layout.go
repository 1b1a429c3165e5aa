package safetensors

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Spec declares one tensor of a file that is to be written.
type Spec struct {
	Name  string
	DType DType
	Shape []int64 // elements per dimension; empty for a scalar
}

// WriterOptions are what a file has besides its tensors. The zero value is good.
type WriterOptions struct {
	Metadata map[string]string // __metadata__; written in the order of the keys, and not at all when empty
	Align    int               // the data area begins at a multiple of this many bytes: a power of two up to 65536; default 8
	Limits   Limits            // what a reader must accept; the defaults are those of a reader
}

const (
	defaultAlign = 8
	maxAlign     = 1 << 16
)

// Layout is where every byte of a file goes: its header, and the extent of each tensor. The same input makes the same bytes. Writer and
// RandomWriter follow it; a caller with its own way to write may do so too. It does not change and may be used from several goroutines.
type Layout struct {
	header []byte
	names  []string
	ends   []int64 // in the data area
	table  table
}

// NewLayout lays out tensors one after another in the given order. It refuses what a reader would refuse, with the same errors: names that
// are empty, have control characters, are __metadata__ or appear twice, unknown dtypes, sizes that overflow or are no whole number of
// bytes, a header over the limit.
func NewLayout(tensors []Spec, o WriterOptions) (*Layout, error) {
	limits := o.Limits.withDefaults()
	align, err := alignment(o.Align)
	if err != nil {
		return nil, err
	}
	if len(tensors) > limits.MaxTensors {
		return nil, specFault("", ErrTooManyTensors, fmt.Sprintf("at most %d", limits.MaxTensors), decimal(len(tensors)))
	}
	l := &Layout{names: make([]string, len(tensors)), ends: make([]int64, len(tensors)), table: newTable(len(tensors))}
	text, err := appendMetadata(append(make([]byte, prefixBytes, textEstimate(tensors)), '{'), o.Metadata)
	if err != nil {
		return nil, err
	}
	begin := int64(0)
	for i, t := range tensors {
		if l.ends[i], err = t.check(begin, limits); err != nil {
			return nil, err
		}
		l.names[i] = t.Name
		if _, ok := l.table.insert(i, l.name); !ok {
			return nil, specFault(t.Name, ErrDuplicateTensor, "", "")
		}
		text = t.appendTo(text, begin, l.ends[i])
		begin = l.ends[i]
	}
	l.header, err = finishHeader(text, align, limits)
	return l, err
}

// textEstimate is about the size of the header, so that appending to it seldom copies.
func textEstimate(tensors []Spec) int {
	const perTensor, perDim = 80, 8
	n := perTensor
	for i := range tensors {
		n += perTensor + len(tensors[i].Name) + perDim*len(tensors[i].Shape)
	}
	return n
}

func alignment(n int) (int, error) {
	switch {
	case n == 0:
		return defaultAlign, nil
	case n < 0 || n > maxAlign || n&(n-1) != 0:
		return 0, specFault("", ErrAlign, "", decimal(n))
	}
	return n, nil
}

func specFault(tensor string, rule error, expected, found string) *FormatError {
	return &FormatError{Offset: NoOffset, Tensor: tensor, Err: rule, Expected: expected, Found: found}
}

// check is the end of a tensor that begins at begin.
func (t *Spec) check(begin int64, l Limits) (end int64, err error) {
	switch {
	case !t.DType.Valid():
		return 0, specFault(t.Name, ErrDType, "", t.DType.String())
	case t.Name == metadataKey:
		return 0, specFault(t.Name, ErrName, "another name", metadataKey)
	case !utf8.ValidString(t.Name):
		return 0, specFault(t.Name, ErrUTF8, "", "")
	case len(t.Shape) > l.MaxRank:
		return 0, specFault(t.Name, ErrRank, fmt.Sprintf("at most %d", l.MaxRank), decimal(len(t.Shape)))
	}
	if expected, rule := checkName(t.Name, l.MaxNameBytes); rule != nil {
		return 0, specFault(t.Name, rule, expected, quote(t.Name))
	}
	size, err := byteSize(t.DType, t.Shape)
	if err != nil {
		return 0, specFault(t.Name, err, "a whole number of bytes below 2^63", describe(t.DType, t.Shape))
	}
	if end = begin + size; end < begin {
		return 0, specFault(t.Name, ErrOverflow, "a file below 2^63 bytes", describe(t.DType, t.Shape))
	}
	return end, nil
}

// appendMetadata appends __metadata__ and its comma, when there is any.
func appendMetadata(b []byte, m map[string]string) ([]byte, error) {
	if len(m) == 0 {
		return b, nil
	}
	b = append(b, `"`+metadataKey+`":{`...)
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !utf8.ValidString(key) || !utf8.ValidString(m[key]) {
			return nil, specFault(metadataKey, ErrUTF8, "", quote(key))
		}
		b = appendString(b, key)
		b = append(b, ':')
		b = append(appendString(b, m[key]), ',')
	}
	b[len(b)-1] = '}'
	return append(b, ','), nil
}

// appendTo appends the tensor and a comma.
func (t *Spec) appendTo(b []byte, begin, end int64) []byte {
	b = appendString(b, t.Name)
	b = append(b, `:{"dtype":"`...)
	b = append(b, t.DType.String()...)
	b = append(b, `","shape":[`...)
	for i, dim := range t.Shape {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, dim, 10)
	}
	b = append(b, `],"data_offsets":[`...)
	b = strconv.AppendInt(b, begin, 10)
	b = append(b, ',')
	b = strconv.AppendInt(b, end, 10)
	return append(b, "]},"...)
}

// appendString appends s, which is valid UTF-8, as a JSON string with as few escapes as JSON allows.
func appendString(b []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= 0x20:
			b = append(b, c)
		case c == '\n':
			b = append(b, `\n`...)
		case c == '\r':
			b = append(b, `\r`...)
		case c == '\t':
			b = append(b, `\t`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(b, '"')
}

// finishHeader closes the object, pads it with spaces and fills in the length.
func finishHeader(text []byte, align int, l Limits) ([]byte, error) {
	if last := len(text) - 1; text[last] == ',' {
		text = text[:last]
	}
	text = append(text, '}')
	for len(text)%align != 0 {
		text = append(text, ' ')
	}
	n := len(text) - prefixBytes
	if int64(n) > l.MaxHeaderBytes {
		return nil, specFault("", ErrHeaderTooLarge, fmt.Sprintf("at most %d bytes", l.MaxHeaderBytes), decimal(n))
	}
	binary.LittleEndian.PutUint64(text, uint64(n))
	return text, nil
}

func (l *Layout) name(i int) string { return l.names[i] }

// Len is the number of tensors.
func (l *Layout) Len() int { return len(l.ends) }

// Header is the beginning of the file, up to the data area: length, JSON text and padding. It must not be changed.
func (l *Layout) Header() []byte { return l.header }

// FileSize is the size of the whole file, in bytes.
func (l *Layout) FileSize() int64 {
	if len(l.ends) == 0 {
		return int64(len(l.header))
	}
	return int64(len(l.header)) + l.ends[len(l.ends)-1]
}

// Lookup is the number of the tensor called name, in the order in which the tensors were declared.
func (l *Layout) Lookup(name string) (i int, ok bool) {
	i = l.table.find(name, l.name)
	return i, i >= 0
}

// Offset is where tensor i begins in the file, in bytes. Like Size it panics when i is not in [0, Len).
func (l *Layout) Offset(i int) int64 {
	if i == 0 {
		return int64(len(l.header))
	}
	return int64(len(l.header)) + l.ends[i-1]
}

// Size is the number of bytes of tensor i.
func (l *Layout) Size(i int) int64 { return int64(len(l.header)) + l.ends[i] - l.Offset(i) }
