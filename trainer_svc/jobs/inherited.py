"""What the version has seen that a job trains on from: its own data, and that of those before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tailorbird.errors import DataCorrupt, InvalidArgument, NotFound
from tailorbird.names import DatasetName, VersionName
from tailorbird.registry import AdapterRegistry
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.deleted import DeletedData, deleted_data
from trainer_svc.jobs.job_data import Named
from trainer_svc.jobs.trained_versions import Origin, TrainedVersions

_NEAREST = 4
"""Versions whose data is looked at: each is compared, which takes up to seconds of a core."""


@dataclass(frozen=True)
class SeenData:
    """Data that `version` was trained on under the name `dataset`, but for what it held out.

    `data` is None where neither it nor its digests are left; where the version's manifest is not,
    the rest is empty.
    """

    version: str
    dataset: str = ""
    sha256: str = ""
    data: Dataset | DeletedData | None = None
    held_out_records: int | None = None
    """None of earlier releases."""


class Inherited:
    """Follows a version's lineage to the data it names, as far as that is kept."""

    def __init__(self, datasets: Named, registry: AdapterRegistry) -> None:
        self._datasets = datasets
        self._registry = registry

    async def of(self, version: VersionName) -> list[SeenData]:
        """Return what a version and at most three before it were trained on, nearest first.

        The last may be one of which nothing is known. For each version two reads, one of a
        dataset's record, and a listing if that was deleted. Raises StoreUnavailable.
        """
        line = await TrainedVersions(self._registry).line(version, _NEAREST)
        found: list[SeenData] = []
        for origin in line:
            name, lineage = _data_of(version, origin), origin.lineage
            if name is None:
                continue
            sha256 = lineage.training_dataset_sha256
            data = await self._data(name, sha256)
            seen = SeenData(origin.version, str(name), sha256, data, lineage.held_out_records)
            found.append(seen)
        return [*found, *_lost(version, line)]

    async def _data(self, name: DatasetName, sha256: str) -> Dataset | DeletedData | None:
        try:
            dataset = await self._datasets.get(name)
        except (NotFound, DataCorrupt):
            dataset = None
        if dataset is not None and dataset.sha256 == sha256:
            return dataset
        kept = await deleted_data(self._registry.store, name)
        return next((each for each in kept if each.sha256 == sha256), None)


def distinct(seen: Iterable[SeenData]) -> list[SeenData]:
    """Return each data once, as the nearest version saw it."""
    found: dict[str, SeenData] = {}
    for one in seen:
        found.setdefault(one.sha256, one)
    return list(found.values())


def _lost(version: VersionName, line: Sequence[Origin]) -> list[SeenData]:
    """Return the version whose manifest ends the line before its time, if it is of the tenant."""
    last = line[-1].lineage.from_version if line else str(version)
    if not last or len(line) == _NEAREST:
        return []
    try:
        name = VersionName.parse(last)
    except InvalidArgument:
        return []
    return [SeenData(last)] if name.tenant == version.tenant else []


def _data_of(version: VersionName, origin: Origin) -> DatasetName | None:
    """Return the dataset that a manifest names if it is of the same tenant; imports name none."""
    try:
        name = DatasetName.parse(origin.lineage.training_dataset)
    except InvalidArgument:
        return None
    return name if name.tenant == version.tenant else None
