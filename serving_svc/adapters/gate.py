"""The gate: what a version must pass before the engine sees a byte of it, and its probes after.

Every check ends well or raises AdapterRefused, whose reason is one of

MANIFEST_INVALID DIGEST_MISMATCH BASE_MISMATCH TEMPLATE_MISMATCH RANK_TOO_HIGH CONFIG_UNSUPPORTED
TENSOR_MISMATCH NOT_FINITE PROBES_INVALID LOAD_FAILED PROBE_MISMATCH EFFECT_ABSENT

vLLM itself accepts many broken adapters in silence, and some end its process: what stands here
stands for what it does not check.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_svc.adapters.safetensors_file import FLOAT_DTYPES, Tensor, all_finite, read_header
from tailorbird.errors import AdapterRefused, DataCorrupt
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PROBES,
    RANKS,
    AdapterManifest,
    Probes,
    file_entry,
)

NEEDED_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES)
"""The files of a version that serving fetches; the others are for people."""

LINEAR_MODULES = frozenset(
    {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "qkv_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "gate_up_proj",
    }
)
"""Last parts of the names of layers that adapters may change: neither embeddings nor the head."""

PROBE_FLOORS = {"float32": 1e-4}
"""Nats per token below which two logprobs count as equal, by the engine's number format."""
PROBE_FLOOR_DEFAULT = 0.02

_MAX_ERROR_SHARE = 0.2
_NOISE_FACTOR = 3.0
_MAX_NOISE_LIMIT = 0.25
_ABSENT_SHARE = 0.1
_MAX_SMALL_FILE_BYTES = 16 * 2**20

# PEFT options that change what an adapter computes and that the engine ignores or refuses.
_MUST_BE_UNSET = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
    "velora_config",
)
# Initialisations that leave the base's weights as they are.
_INITS = (True, False, "gaussian", "orthogonal", "eva")
_TENSOR_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


@dataclass(frozen=True, slots=True)
class ServedBase:
    """The base model in the engine: identity, limits, and (out, in) of each layer in `linear`."""

    digest: str
    chat_template_digest: str
    linear: Mapping[str, tuple[int, int]]
    vocab_size: int
    max_model_len: int
    max_lora_rank: int


def linear_layers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """Return (out, in) of each layer that adapters may change, from the weights' shapes."""
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2 and name.split(".")[-2] in LINEAR_MODULES
    }


def check_manifest(manifest: AdapterManifest, base: ServedBase) -> None:
    """Check what needs no download: base, template, rank, and the shapes the manifest tells."""
    if manifest.base_model_digest != base.digest:
        raise AdapterRefused(
            f"it was trained on {manifest.base_model} with digest {manifest.base_model_digest}; "
            f"the base served here has {base.digest}",
            reason="BASE_MISMATCH",
        )
    if manifest.chat_template_digest != base.chat_template_digest:
        raise AdapterRefused(
            f"it was trained with chat template {manifest.chat_template_digest}; the one served "
            f"here is {base.chat_template_digest}",
            reason="TEMPLATE_MISMATCH",
        )
    if manifest.rank not in RANKS or manifest.rank > base.max_lora_rank:
        raise AdapterRefused(
            f"rank {manifest.rank} is not one of {RANKS} up to {base.max_lora_rank}",
            reason="RANK_TOO_HIGH",
        )
    missing = [name for name in NEEDED_FILES if name not in manifest.files]
    if missing:
        raise AdapterRefused(f"the manifest lacks {missing[0]}", reason="MANIFEST_INVALID")
    _check_shapes(manifest, base)


def check_sizes(
    manifest: AdapterManifest, stored: Mapping[str, int], max_weights_bytes: int
) -> None:
    """Compare the stored sizes with the manifest's, before anything is fetched."""
    for name in NEEDED_FILES:
        told = manifest.files[name].size
        limit = max_weights_bytes if name == ADAPTER_WEIGHTS else _MAX_SMALL_FILE_BYTES
        if told > limit:
            raise AdapterRefused(
                f"{name} has {told} bytes; at most {limit} are accepted", reason="MANIFEST_INVALID"
            )
        if stored.get(name) != told:
            raise AdapterRefused(
                f"{name} has {stored.get(name, 'no')} bytes; its manifest says {told}",
                reason="DIGEST_MISMATCH",
            )


def check_files(folder: Path, manifest: AdapterManifest, base: ServedBase) -> Probes:
    """Check the fetched files in `folder` and return the probes. Blocking: run it in a thread."""
    for name in NEEDED_FILES:
        if file_entry(folder / name) != manifest.files[name]:
            raise AdapterRefused(
                f"the SHA-256 of {name} is not the manifest's", reason="DIGEST_MISMATCH"
            )
    _check_config(folder / ADAPTER_CONFIG, manifest)
    _check_weights(folder / ADAPTER_WEIGHTS, manifest)
    return _read_probes(folder / PROBES, base)


