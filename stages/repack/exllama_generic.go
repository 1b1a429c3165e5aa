package repack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/coldload/coldload/internal/cpu"
	"github.com/coldload/coldload/stages"
)

// GPTQExllama makes the Op that shuffles GPTQ codes into the order of the exllama kernels: within every 32 bits (96 for 3-bit codes) of a
// column. Codes of 8 bits stay where they are.
//
// Inputs: qweight I32 [K*bits/32, N], and with act-order g_idx I32 [K]: then the rows are sorted by group first (groups > 0; whole
// modules only, bits 2, 4 or 8). Destination: the same rows.
func GPTQExllama(bits, groups int) (stages.Op, error) {
	switch {
	case bits != 2 && bits != 3 && bits != 4 && bits != 8:
		return nil, fmt.Errorf("repack: exllama has 2, 3, 4 or 8 bits, not %d", bits)
	case bits == 3 && groups > 0:
		return nil, errors.New("repack: act-order of 3-bit codes is not supported for exllama")
	}
	return gptqExllama{bits: bits, groups: groups}, nil
}

type gptqExllama struct{ bits, groups int }

func (gptqExllama) Phase() stages.Phase { return stages.PhaseRepack }
func (op gptqExllama) String() string   { return fmt.Sprintf("shuffle gptq %d-bit for exllama", op.bits) }

func (op gptqExllama) Run(j *stages.Job) error {
	if j.RowBytes%4 != 0 {
		return fmt.Errorf("%s: rows of %d bytes are no whole words", op, j.RowBytes)
	}
	if op.groups == 0 {
		if err := wantSources(op, j, j.Rows*j.RowBytes); err != nil {
			return err
		}
		return op.shuffle(j, func(i int) []byte { return j.Src[0][i*j.RowBytes : (i+1)*j.RowBytes] })
	}
	per := 32 / op.bits
	o, err := ordered(op, j, per*j.Rows, op.groups)
	if err != nil {
		return err
	}
	if cpu.X86.AVX2 && op.bits != 2 && j.RowBytes%tileRow == 0 && per*j.Rows <= mostFeatures {
		op.sort(j, o)
		return nil
	}
	borrowed := borrow(j.RowBytes)
	defer scratch.Put(borrowed)
	tmp := *borrowed
	return op.shuffle(j, func(i int) []byte {
		gather(tmp, j.Src[0], o.perm[per*i:per*(i+1)], op.bits)
		return tmp
	})
}

// sort makes the packed rows strip by strip, so that every code is read from memory once.
func (op gptqExllama) sort(j *stages.Job, o *order) {
	lines := o.lines(op.bits)
	eachStrip(j.Src[0], j.RowBytes/4, j.Rows, op.bits, func(c int, strip []byte) {
		newSortedColumn(j, 4*c, strip, lines, op.bits).packedRows()
	})
}

// packedRowsGeneric makes packed rows as exllama shuffles them, which take 32/bits lines each. It is the reference.
func (t *sortedColumn) packedRowsGeneric() {
	per := 32 / t.bits
	for i := range t.rows {
		row, features := t.dst[i*t.stride:][:tileRow], t.features[i*per:(i+1)*per]
		for n := range tileN {
			word := uint32(0)
			for f, line := range features {
				word |= uint32(t.code(line, n)) << (t.bits * f)
			}
			if t.bits == 4 {
				word = exllama4(word)
			}
			binary.LittleEndian.PutUint32(row[4*n:], word)
		}
	}
}

// shuffle writes every row from what row returns for it.
func (op gptqExllama) shuffle(j *stages.Job, row func(int) []byte) error {
	stream := cpu.Streams(j.Soon, j.Rows*j.RowBytes, j.Dst, j.Stride)
	if op.bits == 3 {
		if j.Rows%3 != 0 {
			return fmt.Errorf("%s: %d rows are no whole blocks of 32 codes", op, j.Rows)
		}
		for i := 0; i < j.Rows; i += 3 {
			op.shuffle3(j, i, stream)
		}
		return nil
	}
	for i := range j.Rows {
		dst, src := j.Row(i), row(i)
		done := exllamaLines(dst, src, op.bits, stream)
		exllamaRow(dst[done:], src[done:], op.bits)
	}
	return nil
}

