"""Reads a checkpoint with one library, for bench/limits.

read.py LIBRARY FOLDER: imports, says "ready", waits for a line, reads every tensor into memory, and says the seconds as JSON.
read.py LIBRARY --check: exits with 0 when the library can be imported.
"""

import glob
import json
import sys
import time


def touch(tensor):
    """Looks at one byte of every page, so that what is mapped only has been read too."""
    import torch

    if tensor.numel():
        tensor.reshape(-1).view(torch.uint8)[::4096].sum()
    return tensor


def safetensors(keep=touch):
    """As the library gives them: views of the mapped files, which lie in the page cache and not in memory of their own."""
    import torch
    from safetensors import safe_open

    def read(paths):
        kept = {}
        for path in paths:
            with safe_open(path, framework="pt", device="cpu") as f:
                for name in f.keys():
                    kept[name] = keep(f.get_tensor(name))
        return kept

    return read


def safetensors_copied():
    """The same, copied into memory of their own, as the other libraries and coldload do."""
    return safetensors(lambda tensor: tensor.clone())


def runai_model_streamer():
    import torch
    from runai_model_streamer import SafetensorsStreamer

    def read(paths):
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(paths)
            return {name: touch(tensor) for name, tensor in streamer.get_tensors()}

    return read


def fastsafetensors():
    import torch
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    def read(paths):
        loader = SafeTensorsFileLoader(SingleGroup(), device="cpu", nogds=True)
        loader.add_filenames({0: paths})
        buffers = loader.copy_files_to_device()
        kept = {name: touch(buffers.get_tensor(name)) for name in list(buffers.key_to_rank_lidx)}
        return kept, buffers, loader  # the tensors lie in the buffers

    return read


def main():
    library, where = sys.argv[1:3]
    read = {f.__name__: f for f in (safetensors, safetensors_copied, runai_model_streamer, fastsafetensors)}[library]()
    if where == "--check":
        return
    paths = sorted(glob.glob(where + "/*.safetensors"))
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.monotonic()
    kept = read(paths)
    seconds = time.monotonic() - start
    print(json.dumps({"seconds": seconds}), flush=True)
    del kept


main()