def judge_probes(
    probes: Probes,
    served_base: Sequence[Sequence[float]],
    served_adapter: Sequence[Sequence[float]],
    floor: float,
) -> None:
    """Compare what the engine computes with what the trainer computed, in nats per token.

    Two programs that compute the same model differ by rounding: how much is seen on the base alone.
    Refused: an error above max(0.2 x the adapter's effect, 3 x the base's error but at most 0.25,
    `floor`); less than a tenth of an effect that is at least `floor`.
    """
    told_base = [value for probe in probes.sequences for value in probe.base_logprobs]
    told = [value for probe in probes.sequences for value in probe.adapter_logprobs]
    base = [value for values in served_base for value in values]
    served = [value for values in served_adapter for value in values]
    noise = _mean_distance(base, told_base)
    error = _mean_distance(served, told)
    effect = _mean_distance(told, told_base)
    served_effect = _mean_distance(served, base)
    if effect >= floor and served_effect < _ABSENT_SHARE * effect:
        raise AdapterRefused(
            f"the adapter's effect is absent: {served_effect:.4g} nats a token are served where "
            f"training saw {effect:.4g}",
            reason="EFFECT_ABSENT",
        )
    limit = max(_MAX_ERROR_SHARE * effect, min(_NOISE_FACTOR * noise, _MAX_NOISE_LIMIT), floor)
    # Written so that a NaN among the served values is refused as well.
    if not error <= limit:
        raise AdapterRefused(
            f"the served logprobs are {error:.4g} nats a token away from training's; at most "
            f"{limit:.4g} is accepted",
            reason="PROBE_MISMATCH",
        )


def _check_shapes(manifest: AdapterManifest, base: ServedBase) -> None:
    modules: dict[str, set[str]] = {}
    for name, shape in manifest.tensors.items():
        match = _TENSOR_NAME.fullmatch(name)
        expected = None if match is None else _expected_shape(match, manifest.rank, base)
        if match is None or expected is None:
            raise AdapterRefused(
                f"tensor {name!r} belongs to no linear layer of the base", reason="TENSOR_MISMATCH"
            )
        if shape != expected:
            raise AdapterRefused(
                f"tensor {name!r} has shape {shape}; the base and rank {manifest.rank} need "
                f"{expected}",
                reason="TENSOR_MISMATCH",
            )
        if match[1].rpartition(".")[2] not in manifest.target_modules:
            raise AdapterRefused(
                f"tensor {name!r} belongs to no target module of {manifest.target_modules}",
                reason="TENSOR_MISMATCH",
            )
        modules.setdefault(match[1], set()).add(match[2])
    single = [module for module, parts in modules.items() if len(parts) != 2]
    if single or not modules:
        raise AdapterRefused(
            f"{single[0]} has only one of lora_A and lora_B" if single else "it has no tensors",
            reason="TENSOR_MISMATCH",
        )


def _expected_shape(match: re.Match[str], rank: int, base: ServedBase) -> tuple[int, ...] | None:
    if match[1] not in base.linear:
        return None
    outputs, inputs = base.linear[match[1]]
    return (rank, inputs) if match[2] == "A" else (outputs, rank)


def _check_config(path: Path, manifest: AdapterManifest) -> None:
    try:
        config: Any = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise AdapterRefused(
            f"{ADAPTER_CONFIG} is not JSON: {error}", reason="CONFIG_UNSUPPORTED"
        ) from error
    if not isinstance(config, dict):
        raise AdapterRefused(f"{ADAPTER_CONFIG} is not an object", reason="CONFIG_UNSUPPORTED")
    needed = {
        "peft_type": "LORA",
        "r": manifest.rank,
        "lora_alpha": manifest.alpha,
        "use_rslora": manifest.use_rslora,
        "bias": "none",
    }
    for key, value in needed.items():
        found = config.get(key, False if key == "use_rslora" else None)
        if found != value:
            raise AdapterRefused(
                f"{ADAPTER_CONFIG} has {key} = {found!r}; {value!r} is needed",
                reason="CONFIG_UNSUPPORTED",
            )
    unsupported = [key for key in _MUST_BE_UNSET if config.get(key)]
    if config.get("init_lora_weights", True) not in _INITS:
        unsupported.append("init_lora_weights")
    if unsupported:
        key = unsupported[0]
        raise AdapterRefused(
            f"{ADAPTER_CONFIG} sets {key} = {config[key]!r}, which is not served",
            reason="CONFIG_UNSUPPORTED",
        )


def _check_weights(path: Path, manifest: AdapterManifest) -> None:
    try:
        tensors = read_header(path)
    except ValueError as error:
        raise AdapterRefused(f"{ADAPTER_WEIGHTS}: {error}", reason="TENSOR_MISMATCH") from error
    if {name: tensor.shape for name, tensor in tensors.items()} != manifest.tensors:
        raise AdapterRefused(
            f"the tensors in {ADAPTER_WEIGHTS} are not those of the manifest",
            reason="TENSOR_MISMATCH",
        )
    for name, tensor in tensors.items():
        _check_numbers(path, name, tensor)


def _check_numbers(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.dtype not in FLOAT_DTYPES:
        raise AdapterRefused(
            f"tensor {name!r} is {tensor.dtype}, not one of {sorted(FLOAT_DTYPES)}",
            reason="TENSOR_MISMATCH",
        )
    if not all_finite(path, tensor):
        raise AdapterRefused(f"tensor {name!r} holds NaN or infinity", reason="NOT_FINITE")


def _read_probes(path: Path, base: ServedBase) -> Probes:
    try:
        probes = Probes.from_json(path.read_bytes())
    except DataCorrupt as error:
        raise AdapterRefused(error.message, reason="PROBES_INVALID") from error
    for probe in probes.sequences:
        # The engine wants room for one more token.
        if len(probe.token_ids) >= base.max_model_len:
            raise AdapterRefused(
                f"a probe has {len(probe.token_ids)} tokens; at most {base.max_model_len - 1} fit",
                reason="PROBES_INVALID",
            )
        if not all(0 <= token < base.vocab_size for token in probe.token_ids):
            raise AdapterRefused(
                f"a probe has token ids outside [0, {base.vocab_size})", reason="PROBES_INVALID"
            )
        if not all(map(math.isfinite, (*probe.base_logprobs, *probe.adapter_logprobs))):
            raise AdapterRefused("a probe's logprobs are not finite", reason="PROBES_INVALID")
    return probes


def _mean_distance(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)
