"""The composition root: builds the trainer from its settings, runs it, and stops it in order."""

from __future__ import annotations

import asyncio

import structlog
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry

from tailorbird import __version__
from tailorbird.base_model import load_base_model
from tailorbird.local_disk import locked_folder
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.auth import TokenVerifier
from tailorbird.rpc.server import RpcServer, stop_signal
from tailorbird.telemetry import HealthServer
from tailorbird.tuning.v1 import tuning_service_pb2
from tailorbird.tuning.v1.tuning_service_pb2_grpc import add_TuningServiceServicer_to_server
from trainer_svc.database import Database
from trainer_svc.datasets import DatasetStore
from trainer_svc.dispatcher import Dispatcher
from trainer_svc.executor import LocalExecutor
from trainer_svc.feed import Feed
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.protocol import WorkerSettings
from trainer_svc.publisher import Publisher
from trainer_svc.service import TuningService
from trainer_svc.servicer import TuningServicer
from trainer_svc.settings import TrainerSettings
from trainer_svc.store import JobStore

_log = structlog.get_logger(__name__)

_SERVICE = tuning_service_pb2.DESCRIPTOR.services_by_name["TuningService"].full_name


async def serve(settings: TrainerSettings) -> int:
    """Run the trainer until SIGTERM or SIGINT; return the exit status."""
    stop = stop_signal()
    # Two trainers on one job store of files would train a job twice.
    with locked_folder(settings.data_dir, "trainer.lock"):
        await _serve(settings, stop)
    return 0


async def _serve(settings: TrainerSettings, stop: asyncio.Event) -> None:
    data_dir = settings.data_dir.resolve()
    verifier = TokenVerifier.from_file(settings.tokens_file) if settings.tokens_file else None
    object_store = open_store(settings.object_store_url)
    base = await asyncio.to_thread(
        load_base_model, settings.base_model, data_dir / "cache", settings.base_model_name
    )
    prometheus = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        prometheus.register(collector)
    metrics = TrainerMetrics(prometheus)
    server = RpcServer(settings.host, settings.port, verifier, prometheus, [_SERVICE])
    health = HealthServer(
        settings.host, settings.metrics_port, prometheus, ready=lambda: server.ready
    )
    database = Database(settings.database)
    await database.migrate()
    feed = Feed()
    jobs = JobStore(database, feed)
    datasets = DatasetStore(
        object_store, data_dir / "uploads", settings.max_dataset_bytes, settings.max_record_bytes
    )
    executor = LocalExecutor(
        WorkerSettings(
            object_store=settings.object_store_url,
            base_model_path=str(base.path),
            base_model_name=base.name,
            base_model_digest=base.digest,
            chat_template_digest=base.chat_template_digest,
            device=settings.worker_device,
            gpu_memory_share=settings.worker_gpu_memory_share,
            threads=settings.worker_threads,
            scratch_dir=str(data_dir / "scratch"),
            progress_interval=settings.progress_interval,
        )
    )
    dispatcher = Dispatcher(
        jobs,
        datasets,
        AdapterRegistry(object_store),
        executor,
        Publisher(jobs, object_store, metrics),
        metrics,
        workers=settings.workers,
        max_worker_losses=settings.max_worker_losses,
    )
    service = TuningService(
        jobs,
        datasets,
        feed,
        dispatcher,
        object_store,
        base,
        profile=settings.profile,
        max_lora_rank=settings.max_lora_rank,
    )
    servicer = TuningServicer(
        service,
        datasets,
        base,
        metrics,
        max_dataset_bytes=settings.max_dataset_bytes,
        max_record_bytes=settings.max_record_bytes,
        workers=settings.workers,
        device=settings.worker_device,
    )
    add_TuningServiceServicer_to_server(servicer, server.grpc)
    await dispatcher.recover()
    await server.start()
    health.start()
    running = asyncio.create_task(dispatcher.run())
    stopping = asyncio.create_task(stop.wait())
    try:
        await server.set_ready(True)
        _log.info(
            "trainer ready",
            version=__version__,
            port=server.port,
            metrics_port=health.port,
            base_model=base.name,
            object_store=settings.object_store_url,
            device=settings.worker_device,
        )
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        _log.info("trainer stopping", grace=settings.shutdown_grace)
        ended = await asyncio.gather(
            server.stop(settings.shutdown_grace),
            _stop(dispatcher, running, settings.shutdown_grace),
            return_exceptions=True,
        )
        for error in ended:
            if isinstance(error, BaseException):
                raise error
    finally:
        stopping.cancel()
        health.stop()
        await database.close()
    _log.info("trainer stopped")


async def _stop(dispatcher: Dispatcher, running: asyncio.Task[None], grace: float) -> None:
    """Let workers checkpoint for `grace` seconds; whatever ended the dispatcher is raised."""
    await dispatcher.stop()
    try:
        async with asyncio.timeout(grace):
            await asyncio.shield(running)
    except TimeoutError:
        running.cancel()
        await asyncio.wait({running})
