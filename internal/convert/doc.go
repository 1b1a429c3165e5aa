// Package convert turns arrays of little-endian floating-point elements into another element type: F64, F32, F16, BF16, F8_E4M3 and
// F8_E5M2 into F32, F16 and BF16.
//
// The rules are the same for every pair. A value is rounded once, to nearest, ties to even (LAYOUTS 0), also from F64 to 16 bits, where
// a stop at F32 would round twice. Subnormals are computed, never flushed. Zeros and infinities keep their sign. A NaN stays a NaN: it
// keeps its sign and the high bits of its payload and becomes quiet, as the F16C instructions and x448/float16 do it. A finite value
// that rounds to an infinity is written as that infinity and reported, because a weight that silently became infinite ruins a model.
// Only a copy (from and to are the same type) leaves every bit alone.
//
// Sources and destinations are byte slices at any alignment: a safetensors file promises none beyond what its header's padding gives.
//
// Every bulk function has the type [Kernel]. Those that end in Generic are plain Go, run everywhere and are what an assembly twin is
// tested against; the table in kernels.go and dispatch_amd64.go decide which one runs.
package convert
