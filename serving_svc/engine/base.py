"""The base model as the engine and the gate need it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_svc.adapters.gate import linear_layers
from serving_svc.adapters.gate.safetensors_file import read_shapes
from serving_svc.engine.launch import unusable
from serving_svc.engine.plan import BaseDimensions
from tailorbird.base_model import BaseModelFiles, load_base_model
from tailorbird.errors import FailedPrecondition
from tailorbird.servable import LINEAR_MODULES


@dataclass(frozen=True, slots=True)
class ServableBase:
    """A base on local disk, and (out, in) of each layer in `linear` that adapters may change."""

    files: BaseModelFiles
    linear: Mapping[str, tuple[int, int]]
    dimensions: BaseDimensions

    @property
    def lora_modules(self) -> list[str]:
        """Last parts of the names of those layers."""
        return sorted({name.rpartition(".")[2] for name in self.linear})


async def load_servable_base(
    model: str, cache: Path, name: str, dtype: str, *, expected_digest: str = ""
) -> ServableBase:
    """Find the base, compute its digests and read its shapes.

    Raises InvalidArgument if there is no such model or it is not the one expected,
    FailedPrecondition (BASE_UNUSABLE, BASE_UNSUPPORTED) if it cannot be read or has no layer that
    adapters may change.
    """
    files = await asyncio.to_thread(
        load_base_model, model, cache, name, expected_digest=expected_digest
    )
    try:
        return await asyncio.to_thread(_read, files, dtype)
    except (OSError, ValueError) as error:
        raise unusable(files, error) from error


def _read(files: BaseModelFiles, dtype: str) -> ServableBase:
    shapes = read_shapes(files.path)
    linear = linear_layers(shapes)
    if not linear:
        raise FailedPrecondition(
            f"{files.name} has none of the layers {sorted(LINEAR_MODULES)} that adapters may "
            "change",
            reason="BASE_UNSUPPORTED",
            setting="base_model",
        )
    config: Mapping[str, Any] = json.loads((files.path / "config.json").read_text())
    parameters = sum(map(math.prod, shapes.values()))
    return ServableBase(files, linear, BaseDimensions.read(config, linear, parameters, dtype))
