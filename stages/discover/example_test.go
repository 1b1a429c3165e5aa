package discover_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coldload/coldload/stages/discover"
)

func ExampleDiscover() {
	dir, err := os.MkdirTemp("", "coldload")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for name, text := range map[string]string{
		"model.safetensors": "\x02\x00\x00\x00\x00\x00\x00\x00{}",
		"config.json":       `{"num_experts": 128, "quantization_config": {"quant_method": "gptq", "bits": 4}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			fmt.Println(err)
			return
		}
	}

	ck, err := discover.Discover(context.Background(), dir, discover.Options{})
	if err != nil {
		fmt.Println(err) // a *stages.RefusedError lists every fault
		return
	}
	defer ck.Close()
	fmt.Println(ck.Kind, ck.Shards[0].Name, ck.Shards[0].Size)
	fmt.Println(ck.Config.NumExperts, ck.Quant.Method, "from", ck.Quant.Where)
	// Output:
	// folder model.safetensors 10
	// 128 gptq from config.json: quantization_config
}
