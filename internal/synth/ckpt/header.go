package ckpt

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/coldload/coldload/internal/synth"
)

// header is the start of a safetensors file that places specs one after the other, padded to a multiple of 8. Unlike safetensors.NewLayout
// it writes names that a reader must refuse: twice, empty, or "__metadata__".
func header(specs []synth.Spec) ([]byte, error) {
	var b strings.Builder
	b.WriteString(`{"__metadata__":{"format":"pt"}`)
	off := int64(0)
	for i := range specs {
		s := &specs[i]
		n, err := s.Bytes()
		if err != nil {
			return nil, err
		}
		name, err := json.Marshal(s.Name)
		if err != nil {
			return nil, err
		}
		shape, err := json.Marshal(append([]int64{}, s.Shape...))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, `,%s:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, name, s.DType, shape, off, off+n)
		off += n
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(b.Len())), b.String()...), nil
}
