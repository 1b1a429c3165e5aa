#!/usr/bin/env python3
"""Writes the fixtures of this folder with the gguf package of llama.cpp (0.19.0) and, with that package's own decoder, what is expected of them.

    python3 make.py OUTDIR

mix.gguf has every type that is read, set-*.gguf is a set of three files. expected.json has, for each tensor, its type, its shape (slowest dim first)
and the SHA-256 of its bytes and of its values in F32.
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

out = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(7)


def random_blocks(t, shape):
    """Blocks of random bytes with scales of ordinary size, for the types that the package cannot quantise to."""
    elements, size = GGML_QUANT_SIZES[t]
    n = int(np.prod(shape)) // elements
    blocks = rng.integers(0, 256, size=(n, size), dtype=np.uint8)
    for at in {T.Q4_K: (0, 2), T.Q6_K: (208,)}[t]:
        scales = (rng.standard_normal(n) * 0.01).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(n, 2)
    return blocks.reshape(*shape[:-1], shape[-1] // elements * size)


def add(w, name, t, *shape):
    values = rng.standard_normal(shape).astype(np.float32) * 0.05
    if t in (T.Q4_K, T.Q6_K):
        w.add_tensor(name, random_blocks(t, shape), raw_dtype=t)
    else:
        w.add_tensor(name, quantize(values, t), raw_dtype=t)


def metadata(w):
    w.add_block_count(1)
    w.add_expert_count(2)
    w.add_expert_used_count(1)
    w.add_embedding_length(256)
    w.add_feed_forward_length(512)
    w.add_expert_feed_forward_length(256)
    w.add_tokenizer_model("gpt2")
    w.add_token_list(["a", "b", "\u00e9"])
    w.add_token_types([1, 1, 1])


def write(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


mix = GGUFWriter(out / "mix.gguf", "qwen3moe")
metadata(mix)
add(mix, "token_embd.weight", T.Q4_K, 3, 256)
add(mix, "blk.0.attn_norm.weight", T.F32, 256)
add(mix, "blk.0.attn_q.weight", T.Q4_0, 4, 256)
add(mix, "blk.0.attn_q.bias", T.F32, 4)
add(mix, "blk.0.attn_k.weight", T.Q8_0, 2, 256)
add(mix, "blk.0.attn_v.weight", T.Q6_K, 2, 256)
add(mix, "blk.0.attn_output.weight", T.F16, 2, 256)
add(mix, "blk.0.ffn_gate_inp.weight", T.F32, 2, 256)
add(mix, "blk.0.ffn_gate_exps.weight", T.MXFP4, 2, 4, 256)
add(mix, "blk.0.ffn_up_exps.weight", T.MXFP4, 2, 4, 256)
add(mix, "blk.0.ffn_down_exps.weight", T.Q6_K, 2, 4, 256)
add(mix, "output.weight", T.BF16, 2, 8)
write(mix)

split = GGUFWriter(out / "set.gguf", "llama", split_max_tensors=2)
metadata(split)
for i, t in enumerate((T.Q4_0, T.Q8_0, T.F32, T.Q4_0, T.F16)):
    add(split, f"blk.{i}.ffn_up.weight", t, 3, 32)
write(split)

expected = {}
for path in sorted(out.glob("*.gguf")):
    for t in GGUFReader(path).tensors:
        values = np.ascontiguousarray(dequantize(t.data, t.tensor_type).astype(np.float32))
        expected.setdefault(path.name.split("-")[0].removesuffix(".gguf"), {})[t.name] = {
            "type": t.tensor_type.name,
            "shape": [int(n) for n in reversed(t.shape)],
            "bytes": hashlib.sha256(np.ascontiguousarray(t.data).tobytes()).hexdigest(),
            "values": hashlib.sha256(values.tobytes()).hexdigest(),
        }
(out / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
