"""Reads what a .safetensors file says of itself, and whether its numbers are finite.

Without torch: bfloat16 is checked by its bits. The format: 8 bytes of little-endian header length,
a JSON header of {name: {dtype, shape, data_offsets}}, then the tensors' bytes without gaps
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_MAX_HEADER_BYTES = 100 * 2**20
_BLOCK_BYTES = 16 * 2**20
# A float whose exponent bits are all ones is infinite or no number.
_EXPONENT_MASK: dict[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "F32": (np.uint32, 0x7F800000),
    "BF16": (np.uint16, 0x7F80),
    "F16": (np.uint16, 0x7C00),
}
FLOAT_DTYPES = frozenset(_EXPONENT_MASK)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's number format, shape, and place in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the file at `path`; ValueError if the file is not sound."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError("the file has no header")
        (length,) = struct.unpack("<Q", prefix)
        if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"the header's length {length} is impossible")
        header = json.loads(file.read(length), object_pairs_hook=_unique)
    data = 8 + length
    entries = dict(header) if isinstance(header, dict) else {"": header}
    entries.pop("__metadata__", None)
    tensors = {name: _tensor(name, entry, data, size) for name, entry in entries.items()}
    _check_gapless(tensors, data, size)
    return tensors


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the folder's *.safetensors files."""
    return {
        name: tensor.shape
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in read_header(path).items()
    }


def all_finite(path: Path, tensor: Tensor) -> bool:
    """Say whether the tensor holds neither NaN nor infinity; its dtype is in FLOAT_DTYPES."""
    integer, exponent = _EXPONENT_MASK[tensor.dtype]
    with path.open("rb") as file:
        file.seek(tensor.start)
        left = tensor.end - tensor.start
        while left:
            block = file.read(min(left, _BLOCK_BYTES))
            if not block:
                raise ValueError("the file is shorter than its header says")
            bits = np.frombuffer(block, dtype=np.dtype(integer).newbyteorder("<"))
            if bool(np.any((bits & exponent) == exponent)):
                return False
            left -= len(block)
    return True


def _tensor(name: str, entry: Any, data: int, size: int) -> Tensor:
    try:
        dtype = str(entry["dtype"])
        shape = tuple(int(length) for length in entry["shape"])
        start, end = (data + int(offset) for offset in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the header's entry of {name!r} is malformed") from error
    if not data <= start <= end <= size or any(length < 0 for length in shape):
        raise ValueError(f"the bytes of {name!r} lie outside the file")
    width = np.dtype(_EXPONENT_MASK[dtype][0]).itemsize if dtype in _EXPONENT_MASK else None
    if width is not None and end - start != width * math.prod(shape):
        raise ValueError(f"{name!r} has {end - start} bytes, which its shape does not need")
    return Tensor(dtype, shape, start, end)


def _check_gapless(tensors: dict[str, Tensor], data: int, size: int) -> None:
    end = data
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != end:
            raise ValueError("the tensors' bytes overlap or leave gaps")
        end = tensor.end
    if end != size:
        raise ValueError("the file goes on after its last tensor")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("the header names a tensor twice")
    return found
