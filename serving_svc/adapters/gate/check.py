"""The gate: what a version must pass before the engine sees a byte of it, and its probes after.

Every check ends well or raises AdapterRefused, whose reason is one of

MANIFEST_INVALID DIGEST_MISMATCH BASE_MISMATCH TEMPLATE_MISMATCH RANK_TOO_HIGH CONFIG_UNSUPPORTED
TENSOR_MISMATCH NOT_FINITE PROBES_INVALID RENDERING_MISMATCH LOAD_FAILED PROBE_MISMATCH
EFFECT_ABSENT CHECK_INTERRUPTED

and which is for ever unless it says that it is retryable. vLLM itself accepts many broken adapters
in silence, and some end its process: what stands here stands for what it does not check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving_svc.adapters.gate.peft_config import MAX_CONFIG_BYTES, LoraShape, read_config
from serving_svc.adapters.gate.probes import read_probes
from serving_svc.adapters.gate.safetensors_file import header_limit
from serving_svc.adapters.gate.untrusted import shown
from serving_svc.adapters.gate.weights import check_tensors, check_weights, target_modules
from tailorbird.adapter_numbers import LARGEST, scaling_of
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MAX_PROBES_BYTES,
    PROBES,
    AdapterManifest,
    Probes,
    file_entry,
)
from tailorbird.servable import LINEAR_MODULES

NEEDED_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES)
"""The files of a version that serving fetches; the others are for people."""

_MAX_BYTES = {ADAPTER_CONFIG: MAX_CONFIG_BYTES, PROBES: MAX_PROBES_BYTES}
_MAX_NUMBER_BYTES = 4


@dataclass(frozen=True, slots=True)
class ServedBase:
    """The base model in the engine: identity, limits, and (out, in) of each layer in `linear`."""

    digest: str
    chat_template_digest: str
    linear: Mapping[str, tuple[int, int]]
    vocab_size: int
    max_model_len: int
    max_lora_rank: int
    dtype: str
    """The engine's number format, which adapters are rounded to: one of LARGEST."""

    def __post_init__(self) -> None:
        if self.dtype not in LARGEST:
            raise ValueError(f"the engine's dtype {self.dtype!r} is not one of {sorted(LARGEST)}")


def linear_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Return (out, in) of each layer that adapters may change, from the weights' shapes."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and name.split(".")[-2] in LINEAR_MODULES
    }


def check_manifest(manifest: AdapterManifest, base: ServedBase) -> None:
    """Check what needs no download: base, template, rank, scaling, and the shapes it tells."""
    if manifest.base_model_digest != base.digest:
        raise AdapterRefused(
            f"it was trained on {shown(manifest.base_model)} with digest "
            f"{manifest.base_model_digest}; the base served here has {base.digest}",
            reason="BASE_MISMATCH",
        )
    if manifest.chat_template_digest != base.chat_template_digest:
        raise AdapterRefused(
            f"it was trained with chat template {manifest.chat_template_digest}; the one served "
            f"here is {base.chat_template_digest}",
            reason="TEMPLATE_MISMATCH",
        )
    # vLLM's list of ranks is of caps: an adapter below the cap may have any.
    if manifest.rank < 1:
        raise AdapterRefused("rank 0 is below 1", reason="MANIFEST_INVALID")
    if manifest.rank > base.max_lora_rank:
        raise AdapterRefused(
            f"rank {manifest.rank} is above {base.max_lora_rank}", reason="RANK_TOO_HIGH"
        )
    _scaling(manifest)
    missing = [name for name in NEEDED_FILES if name not in manifest.files]
    if missing:
        raise AdapterRefused(f"the manifest lacks {missing[0]}", reason="MANIFEST_INVALID")
    check_tensors(manifest.tensors, manifest.rank, base.linear)
    untold = target_modules(manifest.tensors) - set(manifest.target_modules)
    if untold:
        raise AdapterRefused(
            f"tensors of {min(untold)} are none of the target modules "
            f"{shown(manifest.target_modules)}",
            reason="TENSOR_MISMATCH",
        )


def check_sizes(
    manifest: AdapterManifest, stored: Mapping[str, int], max_weights_bytes: int
) -> None:
    """Compare the stored sizes with the manifest's and with what its tensors can need.

    Before anything is fetched, and after check_manifest.
    """
    needed = header_limit(manifest.tensors) + _MAX_NUMBER_BYTES * sum(
        math.prod(shape) for shape in manifest.tensors.values()
    )
    limits = {**_MAX_BYTES, ADAPTER_WEIGHTS: min(max_weights_bytes, needed)}
    for name in NEEDED_FILES:
        told = manifest.files[name].size
        if told > limits[name]:
            raise AdapterRefused(
                f"{name} has {told} bytes; at most {limits[name]} are accepted",
                reason="MANIFEST_INVALID",
            )
        if stored.get(name) != told:
            raise AdapterRefused(
                f"{name} has {stored.get(name, 'no')} bytes; its manifest says {told}",
                reason="DIGEST_MISMATCH",
            )


def check_files(folder: Path, manifest: AdapterManifest, base: ServedBase) -> Probes:
    """Check the fetched files in `folder` and return the probes. Blocking: run it in a thread.

    `manifest` has passed check_manifest. What this machine lacks to finish the check, memory or a
    disk that reads, is a retryable refusal.
    """
    try:
        return _check_files(folder, manifest, base)
    except (MemoryError, OSError) as error:
        raise AdapterRefused(
            f"the check could not be finished: {type(error).__name__}",
            reason="CHECK_INTERRUPTED",
            retryable=True,
        ) from error


def _check_files(folder: Path, manifest: AdapterManifest, base: ServedBase) -> Probes:
    for name in NEEDED_FILES:
        found, told = file_entry(folder / name), manifest.files[name]
        # Not as wholes: a newer manifest may say more of a file.
        if (found.size, found.sha256) != (told.size, told.sha256):
            raise AdapterRefused(
                f"the SHA-256 of {name} is not the manifest's", reason="DIGEST_MISMATCH"
            )
    told_shape = LoraShape(manifest.rank, manifest.alpha, manifest.use_rslora)
    found_shape = read_config(folder / ADAPTER_CONFIG)
    if found_shape != told_shape:
        raise AdapterRefused(
            f"{ADAPTER_CONFIG} has {_lora(found_shape)}; its manifest says {_lora(told_shape)}",
            reason="CONFIG_UNSUPPORTED",
        )
    check_weights(folder / ADAPTER_WEIGHTS, manifest.tensors, _scaling(manifest), base.dtype)
    return read_probes(folder / PROBES, base.vocab_size, base.max_model_len)


def _scaling(manifest: AdapterManifest) -> float:
    return scaling_of(manifest.rank, manifest.alpha, manifest.use_rslora)


def _lora(shape: LoraShape) -> str:
    return f"r = {shown(shape.rank)}, lora_alpha = {shape.alpha:g}, use_rslora = {shape.use_rslora}"
