"""What the version has seen that a job trains on from: its own data, and that of those before."""

from __future__ import annotations

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
    """Data that `version` was trained on under the name `dataset`.

    `data` is None where neither it nor its digests are left.
    """

    version: str
    dataset: str
    sha256: str
    data: Dataset | DeletedData | None


class Inherited:
    """Follows a version's lineage to the data it names, as far as that is kept."""

    def __init__(self, datasets: Named, registry: AdapterRegistry) -> None:
        self._datasets = datasets
        self._registry = registry

    async def of(self, version: VersionName) -> list[SeenData]:
        """Return the data of a version and of at most three before it, each once, nearest first.

        For each two reads, one of a dataset's record, and a listing if it was deleted. Raises
        StoreUnavailable.
        """
        found: dict[str, SeenData] = {}
        for origin in await TrainedVersions(self._registry).line(version, _NEAREST):
            name = _data_of(version, origin)
            sha256 = origin.lineage.training_dataset_sha256
            if name is not None and sha256 not in found:
                data = await self._data(name, sha256)
                found[sha256] = SeenData(origin.version, str(name), sha256, data)
        return list(found.values())

    async def _data(self, name: DatasetName, sha256: str) -> Dataset | DeletedData | None:
        try:
            dataset = await self._datasets.get(name)
        except (NotFound, DataCorrupt):
            dataset = None
        if dataset is not None and dataset.sha256 == sha256:
            return dataset
        kept = await deleted_data(self._registry.store, name)
        return next((each for each in kept if each.sha256 == sha256), None)


def _data_of(version: VersionName, origin: Origin) -> DatasetName | None:
    """Return the dataset that a manifest names if it is of the same tenant; imports name none."""
    try:
        name = DatasetName.parse(origin.lineage.training_dataset)
    except InvalidArgument:
        return None
    return name if name.tenant == version.tenant else None
