package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coldload/coldload"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestPlanGolden(t *testing.T) {
	t.Parallel()
	for _, name := range []string{gptqFixture, plainFixture} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			golden(t, name+".txt", command(t, "plan", fixture(name)).out)
			var b bytes.Buffer
			if err := json.Indent(&b, []byte(command(t, "plan", fixture(name), "--json").out), "", "  "); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".json", strings.ReplaceAll(b.String(), coldload.Version, "VERSION"))
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./cmd/coldload -update writes it anew):\n%s", path, got)
	}
}

// The list of outputs in the JSON is the plan's, whole.
func TestPlanList(t *testing.T) {
	t.Parallel()
	o := command(t, "plan", fixture(plainFixture), "--json").object(t)
	list, _ := o["output_list"].([]any)
	if len(list) == 0 || float64(len(list)) != o["outputs"] {
		t.Fatalf("%d outputs are listed of %v", len(list), o["outputs"])
	}
	var sum float64
	for _, v := range list {
		output, _ := v.(map[string]any)
		n, _ := output["bytes"].(float64)
		sum += n
	}
	if sum != o["bytes_out"] {
		t.Errorf("outputs of %.0f bytes are listed of %v", sum, o["bytes_out"])
	}
}
