package main

import (
	"encoding/json"
	"os"
)

// results are all figures of a run, for --json.
type results struct {
	Date       string             `json:"date"`
	Version    string             `json:"version"`
	Machine    machine            `json:"machine"`
	Checkpoint string             `json:"checkpoint"` // the folder's name
	Bytes      int64              `json:"bytes"`
	Rule       string             `json:"rule"`
	ReadWay    string             `json:"read_way"`
	WriteWay   string             `json:"write_way"`
	Probes     map[string][]probe `json:"probes"`
	Lines      []line             `json:"lines"`
	Paces      []pace             `json:"paces"`
	Memory     []memoryUse        `json:"memory"`
	Samples    samples            `json:"samples"`
}

// machine is what the figures were measured on.
type machine struct {
	Processor  string `json:"processor"`
	Processors int    `json:"processors"`
	Kernels    string `json:"kernels"`
	Memory     int64  `json:"memory_bytes"`
	System     string `json:"system"`
	HugePages  string `json:"huge_pages"`
	Go         string `json:"go"`
}

// probe is what a way to read or write took, in seconds.
type probe struct {
	Way     string    `json:"way"`
	Seconds []float64 `json:"seconds"`
}

func (r *results) write(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
