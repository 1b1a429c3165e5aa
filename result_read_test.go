package coldload

import (
	"testing"

	"github.com/coldload/coldload/sources/file"
	"github.com/coldload/coldload/stages"
)

// noted is a source that has read something and has something to say.
type noted struct {
	stages.Source
	stats file.Stats
}

func (n *noted) Stats() file.Stats { return n.stats }
func (*noted) Notes() []string     { return []string{"direct reads are refused"} }

func TestAResultTellsHowItsLoadRead(t *testing.T) {
	source := &noted{stats: file.Stats{MmapBytes: 1, PreadBytes: 2, DirectBytes: 3}}
	before := readBy(source)
	source.stats = file.Stats{MmapBytes: 11, PreadBytes: 22, DirectBytes: 33}
	plan := make([]string, 1, 8)
	res := &Result{Notes: plan}
	res.takeSource(source, before)
	if res.Read != (Read{Mmap: 10, Pread: 20, Direct: 30}) || len(res.Notes) != 2 || plan[:2][1] != "" {
		t.Errorf("%+v, notes %q", res.Read, res.Notes)
	}
	other := &Result{}
	var unknown struct{ stages.Source }
	other.takeSource(unknown, readBy(unknown))
	if other.Read != (Read{}) || other.Notes != nil {
		t.Errorf("of a source that says nothing: %+v", other)
	}
}
