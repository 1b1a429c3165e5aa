// Package index reads the header of every Shard once, in parallel, and joins them into one [Catalog]: all tensors of a Checkpoint in file
// order, found by name in constant time. What is wrong with a header, with the index file, or between them is reported as faults, all at
// once.
package index
