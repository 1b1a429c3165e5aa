package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/coldload/coldload/internal/synth"
	"github.com/coldload/coldload/safetensors"
)

// runMain makes the test binary be the program.
const runMain = "COLDLOAD_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(runMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

// program is the program as a process of its own.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), runMain+"=1")
	return cmd
}

// result of one command line.
type result struct {
	code     int
	out, err string
}

// testEnv is an env without terminals.
func testEnv(out, err io.Writer) *env {
	no := func() (int, bool) { return 0, false }
	return &env{start: time.Now(), out: out, err: err, outTTY: no, errTTY: no}
}

// command runs a command line in this process.
func command(t *testing.T, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	code := execute(t.Context(), testEnv(&out, &err), args)
	return result{code, out.String(), err.String()}
}

// object reads the one JSON object that must be on stdout.
func (r result) object(t *testing.T) map[string]any {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader([]byte(r.out)))
	var o map[string]any
	if err := dec.Decode(&o); err != nil {
		t.Fatalf("no JSON object on stdout: %v\n%s", err, r.out)
	}
	if err := dec.Decode(&o); err != io.EOF {
		t.Fatalf("more than one JSON object on stdout:\n%s", r.out)
	}
	return o
}

// fixture is a checkpoint that a real tool wrote.
func fixture(name string) string {
	return filepath.Join("..", "..", "testdata", "fixtures", name, "checkpoint")
}

const (
	gptqFixture  = "gptq_moe_4b_g128_sharded"
	plainFixture = "plain_bf16_sharded"
)

// damaged is a copy of a fixture without the shard that sorts last.
func damaged(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(fixture(gptqFixture))); err != nil {
		t.Fatal(err)
	}
	shards, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
	if err != nil || len(shards) < 2 {
		t.Fatal(shards, err)
	}
	if err := os.Remove(slices.Max(shards)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// broken is a micro checkpoint whose scales are not finite, which only the bytes show.
func broken(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "broken")
	if _, err := synth.Write(t.Context(), dir, synth.Options{Model: "micro"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "model.safetensors")
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := f.Header()
	for i := range h.Len() {
		if h.DType(i) == safetensors.F16 {
			begin, end := h.Extent(i)
			area := data[h.DataOffset()+begin : h.DataOffset()+end]
			for j := range area {
				area[j] = 0xff // not a number
			}
		}
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
