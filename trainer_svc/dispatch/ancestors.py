"""What a worker is told of the versions that a job's weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.deleted import DeletedData
from trainer_svc.jobs.inherited import Inherited, SeenData
from trainer_svc.jobs.job_data import Named
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import AncestorRef


class Ancestors:
    """Looks them up. What of them cannot be read is left unknown: a job can do nothing about it."""

    def __init__(self, datasets: Named, registry: AdapterRegistry) -> None:
        self._registry = registry
        self._inherited = Inherited(datasets, registry)

    async def of(self, from_version: str, drawn_from: str) -> tuple[AncestorRef, ...]:
        """Return the version that training begins with and those before it, nearest first.

        None if it begins with fresh weights. `drawn_from` is the SHA-256 of the data that held-out
        records are drawn from, "" if they are named. Raises StoreUnavailable.
        """
        if not from_version:
            return ()
        seen = await self._inherited.of(VersionName.parse(from_version))
        return tuple([await self._ref(one, drawn_from) for one in seen])

    async def _ref(self, seen: SeenData, drawn_from: str) -> AncestorRef:
        drawn_too = bool(drawn_from) and seen.sha256 == drawn_from
        return AncestorRef(
            version=seen.version,
            dataset=seen.dataset,
            sha256=seen.sha256,
            index_key="" if seen.data is None else index_key(seen.data),
            held_out_records=seen.held_out_records,
            seed=await self._seed(VersionName.parse(seen.version)) if drawn_too else None,
        )

    async def _seed(self, version: VersionName) -> int | None:
        try:
            manifest = await self._registry.stored_manifest(version)
            report = await self._registry.report(version, manifest)
        except (NotFound, DataCorrupt):
            return None
        return None if report is None else _seed_in(report)


def index_key(data: Dataset | DeletedData) -> str:
    """Return the key of the digests, "" if its release stored none."""
    if isinstance(data, DeletedData):
        return data.key
    return "" if data.report is None else data.index_key


def _seed_in(report: Mapping[str, Any]) -> int | None:
    try:
        return Hyperparameters.model_validate(report.get("hyperparameters")).seed
    except ValidationError:
        return None
