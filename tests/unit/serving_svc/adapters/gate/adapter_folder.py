"""A sound adapter's files for a base of one layer, and what may be wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from serving_svc.adapters.gate import ServedBase
from serving_svc.adapters.gate.safetensors_file import read_header
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PROBES,
    AdapterManifest,
    file_entry,
)
from tests.unit.serving_svc.fakes import DIGEST, manifest, version
from tests.unit.serving_svc.fakes import PROBES as SOUND_PROBES

LAYER = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{LAYER}.lora_{part}.weight" for part in "AB")
BASE = ServedBase(
    digest=DIGEST,
    chat_template_digest=DIGEST,
    linear={LAYER: (16, 12)},
    vocab_size=10,
    max_model_len=8,
    max_lora_rank=16,
    dtype="float32",
)
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "bias": "none",
    "target_modules": ["q_proj"],
    "init_lora_weights": True,
    "rank_pattern": {},
    "modules_to_save": None,
}


def write_weights(folder: Path, **changes: npt.NDArray[Any]) -> None:
    """Write A and B of ones in float32, or what `changes` says of them."""
    tensors = {"A": np.ones((8, 12), np.float32), "B": np.ones((16, 8), np.float32)} | changes
    save_file({A: tensors["A"], B: tensors["B"]}, folder / ADAPTER_WEIGHTS)


def write_sound(folder: Path) -> None:
    """Write the files of a sound adapter."""
    write_weights(folder)
    (folder / ADAPTER_CONFIG).write_text(json.dumps(CONFIG))
    (folder / PROBES).write_bytes(SOUND_PROBES.to_json())


def describe(folder: Path, **changes: object) -> AdapterManifest:
    """Return the manifest of the files in `folder` as they are."""
    tensors = {name: entry.shape for name, entry in read_header(folder / ADAPTER_WEIGHTS).items()}
    files = {path.name: file_entry(path) for path in folder.iterdir()}
    told: Mapping[str, object] = {"tensors": tensors, "files": files, **changes}
    return manifest(version(1)).model_copy(update=told)


def header(entries: object, data: bytes = b"") -> bytes:
    """Return a .safetensors file of this header and these bytes."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def is_small(error: AdapterRefused) -> bool:
    """Say whether a refusal's text may go to a caller, and into a record of refusals."""
    error.message.encode()
    return len(error.message) <= 500
