package main

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/coldload/coldload/report"
)

// size is a flag in bytes: "268435456", "256MiB", "1.5GB".
type size int64

var sizeUnits = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"KB", 1e3},
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
}

var errSize = errors.New("is no size (write 256MiB, 2GB or a number of bytes)")

// parseSize reads a number of bytes that is larger than zero.
func parseSize(s string) (int64, error) {
	number, unit := s, int64(1)
	for _, u := range sizeUnits {
		if n := len(s) - len(u.name); n > 0 && strings.EqualFold(s[n:], u.name) {
			number, unit = strings.TrimSpace(s[:n]), u.bytes
			break
		}
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil && n > 0 && n <= math.MaxInt64/unit {
		return n * unit, nil
	}
	// The bound is below 2^63, so that the product of a rounded number fits.
	v, err := strconv.ParseFloat(number, 64)
	if v *= float64(unit); err != nil || strings.ContainsAny(number, "xXpP_") || !(v >= 1 && v < 1<<62) {
		return 0, errSize
	}
	return int64(v), nil
}

func (s *size) Set(text string) error {
	n, err := parseSize(text)
	*s = size(n)
	return err
}

func (s *size) String() string { return strings.ReplaceAll(report.BinaryBytes(int64(*s)), " ", "") }
func (*size) Type() string     { return "SIZE" }
