package safetensors

import "strings"

// metadata is the strings of __metadata__, in one string of exactly their size. A Go map would cost a hostile header ten times its text.
type metadata struct {
	text string
	ends []uint32 // for entry i, where its key ends [2i] and where its value ends [2i+1]
	keys table
}

func (m *metadata) len() int { return len(m.ends) / 2 }

func (m *metadata) key(i int) string {
	begin := uint32(0)
	if i > 0 {
		begin = m.ends[2*i-1]
	}
	return m.text[begin:m.ends[2*i]]
}

func (m *metadata) value(i int) string { return m.text[m.ends[2*i]:m.ends[2*i+1]] }

// metadata reads the value of __metadata__: an object of strings. It walks the text twice, first to check and measure it, then to store.
func (p *headerParser) metadata() error {
	start, entries, size := p.pos, 0, 0
	err := p.eachMetadata(func(key, value token) error {
		entries++
		size += key.size + value.size
		return nil
	})
	if err != nil {
		return err
	}
	p.pos = start
	m := &p.h.meta
	m.ends = make([]uint32, 0, 2*entries)
	m.keys = newTable(entries)
	var b strings.Builder
	b.Grow(size)
	return p.eachMetadata(func(key, value token) error {
		key.writeTo(&b)
		m.ends = append(m.ends, uint32(b.Len()))
		value.writeTo(&b)
		m.ends = append(m.ends, uint32(b.Len()))
		m.text = b.String()
		if _, ok := m.keys.insert(m.len()-1, m.key); !ok {
			return p.fail(ErrDuplicateMetadata, key.pos, "", quote(m.key(m.len()-1)))
		}
		return nil
	})
}

func (p *headerParser) eachMetadata(visit func(key, value token) error) error {
	if err := p.open('{', "an object of strings"); err != nil {
		return err
	}
	for more := p.first('}'); more; {
		key, err := p.key()
		if err != nil {
			return err
		}
		value, err := p.str("a string")
		if err != nil {
			return err
		}
		if err := visit(key, value); err != nil {
			return err
		}
		if more, err = p.more('}'); err != nil {
			return err
		}
	}
	return nil
}
