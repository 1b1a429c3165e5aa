#!/usr/bin/env python3
"""Compares a packed folder of F32 weights with what llama.cpp's gguf package makes of the files that it was packed from, bit by bit.

    python3 compare.py PACKED FILE.gguf...
"""

import json
import pathlib
import struct
import sys

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

packed = {}
for path in pathlib.Path(sys.argv[1]).glob("*.safetensors"):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    for name, t in header.items():
        begin, end = t["data_offsets"]
        assert t["dtype"] == "F32", f"{name} is {t['dtype']}"
        packed[name] = (t["shape"], np.frombuffer(data[8 + length + begin : 8 + length + end], dtype="<u4"))

values = 0
for path in sys.argv[2:]:
    for t in GGUFReader(path).tensors:
        want = np.ascontiguousarray(dequantize(t.data, t.tensor_type).astype(np.float32)).reshape(-1).view(np.uint32)
        shape, got = packed.pop(t.name)
        assert shape == [int(n) for n in reversed(t.shape)], f"{t.name}: shape {shape}"
        assert np.array_equal(want, got), f"{t.name} ({t.tensor_type.name}): {np.count_nonzero(want != got)} of {len(want)} values differ"
        values += len(want)
assert not packed, f"not in the files: {sorted(packed)}"
print(f"{values} values are equal")
