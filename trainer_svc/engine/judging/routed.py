"""The version that an adapter's traffic goes to, beside the one that a job has trained."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import torch

from tailorbird.errors import DataCorrupt, FailedPrecondition, InvalidArgument, NotFound
from tailorbird.names import AdapterName, VersionName
from tailorbird.object_store import ObjectStore
from tailorbird.registry import AdapterRegistry
from trainer_svc.engine.parent import Shapes, fetch_weights
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.model import LoraSpec
from trainer_svc.jobs.publication import BASE_CHANGED
from trainer_svc.protocol import Assignment


@dataclass(frozen=True)
class Routed:
    """Where an adapter's traffic goes. `version` is None where it goes nowhere.

    `refusal` says why its answers cannot be had, and is empty where they can, or there are none.
    """

    generation: int = 0
    version: VersionName | None = None
    lora: LoraSpec | None = None
    weights: dict[str, torch.Tensor] | None = None
    refusal: str = ""
    reason: str = "ROUTED_NOT_JUDGED"
    """With a refusal: why nothing takes its place by itself."""


async def routed_version(
    store: ObjectStore,
    assignment: Assignment,
    shapes: Callable[[LoraSpec], Awaitable[Shapes]],
) -> Routed:
    """Return the version of largest weight in the newest route, with its weights.

    `shapes` are what an adapter on the worker's base has, or InvalidArgument. A version that is
    broken, deleted, or of another base is named without weights. Raises StoreUnavailable.
    """
    adapter = AdapterName.parse(assignment.adapter)
    registry = AdapterRegistry(store)
    head = await registry.head(adapter)
    if head is None:
        return Routed()
    version = adapter.version(head.version)
    try:
        manifest = await registry.manifest(version)
        if manifest.base_model_digest != assignment.base_model_digest:
            why = f"{version} is of another base"
            return Routed(head.generation, version, refusal=why, reason=BASE_CHANGED)
        lora = LoraSpec(
            rank=manifest.rank,
            alpha=manifest.alpha,
            target_modules=manifest.target_modules,
            use_rslora=manifest.use_rslora,
        )
        asked = assignment.model_copy(update={"from_version": str(version), "lora": lora})
        weights = await fetch_weights(store, asked, await shapes(lora))
    except (NotFound, DataCorrupt, FailedPrecondition, InvalidArgument) as error:
        return Routed(head.generation, version, refusal=error.message)
    return Routed(head.generation, version, lora, weights)


def attach(bank: AdapterBank, name: str, routed: Routed) -> None:
    """Attach the routed version's weights under `name`; on the step thread."""
    if routed.lora is None or routed.weights is None:
        return
    adapter = bank.attach(name, routed.lora, seed=0)
    with torch.no_grad():
        for key, weight in routed.weights.items():
            adapter.parameters[key].copy_(weight)
