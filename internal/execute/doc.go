// Package execute runs the Ops of a Batch. The decode, fuse and repack stages are the same code with another phase: each runs, in order,
// the Parts whose Op belongs to its phase, checks every rectangle and source range before the Op sees it, and turns a memory fault into
// an error that names the tensor.
package execute
