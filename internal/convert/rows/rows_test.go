package rows

import (
	"math"
	"strings"
	"testing"

	"github.com/coldload/coldload/stages"
)

func job(rows, rowBytes, stride, dst, src int) *stages.Job {
	return &stages.Job{
		Rows: rows, RowBytes: rowBytes, Stride: stride, Dst: make([]byte, dst), Src: [][]byte{make([]byte, src)},
	}
}

func TestCheck(t *testing.T) {
	const huge = math.MaxInt
	for name, c := range map[string]struct {
		job    *stages.Job
		srcRow int
		want   string // part of the error; none when empty
	}{
		"dense":                  {job(3, 4, 4, 12, 12), 4, ""},
		"strided":                {job(3, 4, 10, 24, 12), 4, ""},
		"destination is longer":  {job(3, 4, 10, 99, 12), 4, ""},
		"wider source":           {job(3, 4, 4, 12, 24), 8, ""},
		"one row, no stride":     {job(1, 4, 0, 4, 4), 4, ""},
		"no rows":                {job(0, 4, 4, 0, 0), 4, ""},
		"rows of nothing":        {job(huge, 0, 0, 0, 0), 0, ""},
		"source short":           {job(3, 4, 4, 12, 11), 4, "source of 11 bytes, expected 3 rows of 4"},
		"source long":            {job(3, 4, 4, 12, 15), 4, "source of 15 bytes"},
		"source of nothing":      {job(3, 4, 4, 12, 0), 4, "source of 0 bytes"},
		"source for no rows":     {job(0, 4, 4, 12, 4), 4, "empty rectangle"},
		"destination short":      {job(3, 4, 10, 23, 12), 4, "does not fit into 23 bytes"},
		"row longer than all":    {job(1, 4, 4, 3, 4), 4, "does not fit"},
		"rows overlap":           {job(3, 4, 3, 12, 12), 4, "does not fit"},
		"negative rows":          {job(-1, 4, 4, 12, 4), 4, "rectangle of -1 rows"},
		"negative row":           {job(1, -4, 4, 12, 4), 4, "rows of -4 bytes"},
		"negative stride":        {job(2, 4, -4, 12, 8), 4, "does not fit"},
		"stride that wraps":      {job(3, 4, huge, 12, 12), 4, "does not fit"},
		"rows that wrap":         {job(huge, 4, 4, 12, 12), 4, "does not fit"},
		"source row that wraps":  {job(2, 4, 4, 8, 8), huge/2 + 5, "source of 8 bytes"},
		"two sources":            {&stages.Job{Src: make([][]byte, 2)}, 0, "one source expected, found 2"},
		"no source":              {&stages.Job{}, 0, "one source expected, found 0"},
		"without a Slab, no row": {&stages.Job{Src: make([][]byte, 1)}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(c.job, c.srcRow)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
