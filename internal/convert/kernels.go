package convert

import "github.com/coldload/coldload/safetensors"

// Kernel converts the elements of src into dst and returns the index of the first element that is finite in src and infinite in dst, or
// -1 when there is none. It converts every element in either case.
//
// It converts len(src) / (source size) elements; bytes that do not make a whole element are ignored. It panics when dst is too short, and
// leaves what lies behind the last element alone. dst and src may lie at any address but must not overlap. It does not allocate.
type Kernel func(dst, src []byte) (firstOverflow int)

// MaxCached is the size of a destination, in bytes, up to which it stays in the processor's caches. A larger one goes past them, because it
// would not stay there until it is read: convert in pieces what is read again soon.
const MaxCached = 256<<10 - 1

type pair struct{ from, to safetensors.DType }

// generics are the kernels in plain Go.
var generics = map[pair]Kernel{
	{safetensors.F64, safetensors.F32}:  f64ToF32Generic,
	{safetensors.F64, safetensors.F16}:  f64ToF16Generic,
	{safetensors.F64, safetensors.BF16}: f64ToBF16Generic,

	{safetensors.F32, safetensors.F32}:  copyBytes,
	{safetensors.F32, safetensors.F16}:  f32ToF16Generic,
	{safetensors.F32, safetensors.BF16}: f32ToBF16Generic,

	{safetensors.F16, safetensors.F32}:  f16ToF32Generic,
	{safetensors.F16, safetensors.F16}:  copyBytes,
	{safetensors.F16, safetensors.BF16}: f16ToBF16Generic,

	{safetensors.BF16, safetensors.F32}:  bf16ToF32Generic,
	{safetensors.BF16, safetensors.F16}:  bf16ToF16Generic,
	{safetensors.BF16, safetensors.BF16}: copyBytes,

	{safetensors.F8E4M3, safetensors.F32}:  e4m3ToF32Generic,
	{safetensors.F8E4M3, safetensors.F16}:  e4m3ToF16Generic,
	{safetensors.F8E4M3, safetensors.BF16}: e4m3ToBF16Generic,

	{safetensors.F8E5M2, safetensors.F32}:  e5m2ToF32Generic,
	{safetensors.F8E5M2, safetensors.F16}:  e5m2ToF16Generic,
	{safetensors.F8E5M2, safetensors.BF16}: e5m2ToBF16Generic,
}

// kernels are the generic ones, or, where assembly is compiled in, those that choose at each call what the processor can do. internal/asm
// generates the assembly; dispatch_amd64.go says what there is.
//
//go:generate ../asm/generate.sh
var kernels = accelerate(generics, MaxCached)

// streams write past the caches whatever they write.
var streams = accelerate(generics, 0)

// Func returns the Kernel from one element type to another; ok is false when there is none. From a type to itself it is a copy.
func Func(from, to safetensors.DType) (k Kernel, ok bool) {
	k, ok = kernels[pair{from, to}]
	return k, ok
}

// StreamFunc is Func for a destination that is larger than MaxCached but converted in small pieces.
func StreamFunc(from, to safetensors.DType) (k Kernel, ok bool) {
	k, ok = streams[pair{from, to}]
	return k, ok
}

// Supported reports whether Func has a Kernel for the pair.
func Supported(from, to safetensors.DType) bool {
	_, ok := Func(from, to)
	return ok
}

// copyBytes panics like the others when dst is too short, where copy would stop silently.
func copyBytes(dst, src []byte) int {
	copy(dst[:len(src)], src)
	return -1
}
