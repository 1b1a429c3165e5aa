// Package synth writes synthetic checkpoints: the names, shapes and config files of real model families, with random weights. The command
// `coldload synth`, the demo, tests and benchmarks use them, so that nothing needs a download.
//
// What is written is a function of the [Options] alone: every byte of a tensor depends on the seed, the tensor's name and the position, so
// the number of workers never shows in the result, and any piece can be made without the pieces before it.
//
// Quantised checkpoints follow the files of the real tool (GPTQModel 7.7): the same tensors, dtypes, order and config keys. Codes are random
// bits, so they are valid but mean nothing.
package synth
