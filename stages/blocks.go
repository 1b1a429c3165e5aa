package stages

// Blocks says how the weights [N, K] of a module share scales: those of Rows output features by Cols input features have one. The last block
// of a row or a column may be a part of one. 0 is all that there are: {0, 0} is one scale for the tensor, {1, 0} one for every output
// feature, {128, 128} the FP8 blocks of DeepSeek-V3.
type Blocks struct{ Rows, Cols int64 }

// Grid is the shape of the scales of n output features by k input features.
func (b Blocks) Grid(n, k int64) (rows, cols int64) { return blocksOf(n, b.Rows), blocksOf(k, b.Cols) }

// blocksOf is how many blocks of each elements n elements have.
func blocksOf(n, each int64) int64 {
	if each <= 0 {
		return 1
	}
	return (n + each - 1) / each
}

// Exponent says what the Marlin scales of FP8 weights hold. The kernels turn F8_E4M3 into F16 or BF16 by a shift, which leaves out a factor of
// 2^8 or 2^120; newer ones find it in the scales, older ones multiply themselves. The empty value is ExponentFused.
type Exponent string

// The exponents.
const (
	ExponentFused Exponent = "fused" // the factor is in the scales, as vLLM has it now
	ExponentPlain Exponent = "plain" // the scales are the checkpoint's
)
