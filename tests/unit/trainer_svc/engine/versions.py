"""Versions of the tiny base that jobs train on from."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save

from tailorbird.manifest import AdapterManifest
from tailorbird.object_store import ObjectStore
from tests.unit.trainer_svc.values import put_version
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.model import LoraSpec

LORA = LoraSpec(rank=8, alpha=16.0)
VERSION = "tenants/acme/adapters/support/versions/20260102T030405-one-1"
DIGEST = f"sha256:{'0' * 64}"


def trained(bank: AdapterBank, seed: int = 5) -> dict[str, torch.Tensor]:
    """Weights as if they had been trained: neither matrix is zero, rounded to bfloat16."""
    adapter = bank.attach("another", LORA, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.empty(matrix.shape).normal_(0, 0.2, generator=generator).bfloat16()
        for name, matrix in adapter.parameters.items()
    }
    bank.detach("another")
    return weights


async def publish(
    store: ObjectStore, weights: dict[str, torch.Tensor], **changes: Any
) -> AdapterManifest:
    """Publish the weights as VERSION."""
    told = {
        "base_model_digest": DIGEST,
        "tensors": {name: tuple(tensor.shape) for name, tensor in weights.items()},
    }
    return await put_version(store, VERSION, save(weights), **{**told, **changes})
