package file

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"iter"
	"os"
	"slices"

	"github.com/go-json-experiment/json"

	"github.com/coldload/coldload/internal/packed"
)

const (
	journalVersion = 1
	// maxLine bounds a line when it is read; sumsPerLine keeps those that are written far below it.
	maxLine     = 4 << 20
	sumsPerLine = 1024
	checkDigits = 16
	appendBytes = 64 << 10 // are written at once
)

// journal is the file that says what of OUT.partial can be trusted. Each line is JSON with the first half of its SHA-256 in front. The
// first line has the key, the others are about one shard each. It ends at the first line that is torn or does not match its hash.
type journal struct {
	d *disk
	f *os.File
	n int64 // bytes of lines that are good

	// What load has found.
	key   packed.Sum
	ok    bool  // there is a good first line
	aside moved // what append has written since counts too
}

// record is one line.
type record struct {
	Journal int        `json:"journal,omitzero"` // version; in the first line only
	Key     packed.Sum `json:"key,omitzero"`

	Shard    string    `json:"shard,omitzero"`
	Slabs    []slabRun `json:"slabs,omitzero"`    // are durable from here on
	Complete bool      `json:"complete,omitzero"` // every Slab of the shard is
	Lost     bool      `json:"lost,omitzero"`     // nothing that was said of the shard before holds

	Aside *moved `json:"aside,omitzero"` // the last one holds
}

// moved says that OUT is about to get the name OUT.coldload-old, and what will replace it. All zero: it has its own name again.
type moved struct {
	Moved bool       `json:"moved"`
	Inode uint64     `json:"inode"` // tells it from another folder of that name; 0 where the system has none
	Key   packed.Sum `json:"key"`   // of the manifest of what replaces it
}

// slabRun is adjacent Slabs of one Output.
type slabRun struct {
	Output int    `json:"output"` // index; the key covers the Outputs and their order
	First  int    `json:"first"`
	Sums   string `json:"sums"` // one hash after another, in hex
}

func (r slabRun) sums() ([]packed.Sum, error) {
	const digits = 2 * len(packed.Sum{})
	if len(r.Sums)%digits != 0 {
		return nil, errors.New("hashes of another length")
	}
	sums := make([]packed.Sum, len(r.Sums)/digits)
	for i := range sums {
		if err := sums[i].UnmarshalText([]byte(r.Sums[i*digits : (i+1)*digits])); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

// load reads what the journal says of OUT and not of its shards.
func (j *journal) load() (err error) {
	j.key, j.ok, err = j.read(func(record) {})
	return err
}

// read yields the good lines about shards, and returns the key; false when there is no good first line. The journal may be appended
// to afterwards.
func (j *journal) read(each func(record)) (key packed.Sum, ok bool, err error) {
	if _, err := j.f.Seek(0, io.SeekStart); err != nil {
		return key, false, err
	}
	j.n, j.aside = 0, moved{}
	lines := bufio.NewScanner(j.f)
	lines.Buffer(nil, maxLine)
	lines.Split(wholeLines)
	for lines.Scan() {
		rec, good := parse(lines.Bytes())
		if !good || (j.n == 0) != (rec.Journal != 0) || rec.Journal > journalVersion {
			break
		}
		switch {
		case j.n == 0:
			key = rec.Key
		case rec.Aside != nil:
			j.aside = *rec.Aside
		default:
			each(rec)
		}
		j.n += int64(len(lines.Bytes())) + 1
	}
	if err := lines.Err(); err != nil && !errors.Is(err, bufio.ErrTooLong) {
		return key, false, err
	}
	return key, j.n > 0, nil
}

// wholeLines is bufio.ScanLines without a last line that lacks its end.
func wholeLines(data []byte, _ bool) (int, []byte, error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	return 0, nil, nil
}

func parse(line []byte) (rec record, ok bool) {
	if len(line) < checkDigits+1 || line[checkDigits] != ' ' || string(line[:checkDigits]) != checkOf(line[checkDigits+1:]) {
		return rec, false
	}
	return rec, json.Unmarshal(line[checkDigits+1:], &rec, json.RejectUnknownMembers(true)) == nil
}

func checkOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:checkDigits/2])
}

// start empties the journal and writes the first line.
func (j *journal) start(key packed.Sum) error {
	j.n, j.aside = 0, moved{}
	return j.append(record{Journal: journalVersion, Key: key})
}

// append writes lines after the last good one and makes them durable.
func (j *journal) append(records ...record) error { return j.appendAll(slices.Values(records)) }

// appendAll is append for lines that come one by one: together they may take more memory than all else.
func (j *journal) appendAll(records iter.Seq[record]) error {
	if err := j.d.truncate(j.f, j.n); err != nil {
		return err
	}
	if _, err := j.f.Seek(j.n, io.SeekStart); err != nil {
		return err
	}
	n, aside := j.n, j.aside
	var text []byte
	write := func(atLeast int) error {
		if len(text) < atLeast {
			return nil
		}
		err := j.d.append(j.f, text)
		n += int64(len(text))
		text = text[:0]
		return err
	}
	for rec := range records {
		line, err := json.Marshal(&rec)
		if err != nil {
			return err
		}
		text = append(append(append(append(text, checkOf(line)...), ' '), line...), '\n')
		if rec.Aside != nil {
			aside = *rec.Aside
		}
		if err := write(appendBytes); err != nil {
			return err
		}
	}
	if err := write(1); err != nil {
		return err
	}
	if err := j.d.sync(j.f); err != nil {
		return err
	}
	j.n, j.aside = n, aside
	return nil
}

// recognised says whether a file may be truncated: it is empty, or one of its first two lines has its hash, or it is what is left of a
// first line that was cut short or never reached the disk.
func recognised(r io.ReaderAt, size int64) bool {
	const first = "{\"journal\":"
	head := make([]byte, min(size, 256))
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	if size < int64(cap(head))+1 && len(bytes.Trim(head, "\x00")) == 0 {
		return true
	}
	if size < 256 && len(head) > checkDigits && bytes.HasPrefix(head[checkDigits+1:], []byte(first)) {
		return true
	}
	lines := bufio.NewScanner(io.NewSectionReader(r, 0, size))
	lines.Buffer(nil, maxLine)
	lines.Split(wholeLines)
	for range 2 {
		if !lines.Scan() {
			return false
		}
		if line := lines.Bytes(); len(line) > checkDigits && string(line[:checkDigits]) == checkOf(line[checkDigits+1:]) {
			return true
		}
	}
	return false
}
