"""An adapter's tensors against the base: names and shapes; its numbers are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from serving_svc.adapters.gate.safetensors_file import (
    FLOAT_DTYPES,
    header_limit,
    read_header,
    read_rows,
)
from serving_svc.adapters.gate.untrusted import shown
from tailorbird.adapter_numbers import Numbers, check_numbers, place
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import ADAPTER_WEIGHTS


def check_tensors(
    tensors: Mapping[str, tuple[int, ...]], rank: int, linear: Mapping[str, tuple[int, int]]
) -> None:
    """Check that the tensors are pairs A (rank, in) and B (out, rank) of layers in `linear`.

    AdapterRefused with TENSOR_MISMATCH if not: vLLM serves the base for a wrong prefix, garbage for
    a smaller width, ignores what it has no layer for, and may end its process for a missing half.
    """
    modules: dict[str, set[str]] = {}
    for name, shape in tensors.items():
        module, part = place(name)
        if module not in linear:
            raise _mismatch(f"tensor {shown(name)} belongs to no linear layer of the base")
        outputs, inputs = linear[module]
        needed = (rank, inputs) if part == "A" else (outputs, rank)
        if shape != needed:
            raise _mismatch(
                f"tensor {shown(name)} has shape {shown(shape)}; the base and rank {rank} need "
                f"{needed}"
            )
        modules.setdefault(module, set()).add(part)
    for module, parts in modules.items():
        if len(parts) != 2:
            raise _mismatch(f"{shown(module)} has only one of lora_A and lora_B")
    if not modules:
        raise _mismatch("it has no tensors")


def target_modules(tensors: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """Return the last parts of the names of the layers that the tensors belong to."""
    return frozenset(place(name)[0].rpartition(".")[2] for name in tensors)


def check_weights(
    path: Path, told: Mapping[str, tuple[int, ...]], scaling: float, dtype: str
) -> None:
    """Check the file at `path`: it holds the tensors `told`, and numbers that can be served.

    `told` has passed check_tensors; `dtype` is the engine's, one of LARGEST. Blocking. Raises
    AdapterRefused with TENSOR_MISMATCH or NOT_FINITE.
    """
    try:
        tensors = read_header(path, header_limit(told))
        if {name: tensor.shape for name, tensor in tensors.items()} != dict(told):
            raise _mismatch(f"the tensors in {ADAPTER_WEIGHTS} are not those of the manifest")
        for name, tensor in tensors.items():
            if tensor.dtype not in FLOAT_DTYPES:
                raise _mismatch(
                    f"tensor {shown(name)} is {shown(tensor.dtype)}, not one of "
                    f"{sorted(FLOAT_DTYPES)}"
                )
        matrices = {
            name: Numbers(tensor.shape, read_rows(path, tensor)) for name, tensor in tensors.items()
        }
        check_numbers(matrices, scaling, dtype)
    except ValueError as error:
        raise _mismatch(f"{ADAPTER_WEIGHTS}: {error}") from error


def _mismatch(message: str) -> AdapterRefused:
    return AdapterRefused(message, reason="TENSOR_MISMATCH")
