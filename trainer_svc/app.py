"""The composition root: builds the trainer from its settings, runs it, and stops it in order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NoReturn

import structlog
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry

from tailorbird import __version__
from tailorbird.base_model import BaseModelFiles, load_base_model
from tailorbird.edge import Edge, open_edge
from tailorbird.errors import InvalidArgument
from tailorbird.feedback import FeedbackStore
from tailorbird.local_disk import kept_id, locked_folder, shared_filesystem
from tailorbird.names import JobName
from tailorbird.object_store import open_store
from tailorbird.personal_data.modes import Mode
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.server import stop_signal
from tailorbird.service import or_stopped
from tailorbird.store_check import check_store
from tailorbird.tuning.v1 import tuning_service_pb2
from tailorbird.tuning.v1.tuning_service_pb2_grpc import add_TuningServiceServicer_to_server
from trainer_svc.api.servicer import TuningServicer
from trainer_svc.bases import BaseModels, with_further
from trainer_svc.datasets.general import read_general
from trainer_svc.datasets.personal_data import PersonalDataPolicy
from trainer_svc.datasets.quota import DatasetQuotas
from trainer_svc.datasets.sources import DatasetSources
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.assignment import Assignments
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.local_executor import LocalExecutor
from trainer_svc.dispatch.preflight import Preflights
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.dispatch.ray_executor import RayExecutor
from trainer_svc.dispatch.ray_order import RayCluster
from trainer_svc.feedback.service import FeedbackService
from trainer_svc.housekeeping.schedule import Schedule
from trainer_svc.housekeeping.wiring import caches_of, rules_of, stores_of
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.history import History
from trainer_svc.jobs.limits import TenantLimits
from trainer_svc.jobs.model import JobState
from trainer_svc.jobs.service import TuningService
from trainer_svc.jobs.shared_locks import SharedLocks
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.sweep_service import SweepService
from trainer_svc.judgement.safety import SafetyScreen
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.protocol import WorkerSettings
from trainer_svc.served import ServingLimits
from trainer_svc.settings import TrainerSettings

_log = structlog.get_logger(__name__)

# Longer than a worker has to end by itself; twice this fits into the margin that a pod has.
_CANCELLED_SECONDS = 6.0

# One try to read from where a dataset is imported; and of all of them, how long one begins anew.
_SOURCE_SECONDS = 30.0

_SERVICE = tuning_service_pb2.DESCRIPTOR.services_by_name["TuningService"].full_name


async def serve(settings: TrainerSettings) -> int:
    """Run the trainer until SIGTERM or SIGINT; return the exit status."""
    stop = stop_signal()
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    async with AsyncExitStack() as stack:
        # Two trainers on one job store of files would train a job twice.
        stack.enter_context(locked_folder(settings.data_dir, "trainer.lock"))
        edge = open_edge(settings, registry, [_SERVICE], stack)
        starting = _started(settings, edge, registry, stack)
        dispatcher, bases, schedule = await or_stopped(starting, stop, _leave)
        if settings.role != "worker":
            await edge.start()
        running = asyncio.create_task(dispatcher.run())
        stack.push_async_callback(_ended, asyncio.create_task(schedule.run()))
        stack.push_async_callback(_ended, running)
        await edge.server.set_ready(not stop.is_set())
        _log.info(
            "trainer ready",
            version=__version__,
            role=settings.role,
            port=edge.server.port,
            metrics_port=edge.health.port,
            http_port=None if edge.http is None else edge.http.port,
            base_models=[base.name for base in bases.all],
            object_store=settings.object_store_url,
            device=settings.worker_device,
            device_why=settings.told_device.why,
        )
        await _stopped_or_ended(stop, running)
        _log.info("trainer stopping", delay=settings.drain_delay, grace=settings.shutdown_grace)
        await _stop(settings, edge, dispatcher, running)
    _log.info("trainer stopped")
    return 0


async def _started(
    settings: TrainerSettings,
    edge: Edge,
    registry: CollectorRegistry,
    stack: AsyncExitStack,
) -> tuple[Dispatcher, BaseModels, Schedule]:
    """Build the trainer and add it to `edge`; what a lost trainer left is in the queue again."""
    data_dir = settings.data_dir.resolve()
    if not settings.database_url and (kind := shared_filesystem(data_dir)):
        _log.warning(
            "the job store lies on a shared file system, where SQLite may lose it: use a block "
            "volume, or set TAILORBIRD_DATABASE_URL",
            filesystem=kind,
            data_dir=str(data_dir),
        )
    if settings.role != "api" and (unused := settings.told_device.warning):
        _log.warning("a GPU is not used", warning=unused)
    await check_store(settings.object_store_url)
    object_store = open_store(settings.object_store_url, settings.store_retry_timeout)
    database = Database(settings.database)
    stack.push_async_callback(database.close)
    await database.migrate()
    bases = await asyncio.to_thread(_loaded_bases, settings, data_dir / "cache")
    metrics = TrainerMetrics(registry)
    feed = Feed()
    limits_of_tenants = TenantLimits(
        settings.max_queued_jobs, settings.max_running_jobs, settings.max_priority
    )
    jobs = JobStore(database, feed, lease_seconds=settings.lease_seconds, limits=limits_of_tenants)
    policy = PersonalDataPolicy(Mode(settings.personal_data), settings.scanner)
    await asyncio.to_thread(policy.load)
    datasets = DatasetStore(
        object_store,
        data_dir / "uploads",
        settings.max_dataset_bytes,
        settings.max_record_bytes,
        policy,
        DatasetSources(
            settings.dataset_prefixes, partial(open_store, retry_seconds=_SOURCE_SECONDS)
        ),
        DatasetQuotas(object_store, settings.dataset_quota_bytes, settings.dataset_quota_records),
        SharedLocks(database),
    )
    workers = {base.digest: _worker_settings(settings, base) for base in bases.all}
    executor = _executor(settings, workers, bases)
    adapters = AdapterRegistry(object_store)
    dispatcher = Dispatcher(
        jobs,
        datasets,
        adapters,
        executor,
        Publisher(jobs, object_store, metrics),
        metrics,
        bases=bases,
        trainer=kept_id(data_dir, "trainer.id"),
        base_memory=settings.base_memory_bytes,
        workers=0 if settings.role == "api" else settings.workers,
        jobs_per_worker=settings.jobs_per_worker,
        max_worker_losses=settings.max_worker_losses,
        max_attempts=settings.max_attempts,
        set_ready=edge.server.set_ready,
    )
    limits = ServingLimits(
        object_store,
        bases,
        profile=settings.profile,
        max_lora_rank=settings.max_lora_rank,
        device=settings.worker_device,
    )
    checks = Preflights(
        Assignments(datasets, adapters, lambda job: job.spec.base_model_digest), workers
    )
    service = TuningService(
        jobs, datasets, feed, dispatcher, adapters, bases, limits, checks, limits_of_tenants
    )
    servicer = TuningServicer(
        service,
        SweepService(service),
        datasets,
        FeedbackService(
            FeedbackStore(object_store), datasets, max_record_bytes=settings.max_record_bytes
        ),
        metrics,
        edge.server.endless,
        max_dataset_bytes=settings.max_dataset_bytes,
        max_record_bytes=settings.max_record_bytes,
        workers=settings.workers,
        jobs_per_worker=settings.jobs_per_worker,
        device=settings.worker_device,
        ready=executor.ready,
    )
    add_TuningServiceServicer_to_server(servicer, edge.server.grpc)
    if edge.http is not None:
        # Only here: the extra may be missing where no HTTP is asked for.
        from trainer_svc.http.routes import routes

        most = settings.max_dataset_bytes
        edge.http.add(routes(service, datasets, History(jobs), bases, metrics, most))
    await dispatcher.recover()
    _listen(database, feed, dispatcher, stack)
    schedule = Schedule(
        stores_of(settings, database, object_store, datasets.turn),
        rules_of(settings),
        metrics,
        timedelta(hours=settings.collect_interval_hours),
    )
    return dispatcher, bases, schedule


def _listen(database: Database, feed: Feed, dispatcher: Dispatcher, stack: AsyncExitStack) -> None:
    """Hear at once what other trainers change, where the database can tell."""

    def heard(job: JobName, state: str) -> None:
        feed.publish(job)
        dispatcher.heard(job, JobState(state))

    def gap() -> None:
        feed.publish_all()
        dispatcher.wake()

    listening = asyncio.create_task(database.notices(heard, gap).run())
    stack.push_async_callback(_ended, listening)


def _loaded_bases(settings: TrainerSettings, cache: Path) -> BaseModels:
    default = load_base_model(
        settings.base_model,
        cache,
        settings.base_model_name,
        expected_digest=settings.base_model_digest,
    )
    return with_further(default, settings.more_base_models, cache, settings.base_memory_gib)


def _worker_settings(settings: TrainerSettings, base: BaseModelFiles) -> WorkerSettings:
    return WorkerSettings(
        object_store=settings.object_store_url,
        store_retry_timeout=settings.store_retry_timeout,
        base_model_path=str(base.path),
        base_model_name=base.name,
        base_model_digest=base.digest,
        chat_template_digest=base.chat_template_digest,
        device=settings.worker_device,
        gpu_memory_share=settings.worker_gpu_memory_share,
        gradient_checkpointing=settings.gradient_checkpointing,
        threads=settings.worker_threads,
        scratch_dir=str(settings.data_dir.resolve() / "scratch"),
        cache_dir=str(caches_of(settings)),
        cache_bytes=settings.dataset_cache_bytes,
        general_data=_general_data(settings.general_data),
        safety_lists=_safety_lists(settings.safety_lists),
        silence_seconds=settings.worker_silence_seconds,
        progress_interval=settings.progress_interval,
        log_format=settings.log_format,
        log_level=settings.log_level,
    )


def _executor(
    settings: TrainerSettings, workers: Mapping[str, WorkerSettings], bases: BaseModels
) -> LocalExecutor | RayExecutor:
    """Return what starts the workers; FailedPrecondition if that is not installed."""
    memory = settings.worker_memory_bytes
    if not settings.ray_address:
        return LocalExecutor(workers, gpus=settings.gpus, memory=memory)
    models = [settings.base_model, *(each.model for each in settings.more_base_models)]
    digests = [base.digest for base in bases.all]
    cluster = RayCluster(
        address=settings.ray_address,
        cpus=settings.ray_worker_cpus,
        gpus=settings.ray_worker_gpus,
        memory=memory,
        resources=settings.ray_worker_resources,
        data_dir=str(settings.ray_data_dir or settings.data_dir.resolve()),
        room_seconds=settings.ray_room_seconds,
        silence_seconds=settings.ray_silence_seconds,
    )
    return RayExecutor(workers, dict(zip(digests, models, strict=True)), cluster)


def _general_data(path: Path | None) -> str:
    """Return where the file is; InvalidArgument if a worker could not read it."""
    if path is None:
        return ""
    read_general(path)
    return str(path.resolve())


def _safety_lists(path: Path | None) -> str:
    """Return the file's text; InvalidArgument if it cannot be read or is no screen."""
    if path is None:
        return ""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument("safety_lists", f"{path} cannot be read: {error}") from error
    try:
        SafetyScreen.parse(text, str(path))
    except InvalidArgument as error:
        raise InvalidArgument("safety_lists", error.message) from error
    return text


async def _stop(
    settings: TrainerSettings,
    edge: Edge,
    dispatcher: Dispatcher,
    running: asyncio.Task[None],
) -> None:
    """Stop both at the same time: workers checkpoint from now on, while calls are still taken.

    Whatever ended the dispatcher is raised.
    """
    delay, grace = settings.drain_delay, settings.shutdown_grace
    ended = await asyncio.gather(
        edge.stop(grace, delay=delay),
        _let_go(dispatcher, running, delay + grace),
        return_exceptions=True,
    )
    for error in ended:
        if isinstance(error, BaseException):
            raise error


async def _let_go(dispatcher: Dispatcher, running: asyncio.Task[None], seconds: float) -> None:
    """Let workers checkpoint for so long."""
    await dispatcher.stop()
    try:
        async with asyncio.timeout(seconds):
            await asyncio.shield(running)
    except TimeoutError:
        await _ended(running)


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel `task`, and wait until it has ended.

    What hangs in the database's rollback, or in a worker's end, is cancelled there again.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCELLED_SECONDS)


async def _stopped_or_ended(stop: asyncio.Event, running: asyncio.Task[None]) -> None:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


def _leave() -> NoReturn:
    """End at once: nothing is begun that the next start does not find as it was."""
    os._exit(0)
