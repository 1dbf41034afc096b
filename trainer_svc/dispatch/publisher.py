"""Publishes what a worker has uploaded: commit in the job store, then the outbox, then clean up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from tailorbird.errors import (
    DataCorrupt,
    LeaseLost,
    NotFound,
    StoreUnavailable,
    TailorbirdError,
    Unavailable,
)
from tailorbird.manifest import MANIFEST, AdapterManifest
from tailorbird.names import AdapterName, JobName, VersionName, version_id
from tailorbird.object_store import ObjectStore, delete_folder
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RouteConflict, RoutedVersion
from trainer_svc.checkpoints import delete_checkpoints
from trainer_svc.dispatch.backoff import insist
from trainer_svc.dispatch.holder import Holder
from trainer_svc.dispatch.losses import pause_after
from trainer_svc.jobs.events import JobWarning
from trainer_svc.jobs.model import Job, JobState, Left, PromotionPolicy
from trainer_svc.jobs.publication import BASE_CHANGED, Publication, publish
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics

NOT_JUDGED = "NOT_JUDGED"
"""Why a version is not promoted: its worker, of an earlier release, judged nothing."""

_log = structlog.get_logger(__name__)

_MAX_MESSAGE = 1000
_TRIES = 3
"""Of a store that has been asked again for a while each time."""
_TRIES_BEFORE = 8
"""Before the commit: who gives up here has the job trained again from its last checkpoint."""


class Publisher:
    """From "trained" to "served", in steps that any later holder of the job can repeat."""

    def __init__(self, jobs: JobStore, store: ObjectStore, metrics: TrainerMetrics) -> None:
        self._jobs = jobs
        self._store = store
        self._registry = AdapterRegistry(store)
        self._metrics = metrics

    async def allocate(self, held: Holder, job: Job) -> VersionName:
        """Allocate the version's id in the job store, before the first byte is uploaded.

        What an earlier epoch uploaded and never committed is deleted: no manifest can follow it.
        """
        id_ = version_id(job.name, held.lease.epoch, await insist(self._jobs.time))
        abandoned = await held.allocate_version(id_)
        if abandoned:
            await self._forget(f"{job.spec.adapter}/versions/{abandoned}")
        return job.spec.adapter_name.version(id_)

    async def publish(self, held: Holder, job: Job, manifest: AdapterManifest) -> None:
        """Commit the version, then write it. CancelRequested if a caller was faster.

        Unavailable, and nothing committed, if the routes cannot be read in a few tries.
        """
        publication = await insist(lambda: self._publication(job, manifest), _TRIES_BEFORE)
        await held.commit(publication)
        await self.finish(held, publication)

    async def finish(self, held: Holder, publication: Publication) -> None:
        """Write a committed version and end its job; LeaseLost.

        What cannot be finished in a few tries is put off, and holds up no other, nor a worker.
        """
        job = held.lease.job
        try:
            outcome = await insist(lambda: publish(self._registry, publication), _TRIES)
        except LeaseLost:
            raise
        except Exception as error:
            down = isinstance(error, Unavailable)
            _log.warning("committed version not published", job=str(job), exc_info=not down)
            await held.put_off(pause_after, _not_published(error))
            return
        await held.succeed(publication, outcome)
        self._metrics.versions.labels(str(outcome.promoted).lower()).inc()
        self._metrics.finished.labels(JobState.SUCCEEDED, "").inc()
        _log.info(
            "version published",
            job=str(job),
            version=publication.manifest.version,
            promoted=outcome.promoted,
            route_generation=outcome.route_generation,
        )
        await self._forget_checkpoints(job)

    async def discard(self, left: Left) -> None:
        """Delete what a job that publishes nothing has left behind."""
        await self._forget_checkpoints(left.job)
        if left.version:
            await self._forget(left.version)

    async def _publication(self, job: Job, manifest: AdapterManifest) -> Publication:
        """Return what the job's policy says of the version."""
        decision = manifest.evaluation.decision
        match job.spec.promotion_policy:
            case PromotionPolicy.MANUAL:
                return Publication.of(manifest)
            case PromotionPolicy.AUTO_IF_BETTER if decision is None:
                return Publication.of(manifest, refusal=NOT_JUDGED)
            case PromotionPolicy.AUTO_IF_BETTER if decision is not None and not decision.promote:
                return Publication.of(manifest, refusal=decision.reason)
        return await self._promoted(job, manifest)

    async def _promoted(self, job: Job, manifest: AdapterManifest) -> Publication:
        adapter = job.spec.adapter_name
        head = await self._registry.head(adapter)
        if job.spec.promotion_policy is PromotionPolicy.AUTO_IF_BETTER and _moved(head, manifest):
            return Publication.of(manifest, refusal=RouteConflict.default_reason)
        version = VersionName.parse(manifest.version)
        if head is not None and await self._of_another_base(adapter, head, manifest):
            return Publication.of(manifest, refusal=BASE_CHANGED)
        route = Route(
            generation=await self._registry.next_generation(adapter, head),
            versions=(RoutedVersion(version=version.version),),
            reason="publish",
            actor=str(job.name),
            create_time=await insist(self._jobs.time),
            nonce=version.version,
        )
        return Publication.of(manifest, route)

    async def _of_another_base(
        self, adapter: AdapterName, head: Route, manifest: AdapterManifest
    ) -> bool:
        """Tell whether the route leads to versions of other bases alone.

        Their replicas could not serve this one. Versions that are gone or broken say nothing.
        """
        bases = set()
        for routed in head.versions:
            with suppress(NotFound, DataCorrupt):
                found = await self._registry.stored_manifest(adapter.version(routed.version))
                bases.add(found.base_model_digest)
        return bool(bases) and manifest.base_model_digest not in bases

    async def _forget(self, version: str) -> None:
        """Delete what was uploaded of a version that will never exist."""
        with _best_effort(version):
            await delete_folder(self._store, version, first=MANIFEST)

    async def _forget_checkpoints(self, job: JobName) -> None:
        with _best_effort(f"{job}/checkpoints"):
            await delete_checkpoints(self._store, job)


def _not_published(error: Exception) -> JobWarning:
    told = error.message if isinstance(error, TailorbirdError) else type(error).__name__
    return JobWarning(
        reason="PUBLICATION_WAITS",
        message=f"the version is committed and cannot be written yet: {told}"[:_MAX_MESSAGE],
    )


def _moved(head: Route | None, manifest: AdapterManifest) -> bool:
    """Tell whether the route is another than the one that the version was held against."""
    decision = manifest.evaluation.decision
    return decision is not None and decision.route_generation != (head.generation if head else 0)


@contextmanager
def _best_effort(folder: str) -> Iterator[None]:
    try:
        yield
    except StoreUnavailable as error:
        # Nothing reads it any more; housekeeping collects it.
        _log.warning("left behind", folder=folder, error=error.message)
