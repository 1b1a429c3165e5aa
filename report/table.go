package report

import (
	"strings"
	"unicode/utf8"
)

// column of a table.
type column struct {
	title string
	right bool // align to the right
	// drop says when the column goes if the table is too wide: the highest first, 0 never.
	drop int
}

// table lines up columns.
type table struct {
	columns []column
	rows    [][]string
	indent  string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

const gap = "  "

// write prints the table, without the columns that width has no room for; a width of 0 has room for all.
func (t *table) write(b *strings.Builder, width int) {
	shown := t.fit(width)
	titles := make([]string, len(t.columns))
	for i, c := range t.columns {
		titles[i] = c.title
	}
	for _, row := range append([][]string{titles}, t.rows...) {
		var line strings.Builder
		line.WriteString(t.indent)
		for i, c := range shown {
			if i > 0 {
				line.WriteString(gap)
			}
			pad := strings.Repeat(" ", t.width(c)-utf8.RuneCountInString(row[c]))
			if t.columns[c].right {
				line.WriteString(pad + row[c])
			} else {
				line.WriteString(row[c] + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
}

// fit chooses the columns that fit, by number.
func (t *table) fit(width int) []int {
	shown := make([]int, len(t.columns))
	for i := range shown {
		shown[i] = i
	}
	for width > 0 && t.total(shown) > width {
		at := -1
		for i, c := range shown {
			if d := t.columns[c].drop; d > 0 && (at < 0 || d > t.columns[shown[at]].drop) {
				at = i
			}
		}
		if at < 0 {
			break
		}
		shown = append(shown[:at], shown[at+1:]...)
	}
	return shown
}

func (t *table) total(shown []int) int {
	n := len(t.indent) + len(gap)*(len(shown)-1)
	for _, c := range shown {
		n += t.width(c)
	}
	return n
}

// width of one column.
func (t *table) width(c int) int {
	n := utf8.RuneCountInString(t.columns[c].title)
	for _, row := range t.rows {
		n = max(n, utf8.RuneCountInString(row[c]))
	}
	return n
}
