// Package repack has the Ops of the repack phase: they read quantised weights as a checkpoint stores them and write the layout that a GPU
// kernel reads, straight into a member's rectangle of the fused, stacked Output. No temporary, no second pass.
//
// K is the number of input features, N the number of output features of the member, G its number of groups. The formulas were checked
// against the layer classes of vLLM (0.33.0) by the fixtures in the tests.
package repack
