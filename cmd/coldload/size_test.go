package main

import "testing"

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1, "1B": 1, "268435456": 268435456, "256MiB": 256 << 20, "256mib": 256 << 20, "1KiB": 1024, "2 GiB": 2 << 30, "3TiB": 3 << 40,
		"1KB": 1000, "5GB": 5e9, "7MB": 7e6, "2TB": 2e12, "1.5GiB": 3 << 29, "0.5KB": 500, "9223372036854775807": 1<<63 - 1, "1e3": 1000,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "0", "-1", "MiB", "12x", "1 parsec", "9223372036854775808", "8388608TiB", "1e300GB", "NaN", "Inf", "0x10", "1_000", "256M", "0.1", "--1",
	} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func TestSizeShowsItself(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"256MiB": "256MiB", "2GiB": "2GiB", "1000": "1,000B", "1536KiB": "1536KiB"} {
		var s size
		if err := s.Set(text); err != nil || s.String() != want {
			t.Errorf("%s shows as %s, %v", text, s.String(), err)
		}
	}
}