// shuffle3 writes the three rows from row i on.
func (op gptqExllama) shuffle3(j *stages.Job, i int, stream bool) {
	to, from, n := j.Dst[i*j.Stride:], j.Src[0][i*j.RowBytes:], j.RowBytes
	done := exllama3Lines(to, from, n, j.Stride, stream)
	var dst, src [3][]byte
	for t := range dst {
		dst[t], src[t] = to[t*j.Stride+done:t*j.Stride+n], from[t*n+done:(t+1)*n]
	}
	exllama3Rows(dst, src)
}

// exllamaRow shuffles every word of a row: code i goes to field i/2 of the low half-word when i is even, of the high one when it is odd. It is
// the reference.
func exllamaRow(dst, src []byte, bits int) {
	if bits == 8 {
		copy(dst, src)
		return
	}
	for at := 0; at+4 <= len(src); at += 4 {
		w := binary.LittleEndian.Uint32(src[at:])
		if bits == 4 {
			w = exllama4(w)
		} else {
			w = exllama2(w)
		}
		binary.LittleEndian.PutUint32(dst[at:], w)
	}
}

// exllama4: new nibble p is old nibble [0,2,4,6,1,3,5,7][p]. The even nibbles close up downwards, the odd ones upwards.
func exllama4(w uint32) uint32 {
	even, odd := w&0x0F0F0F0F, w>>4&0x0F0F0F0F
	even, odd = (even|even>>4)&0x00FF00FF, (odd|odd>>4)&0x00FF00FF
	even, odd = (even|even>>8)&0xFFFF, (odd|odd>>8)&0xFFFF
	return even | odd<<16
}

// exllama2: code i goes to bit 2(i/2) + 16(i%2).
func exllama2(w uint32) uint32 {
	even, odd := w&0x33333333, w>>2&0x33333333
	even, odd = (even|even>>2)&0x0F0F0F0F, (odd|odd>>2)&0x0F0F0F0F
	even, odd = (even|even>>4)&0x00FF00FF, (odd|odd>>4)&0x00FF00FF
	even, odd = (even|even>>8)&0xFFFF, (odd|odd>>8)&0xFFFF
	return even | odd<<16
}

// exllama3Rows shuffles the 32 codes of 3 bits that three words of a column hold: codes 10z..10z+9 go to word z, code c of them to bits
// 3(c/2) + 16(c%2); bit t of code 30 to bit 15 of word t, bit t of code 31 to bit 31. It is the reference.
func exllama3Rows(dst, src [3][]byte) {
	n := len(src[0])
	s0, s1, s2 := src[0], src[1][:n], src[2][:n]
	d0, d1, d2 := dst[0][:n], dst[1][:n], dst[2][:n]
	for at := 0; at+4 <= n; at += 4 {
		a, b, c := binary.LittleEndian.Uint32(s0[at:]), binary.LittleEndian.Uint32(s1[at:]), binary.LittleEndian.Uint32(s2[at:])
		last := c >> 26 // codes 30 and 31
		binary.LittleEndian.PutUint32(d0[at:], exllama3(a)|last&1<<15|last>>3&1<<31)
		binary.LittleEndian.PutUint32(d1[at:], exllama3(a>>30|b<<2)|last>>1&1<<15|last>>4&1<<31)
		binary.LittleEndian.PutUint32(d2[at:], exllama3(b>>28|c<<4)|last>>2&1<<15|last>>5&1<<31)
	}
}

// exllama3 places the ten codes of 3 bits in the low 30 bits: the even ones close up in the low half-word, the odd ones in the high one.
func exllama3(w uint32) uint32 {
	even, odd := w&0x071C71C7, w>>3&0x071C71C7
	even, odd = (even|even>>3)&0x0703F03F, (odd|odd>>3)&0x0703F03F
	even, odd = (even|even>>6)&0x07000FFF, (odd|odd>>6)&0x07000FFF
	even, odd = (even|even>>12)&0x7FFF, (odd|odd>>12)&0x7FFF
	return even | odd<<16
}
