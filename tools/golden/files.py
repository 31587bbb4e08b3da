"""safetensors and JSON, written so that equal content gives equal bytes."""

import json
import os
import pathlib
import struct

import numpy as np
import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "I32": torch.int32}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def raw(tensor):
    """A tensor's bytes."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def as_tensor(value):
    if isinstance(value, torch.Tensor):
        return value
    return torch.from_numpy(np.ascontiguousarray(value))


def encode(tensors, metadata):
    """The header and the pieces of data of a safetensors file: tensors in their given order, the header's keys sorted."""
    head, start, pieces = {"__metadata__": metadata}, 0, []
    for name, value in tensors.items():
        tensor = as_tensor(value)
        data = raw(tensor)
        head[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, start + len(data)]}
        start += len(data)
        pieces.append(data)
    text = json.dumps(head, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, pieces


def decode(path):
    """Tensors in the order of their bytes, and the metadata."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    head = json.loads(data[8 : 8 + length])
    metadata = head.pop("__metadata__", {})
    tensors = {}
    for name, info in sorted(head.items(), key=lambda item: item[1]["data_offsets"]):
        start, end = (8 + length + at for at in info["data_offsets"])
        flat = torch.frombuffer(bytearray(data[start:end]), dtype=DTYPES[info["dtype"]]) if end > start else torch.empty(0)
        tensors[name] = flat.reshape(info["shape"])
    return tensors, metadata


def replace(path, data):
    """A file that is whole or not there."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    os.replace(partial, path)


def save(path, tensors, metadata):
    head, pieces = encode(tensors, metadata)
    replace(path, head + b"".join(pieces))
    print(f"{path}: {os.path.getsize(path):,} bytes")


def save_json(path, value):
    replace(path, (json.dumps(value, indent=1) + "\n").encode())
    print(f"{path}: {os.path.getsize(path):,} bytes")
