package file

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coldload/coldload/stages"
)

// TestWhoTellsWhatIsCached: cachestat, else mincore, else everything is cold.
func TestWhoTellsWhatIsCached(t *testing.T) {
	const size = 1 << 20
	data := noise(size)
	say := func(share float64, err error) func(*os.File, stages.Extent) (float64, error) {
		return func(*os.File, stages.Extent) (float64, error) { return share, err }
	}
	cases := map[string]struct {
		cachestat, mincore float64
		statErr, coreErr   error
		want               string
	}{
		"resident":              {cachestat: 1, want: "mmap"},
		"nearly":                {cachestat: 0.96, want: "mmap"},
		"half":                  {cachestat: 0.5, mincore: 1, want: "direct"},
		"no cachestat":          {statErr: unix.ENOSYS, mincore: 1, want: "mmap"},
		"no cachestat and cold": {statErr: unix.ENOSYS, mincore: 0, want: "direct"},
		"neither":               {statErr: unix.ENOSYS, coreErr: unix.ENOSYS, want: "direct"},
		"not allowed to ask":    {statErr: unix.EPERM, mincore: 1, want: "direct"},
		"a file system without": {statErr: unix.EOPNOTSUPP, mincore: 1, want: "direct"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			by := (&strict{tb: t}).calls()
			by.cachestat = say(c.cachestat, c.statErr)
			by.mincore = func([]byte, stages.Extent) (float64, error) { return c.mincore, c.coreErr }
			s := openWith(t, Options{}, by, data)
			s.shards[0].remote = func() bool { return false }
			s.shards[0].layered = func() bool { return false }
			ranges := []stages.Extent{{Off: 7, Len: size - 9}}
			if how := compare(t, s, [][]byte{data}, ranges, s.Padding(ranges)); how != c.want {
				t.Errorf("read by %s, want %s", how, c.want)
			}
		})
	}
}
