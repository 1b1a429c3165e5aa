package coldload_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload"
	"github.com/coldload/coldload/internal/synth/ckpt"
	"github.com/coldload/coldload/sinks/discard"
	"github.com/coldload/coldload/stages"
)

// sumsOf is what sha256sum says of the shards of a folder.
func sumsOf(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for name, data := range ckpt.Tree(t, dir) {
		if filepath.Ext(name) == ".safetensors" {
			fmt.Fprintf(&b, "%x  ./%s\n", sha256.Sum256([]byte(data)), name)
		}
	}
	return b.String()
}

// TestDigests: a list of digests is compared with every shard, before a byte is loaded.
func TestDigests(t *testing.T) {
	src := fixturePath("plain_bf16_sharded")
	sums := sumsOf(t, src)
	load := func(list string) (*coldload.Result, error) {
		digests, err := coldload.ParseDigests(strings.NewReader(list))
		if err != nil {
			t.Fatal(err)
		}
		return coldload.Load(t.Context(), src, discard.New(), coldload.Options{VerifySource: true, Digests: digests})
	}
	if _, err := load(sums); err != nil {
		t.Error(err)
	}
	if _, err := load(strings.ReplaceAll(sums, "  ./", " *")); err != nil {
		t.Errorf("of binary files: %v", err)
	}
	// One digit is another.
	first, rest := sums[:1], sums[1:]
	other := "0"
	if first == other {
		other = "1"
	}
	res, err := load(other + rest)
	if data, ok := errors.AsType[*stages.DataError](err); !ok || !strings.HasSuffix(data.File, ".safetensors") || !strings.Contains(err.Error(), "is not the file that the digest is of") {
		t.Errorf("a wrong digest: %v", err)
	}
	if at := res.Phases[stages.PhaseFetch]; at.BytesIn != 0 {
		t.Errorf("%d bytes were fetched", at.BytesIn)
	}
	line, _, _ := strings.Cut(sums, "\n")
	if _, err := load(line); !errors.Is(err, coldload.ErrOptions) || !strings.Contains(err.Error(), "is not among the 1 digests") {
		t.Errorf("a shard without a digest: %v", err)
	}
	_, err = coldload.Load(t.Context(), src, discard.New(), coldload.Options{VerifySource: true})
	if !errors.Is(err, coldload.ErrOptions) || !strings.Contains(err.Error(), "cannot be verified") {
		t.Errorf("nothing to compare with: %v", err)
	}
	if _, err := coldload.Load(t.Context(), src, discard.New(), coldload.Options{Digests: map[string]string{"a": "b"}}); !errors.Is(err, coldload.ErrOptions) {
		t.Errorf("digests without verification: %v", err)
	}
}

func TestParseDigests(t *testing.T) {
	sum := strings.Repeat("a1", 32)
	for list, says := range map[string]string{
		"":                                    "there are none",
		sum + " model.safetensors":            "line 1",
		sum[2:] + "  model.safetensors":       "line 1",
		"\n\n" + sum + "\n":                   "line 3",
		sum + "  ":                            "line 1",
		`\\` + sum + "  a\\nb":                "line 1",
		"SHA256 (a) = " + sum:                 "line 1",
		sum + "  a\n" + "b" + sum[1:] + "  a": "line 2",
	} {
		if _, err := coldload.ParseDigests(strings.NewReader(list)); !errors.Is(err, coldload.ErrOptions) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want that it says %q", list, err, says)
		}
	}
	got, err := coldload.ParseDigests(strings.NewReader(strings.ToUpper(sum) + "  ./sub/../a.safetensors\r\n"))
	if err != nil || len(got) != 1 || got["a.safetensors"] != sum {
		t.Errorf("got %v, %v", got, err)
	}
}

func FuzzParseDigests(f *testing.F) {
	f.Add(strings.Repeat("0f", 32) + "  model.safetensors\n")
	f.Fuzz(func(t *testing.T, list string) {
		digests, err := coldload.ParseDigests(strings.NewReader(list))
		if (err == nil) != (len(digests) > 0) {
			t.Errorf("%d digests, %v", len(digests), err)
		}
	})
}
