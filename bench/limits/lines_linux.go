package main

import (
	"math"

	"github.com/coldload/coldload/internal/cpu"
)

// What the closest other loader took for the checkpoint of 12 layers, and the reference parser for 100,000 tensors, on machines of the kind
// that the first figures come from.
const (
	otherWarm, otherCold = 21.6, 28
	otherBytes           = 5.165e9
	otherParser          = 0.171
	otherTensors         = 100_000
)

// lines are the rows of the table, with what they should reach. Those that compare with a figure from elsewhere are there when the work is
// the same.
func (b *bench) lines() []line {
	list := measured()
	for _, p := range b.peers {
		list = append(list, p.lines()...)
	}
	if b.opt.tensors == otherTensors {
		list = append(list,
			line{Name: "the reference parser's 171 ms for a header of 100,000 tensors / ours", Ours: nHeader, Fixed: otherParser, AtLeast: 2.85, Aim: 5.7},
			line{Name: "the same / discovering and checking the folder too", Ours: nOpen, Fixed: otherParser})
	}
	if math.Abs(float64(b.in.size)/otherBytes-1) < 0.01 {
		list = append(list,
			line{Name: "another loader's 21.6 s / warm load --to host", Ours: nHostWarm, Fixed: otherWarm, AtLeast: 20, Aim: 45},
			line{Name: "another loader's 28 s / cold load --to host", Ours: nHostCold, Fixed: otherCold, AtLeast: 8, Aim: 13})
	}
	return list
}

// measured are the rows whose limits were measured here.
func measured() []line {
	kernel := func(name, as string, least, aim float64) line {
		return line{Name: name + ", " + as + " / memcpy, 1 core", Ours: name + ", " + as, Limits: []string{nCopyOne}, ByByte: true, AtLeast: least, Aim: aim}
	}
	best := cpu.X86.String()
	return []line{
		kernel("repack 4 bits", cpu.AVX512VBMI, 0.85, 0.95),
		kernel("repack 4 bits", cpu.AVX512, 0, 0),
		kernel("repack 4 bits", cpu.AVX2, 0.55, 0.7),
		kernel("repack 4 bits", "generic", 0.15, 0.3),
		kernel("cast F16 to F32", best, 0.8, 0.95),
		kernel("cast BF16 to F32", best, 0.8, 0.95),
		kernel("dequantise 4 bits", best, 0.5, 0.8),
		{Name: "warm load --to host / page cache into fresh memory", Ours: nHostWarm, Limits: []string{nFresh}, AtLeast: 0.8, Aim: 0.95},
		{Name: "warm load --to discard / the same", Ours: nDiscard, Limits: []string{nFresh}},
		{Name: "cold load --to host / raw read", Ours: nHostCold, Limits: []string{nRead}, AtLeast: 0.9, Aim: 0.98},
		{Name: "cold load of the packed folder / raw read of it", Ours: nPacked, Limits: []string{nReadPacked}, AtLeast: 0.95, Aim: 0.99},
		{Name: "cold pack / the slower of raw read and raw write", Ours: nPackCold, Limits: []string{nRead, nWrite}, AtLeast: 0.8, Aim: 0.95},
		{Name: "cold pack / raw read and write at once", Ours: nPackCold, Limits: []string{nReadWrite}},
		{Name: "warm pack / raw write", Ours: nPackWarm, Limits: []string{nWrite}, AtLeast: 0.8, Aim: 0.95},
		{Name: "seconds a byte, the other checkpoint / this one, cold", Ours: nHostCold, Limits: []string{nOtherCold}, ByByte: true},
	}
}
