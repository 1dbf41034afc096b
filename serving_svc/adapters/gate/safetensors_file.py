"""Reads what a .safetensors file says of itself, and its numbers in blocks.

Without torch: bfloat16 is widened by its bits. The format: 8 bytes of little-endian header length,
a JSON header of {name: {dtype, shape, data_offsets}}, then the tensors' bytes without gaps
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from serving_svc.adapters.gate.untrusted import parse_json, shown
from tailorbird.adapter_numbers import Block

_MAX_HEADER_BYTES = 100 * 2**20
"""The format's own limit."""

_HEADER_SLACK = 64 * 2**10
_ENTRY_BYTES = 256
_BLOCK_BYTES = 4 * 2**20
_MAX_DIMENSIONS = 8
_MAX_LENGTH = 2**63 - 1
_WIDTHS = {"F32": 4, "BF16": 2, "F16": 2}
FLOAT_DTYPES = frozenset(_WIDTHS)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's number format, shape, and place in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header_limit(names: Iterable[str]) -> int:
    """Return the length in bytes that a header of tensors with these names stays under.

    An entry takes its name and less than 150 bytes; the slack is for `__metadata__`.
    """
    return _HEADER_SLACK + sum(len(name) + _ENTRY_BYTES for name in names)


def read_header(path: Path, max_bytes: int = _MAX_HEADER_BYTES) -> dict[str, Tensor]:
    """Return the tensors of the file at `path`.

    ValueError if the file is not sound or its header is longer than `max_bytes`, before it is read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise ValueError("the file has no header")
        (length,) = struct.unpack("<Q", prefix)
        if not 2 <= length <= min(max_bytes, size - 8):
            raise ValueError(
                f"its header has {length} bytes; what follows has {size - 8}, and {max_bytes} are "
                "the most"
            )
        header = parse_json(file.read(length))
    if not isinstance(header, dict):
        # The file is wrong, not the call.
        raise ValueError("the header is not an object")  # noqa: TRY004
    _check_metadata(header.pop("__metadata__", {}))
    data = 8 + length
    tensors = {name: _tensor(name, entry, data, size) for name, entry in header.items()}
    _check_gapless(tensors, data, size)
    return tensors


def read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor in the folder's *.safetensors files."""
    return {
        name: tensor.shape
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in read_header(path).items()
    }


def read_rows(path: Path, tensor: Tensor) -> Iterator[Block]:
    """Yield a matrix in float32, some whole rows at a time: a few MiB, or one row.

    Its dtype is in FLOAT_DTYPES and it has two lengths, neither 0. ValueError if the file ends
    before it.
    """
    rows, columns = tensor.shape
    row_bytes = _WIDTHS[tensor.dtype] * columns
    at_once = max(1, _BLOCK_BYTES // row_bytes)
    with path.open("rb") as file:
        file.seek(tensor.start)
        for first in range(0, rows, at_once):
            wanted = min(at_once, rows - first) * row_bytes
            data = file.read(wanted)
            if len(data) != wanted:
                raise ValueError("the file is shorter than its header says")
            yield _widened(data, tensor.dtype).reshape(-1, columns)


def _widened(data: bytes, dtype: str) -> Block:
    if dtype == "BF16":
        bits = np.frombuffer(data, dtype="<u2").astype(np.uint32) << np.uint32(16)
        return bits.view(np.float32)
    return np.frombuffer(data, dtype="<f4" if dtype == "F32" else "<f2").astype(np.float32)


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(type(text) is str for text in metadata.values()):
        raise ValueError("the header's __metadata__ does not map names to text")


def _tensor(name: str, entry: Any, data: int, size: int) -> Tensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"the header's entry of {shown(name)} is malformed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (
        type(dtype) is str
        and _are_lengths(shape, _MAX_DIMENSIONS)
        and _are_lengths(offsets, 2)
        and len(offsets) == 2
    ):
        raise ValueError(f"the header's entry of {shown(name)} is malformed")
    start, end = data + offsets[0], data + offsets[1]
    if not start <= end <= size:
        raise ValueError(f"the bytes of {shown(name)} lie outside the file")
    if dtype in _WIDTHS and end - start != _WIDTHS[dtype] * math.prod(shape):
        raise ValueError(f"{shown(name)} has {end - start} bytes, which its shape does not need")
    return Tensor(dtype, tuple(shape), start, end)


def _are_lengths(values: Any, most: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= most
        # A bool is an int to Python, and none to other readers.
        and all(type(value) is int and 0 <= value <= _MAX_LENGTH for value in values)
    )


def _check_gapless(tensors: dict[str, Tensor], data: int, size: int) -> None:
    end = data
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != end:
            raise ValueError("the tensors' bytes overlap or leave gaps")
        end = tensor.end
    if end != size:
        raise ValueError("the file goes on after its last tensor")
