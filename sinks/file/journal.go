package file

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"github.com/go-json-experiment/json"

	"github.com/coldload/coldload/internal/packed"
)

const (
	journalVersion = 1
	// maxLine bounds a line when it is read; sumsPerLine keeps those that are written far below it.
	maxLine     = 4 << 20
	sumsPerLine = 4096
	checkDigits = 16
)

// journal is the file that says what of OUT.partial can be trusted. Each line is JSON with the first half of its SHA-256 in front. The
// first line has the key, the others are about one shard each. It ends at the first line that is torn or does not match its hash.
type journal struct {
	d *disk
	f *os.File
	n int64 // bytes of lines that are good
}

// record is one line.
type record struct {
	Journal int        `json:"journal,omitzero"` // version; in the first line only
	Key     packed.Sum `json:"key,omitzero"`

	Shard    string    `json:"shard,omitzero"`
	Slabs    []slabRun `json:"slabs,omitzero"`    // are durable from here on
	Complete bool      `json:"complete,omitzero"` // every Slab of the shard is
	Lost     bool      `json:"lost,omitzero"`     // nothing that was said of the shard before holds
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

// read yields the good lines after the first, and returns the key; false when there is no good first line. The journal may be appended
// to afterwards.
func (j *journal) read(each func(record)) (key packed.Sum, ok bool, err error) {
	if _, err := j.f.Seek(0, io.SeekStart); err != nil {
		return key, false, err
	}
	lines := bufio.NewScanner(j.f)
	lines.Buffer(nil, maxLine)
	lines.Split(wholeLines)
	for lines.Scan() {
		rec, good := parse(lines.Bytes())
		if !good || (j.n == 0) != (rec.Journal != 0) || rec.Journal > journalVersion {
			break
		}
		if j.n == 0 {
			key = rec.Key
		} else {
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
	j.n = 0
	return j.append(record{Journal: journalVersion, Key: key})
}

// append writes lines after the last good one and makes them durable.
func (j *journal) append(records ...record) error {
	var text []byte
	for i := range records {
		line, err := json.Marshal(&records[i])
		if err != nil {
			return err
		}
		text = append(append(append(append(text, checkOf(line)...), ' '), line...), '\n')
	}
	if err := j.d.truncate(j.f, j.n); err != nil {
		return err
	}
	if _, err := j.f.Seek(j.n, io.SeekStart); err != nil {
		return err
	}
	if err := j.d.append(j.f, text); err != nil {
		return err
	}
	if err := j.d.sync(j.f); err != nil {
		return err
	}
	j.n += int64(len(text))
	return nil
}
