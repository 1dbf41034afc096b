"""What a worker must know to train a job."""

from __future__ import annotations

from collections.abc import Callable

from tailorbird.names import AdapterName, DatasetName
from tailorbird.registry import AdapterRegistry
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.ancestors import Ancestors, index_key
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import Job, PromotionPolicy
from trainer_svc.jobs.sweep import SweepResults
from trainer_svc.protocol import Assignment, DatasetRef, LeaseKey, SweepAssignment


class Assignments:
    """Looks up what a job names."""

    def __init__(
        self,
        datasets: DatasetStore,
        registry: AdapterRegistry,
        base_of: Callable[[Job], str],
    ) -> None:
        self._datasets = datasets
        self._registry = registry
        self._ancestors = Ancestors(datasets, registry)
        self._base_of = base_of

    async def of(self, lease: Lease, job: Job, at_once: int) -> Assignment:
        """Return a job's assignment; NotFound for a dataset that is gone, StoreUnavailable.

        `at_once`: trials of a sweep that train at a time.
        """
        parent = job.spec.from_version or await self._routed(job.spec.adapter_name)
        return await self._assigned(key_of(lease), job, parent, at_once)

    async def unleased(self, job: Job) -> Assignment:
        """Return what the assignment of a job would be that nobody has; raises what `of` does.

        Nothing of it may be published: it has no lease, and no parent but `from_version`.
        """
        key = LeaseKey(job=str(job.name), epoch=0)
        return await self._assigned(key, job, job.spec.from_version, at_once=1)

    async def _assigned(self, key: LeaseKey, job: Job, parent: str, at_once: int) -> Assignment:
        spec = job.spec
        training = await self._dataset(spec.training_dataset)
        validation = spec.validation_dataset
        drawn_from = "" if validation else training.sha256
        return Assignment(
            lease=key,
            base_model_digest=self._base_of(job),
            adapter=spec.adapter,
            training=training,
            validation=await self._dataset(validation) if validation else None,
            validation_fraction=spec.validation_fraction,
            lora=spec.lora,
            hyperparameters=spec.hyperparameters,
            spec_sha256=spec.sha256(),
            parent_version=parent,
            from_version=spec.from_version,
            ancestors=await self._ancestors.of(spec.from_version, drawn_from),
            evaluation=spec.evaluation,
            hold_out=spec.promotion_policy is PromotionPolicy.AUTO_IF_BETTER
            or spec.sweep is not None,
            promoted_always=spec.promotion_policy is PromotionPolicy.ALWAYS,
            data=spec.data,
            sweep=_sweep(job, at_once),
        )

    async def _routed(self, adapter: AdapterName) -> str:
        head = await self._registry.head(adapter)
        return str(adapter.version(head.version)) if head else ""

    async def _dataset(self, name: str) -> DatasetRef:
        dataset = await self._datasets.get(DatasetName.parse(name))
        return DatasetRef(
            name=name,
            key=dataset.data_key,
            sha256=dataset.sha256,
            format=dataset.format.value,
            personal_data=dataset.personal_data,
            index_key=index_key(dataset),
        )


def _sweep(job: Job, at_once: int) -> SweepAssignment | None:
    if job.spec.sweep is None:
        return None
    results = job.sweep or SweepResults.begun(job.spec.sweep)
    return SweepAssignment(spec=job.spec.sweep, results=results, at_once=at_once)


def key_of(lease: Lease) -> LeaseKey:
    """Return what a worker calls a lease."""
    return LeaseKey(job=str(lease.job), epoch=lease.epoch)
