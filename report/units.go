package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bytes is a number of bytes as a person reads it: three digits and a decimal unit, as disks and GB/s have it.
func Bytes(n int64) string {
	const units = "kMGTPE"
	if n < 1000 && n > -1000 {
		return strconv.FormatInt(n, 10) + " B"
	}
	v := float64(n) / 1000
	i := 0
	for (v >= 999.5 || v <= -999.5) && i < len(units)-1 {
		v /= 1000
		i++
	}
	return threeDigits(v) + " " + units[i:i+1] + "B"
}

// BinaryBytes is a size that people give in powers of two, exactly: "256 MiB".
func BinaryBytes(n int64) string {
	for i, unit := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if size := int64(1) << (40 - 10*i); n != 0 && n%size == 0 {
			return strconv.FormatInt(n/size, 10) + " " + unit
		}
	}
	return Count(n) + " B"
}

func threeDigits(v float64) string {
	switch {
	case v >= 99.95:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 9.995:
		return strconv.FormatFloat(v, 'f', 1, 64)
	default:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
}

// Count is a number with its thousands apart: "500,000".
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	digits := strings.TrimPrefix(s, "-")
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return s[:len(s)-len(strings.TrimPrefix(s, "-"))] + digits
}

// Plural is a count with its noun: "1 shard", "300 shards".
func Plural(n int64, noun string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(noun, "ch"):
		noun += "es"
	default:
		noun += "s"
	}
	return Count(n) + " " + noun
}

// Duration is a time as a person reads it.
func Duration(d time.Duration) string {
	switch s := d.Seconds(); {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case s < 99.95:
		return threeDigits(s) + " s"
	case s < 3600:
		return fmt.Sprintf("%d min %02d s", int(s)/60, int(s)%60)
	default:
		return fmt.Sprintf("%d h %02d min", int(s)/3600, int(s)/60%60)
	}
}

// glue holds a number and its per cent together.
const glue = "\u00a0"

// wrap breaks a sentence between words, so that no line has more than width columns where that is possible; 0 sets no bound.
func wrap(s string, width int) string {
	if width <= 0 {
		return s
	}
	var b strings.Builder
	column := 0
	for i, word := range strings.Split(strings.ReplaceAll(s, " %", glue+"%"), " ") {
		word = strings.ReplaceAll(word, glue, " ")
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > width:
			b.WriteString("\n")
			column = 0
		default:
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += n
	}
	return b.String()
}

// rate is bytes per second; "-" when nothing can be said.
func rate(n int64, d time.Duration) string {
	if n <= 0 || d <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", float64(n)/d.Seconds()/1e9)
}

// Clean makes a text from a file safe to print on one line: what is not printable is escaped, so that a tensor's name cannot steer the
// terminal or feign a line of ours.
func Clean(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if !unprintable(r) {
			b.WriteRune(r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }
