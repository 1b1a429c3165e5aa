// Package gguf reads and writes GGUF, the file format of llama.cpp, in its versions 2 and 3, and trusts nothing that a file says. It needs only
// the standard library.
//
// # Reading
//
// [Open] and [NewReader] check the header of one file; [ReadHeader] is for callers that only want the table. A file of a split set is a file
// like any other, which [Header.Split] tells apart.
//
//	f, err := gguf.Open("model-Q4_K_M.gguf")
//	if err != nil {
//		return err // a *FormatError: file, byte offset, tensor or key, rule, expected and found
//	}
//	defer f.Close()
//	arch, _ := f.Header().Value("general.architecture")
//	name, _ := arch.Text()
//	for name, t := range f.All() {
//		fmt.Println(name, t.Type, t.Shape)
//	}
//	info, err := f.Info("output.weight") // ErrNotFound when there is none
//	buf := make([]byte, info.Size())
//	err = f.ReadInto("output.weight", buf)
//
// Shapes are row-major, slowest dim first, as everywhere outside of ggml: the file has them the other way round. The last dim of a block type
// counts elements; a row takes Shape[last] / block elements * block bytes.
//
// # Writing
//
// [Writer] takes the tensors one after another, and [Layout] only says where the bytes go. What a reader refuses cannot be written.
//
// # What is refused
//
//   - version 1 (its counts have 32 bits), versions to come, and files of big-endian machines;
//   - counts, lengths and dims that the rest of the file cannot hold, before anything is allocated for them;
//   - keys and names of tensors that appear twice, are empty, too long, no valid UTF-8, or have control characters (but a name like ../x is
//     fine: names are not paths); values of an unknown type, arrays nested too deeply, and a bool other than 0 and 1;
//   - a general.alignment that is no power of two from 8 to 1 MiB, or no u32;
//   - tensors of no dims, of more than four, or with a dim of zero; a product of dims that overflows; rows that are no whole number of blocks;
//     a type that is unknown, or that ggml removed;
//   - offsets that are not aligned, bytes of the data area that belong to two tensors or that are neither a tensor's nor the padding up to the
//     next multiple of the alignment, and bytes after the padding of the last tensor.
//
// Tensors may lie in another order than the header lists them. What the padding holds is not looked at.
//
// # What it costs
//
// A header is read once, in pieces of 64 KiB, in time linear in its bytes. Arrays of metadata (a tokenizer has some with 10^5 strings) are
// passed over: only their types and lengths are kept. What is allocated stays below three times the bytes of the header and 1 MiB, whatever
// they are, and a [Header] keeps the names, the scalars and short texts of the metadata, and about 56 bytes a tensor.
package gguf
