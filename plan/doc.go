// Package plan turns headers, config files and options into a [Plan]: every Output with its name, dtype, shape, layout and place, and
// every Batch with its Parts. It reads no weight byte, and it finds every fault that can be found without one.
//
// How it works: the tensors are recognised as Modules (by the [Format] of the checkpoint; dense linear layers by the names that fuse),
// Modules are grouped by the naming families (families.go) into what fuses and stacks, each Group is compiled by its Format into
// Outputs with a recipe, and what belongs to no Group is kept or cast. The Slabs of all Outputs, sorted by where their bulk bytes lie
// in the files, are then cut into Batches.
//
// A quantisation format is one file here (see gptq.go) and one line in the table of formats.
package plan
