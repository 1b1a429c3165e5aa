// Package bench holds the end-to-end benchmarks and those that compare kernels with memory copies; README.md beside it says how to run
// them and what came out. It has only tests.
package bench
