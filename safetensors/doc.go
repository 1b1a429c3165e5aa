// Package safetensors reads and writes the safetensors format, and trusts nothing that a file says. It needs only the standard library.
//
// # Reading
//
// [Open], [OpenFS] and [NewReader] check the header of one file, [OpenSharded] a folder of shards with its index; [ReadHeader] and
// [ParseHeader] are for callers with their own way to get bytes, [ParseIndex] and [Index.Check] for those who open shards themselves.
//
//	f, err := safetensors.Open("model.safetensors")
//	if err != nil {
//		return err // a *FormatError: file, byte offset, tensor, rule, expected and found
//	}
//	defer f.Close()
//	for name, t := range f.All() {
//		fmt.Println(name, t.DType, t.Shape)
//	}
//	info, err := f.Info("lm_head.weight") // ErrNotFound when there is none
//	buf := make([]byte, info.Size())
//	err = f.ReadInto("lm_head.weight", buf)
//
// # Writing
//
// [Writer] takes the tensors one after another, [RandomWriter] in any order and in pieces, and [Layout] only says where the bytes go.
//
//	w, err := safetensors.NewWriter(file, []safetensors.Spec{{Name: "a", DType: safetensors.F32, Shape: []int64{2}}}, safetensors.WriterOptions{})
//	err = w.WriteTensor("a", data)
//	err = w.Close() // fails when a tensor is missing
//
// # What is refused
//
// Where implementations of the format disagree about a file, this one refuses it, so that nobody can make a file that means two things:
//   - text before the opening brace, anything but spaces behind the closing one, and text that is not valid UTF-8;
//   - keys that appear twice, also when one of them is spelled with escapes: tensors, fields of a tensor, metadata, entries of the index
//     (inside the value of an unknown field, which is skipped, keys are not compared);
//   - numbers that are not plain decimal integers, values of another type than the format says, fields in another case;
//   - names that are empty or have control characters (but a name like ../x is fine: names are not paths);
//   - a product of dims that overflows: the product of the non-zero dims times the bits of the dtype must be below 2^63;
//   - bytes of the data area that belong to no tensor or to two, and bytes after the last tensor, unless [WithTrailingBytes] is given.
//
// Unknown fields of a tensor are accepted with a note, see [Header.Notes].
//
// # What it costs
//
// Nothing is allocated before the size that asks for it has been compared with the size of the file and with [Limits]. Reading a header
// needs at most three times its bytes and 1 MiB, the bytes themselves included, whatever they are; a [Header] then keeps the names and
// about 32 bytes a tensor. Time is linear in the bytes, but for a header that is not in the order of its offsets, which is sorted.
package safetensors
