package convert

import (
	"fmt"

	"github.com/coldload/coldload/safetensors"
	"github.com/coldload/coldload/stages"
)

// NonFinite is the error for element at of a tensor whose values must be finite; at comes from [FirstNonFinite].
func NonFinite(tensor string, dtype safetensors.DType, at int) *stages.DataError {
	return &stages.DataError{
		Tensor: tensor, Problem: fmt.Sprintf("element %d is not finite", at),
		Expected: "finite " + dtype.String() + " values", Found: "NaN or infinity",
		Advice: "the checkpoint is damaged or was quantised badly: get it again",
	}
}
