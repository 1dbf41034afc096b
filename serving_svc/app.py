"""The composition root: builds serving from its settings, and the order of its start and stop."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import structlog
from prometheus_client import CollectorRegistry

from serving_svc.adapters.disk import has_versions
from serving_svc.engine.base import load_servable_base
from serving_svc.engine.launch import engine_starter, prepare_environment
from serving_svc.engine.machine import read_machine
from serving_svc.engine.plan import Asked, plan_engine
from serving_svc.feedback.redaction import Redactor
from serving_svc.metrics import ServingMetrics
from serving_svc.settings import ServingSettings
from tailorbird.address import authority
from tailorbird.devices import gpu_signs
from tailorbird.edge import Edge, open_edge
from tailorbird.errors import StoreUnavailable
from tailorbird.local_disk import locked_folder
from tailorbird.personal_data.modes import Mode
from tailorbird.rpc.server import stop_signal
from tailorbird.service import or_stopped
from tailorbird.store_check import check_store

if TYPE_CHECKING:
    from serving_svc.parts import Parts

_log = structlog.get_logger(__name__)

_SERVICES = (
    "tailorbird.serving.v1.InferenceService",
    "tailorbird.adapters.v1.AdapterService",
)


async def serve(settings: ServingSettings) -> int:
    """Serve until SIGTERM, and return 0; return 1 when the engine cannot be kept alive."""
    stop = stop_signal()
    folder = settings.data_dir.resolve() / "serving"
    registry = CollectorRegistry()
    async with AsyncExitStack() as stack:
        stack.enter_context(locked_folder(folder, "lock"))
        edge = open_edge(settings, registry, _SERVICES, stack)
        server = edge.server
        starting = _started(settings, edge, registry, folder, stack)
        parts = await or_stopped(starting, stop, _exit_now)
        await edge.start()
        # Its calls find the engine: what is warm is warm before anybody is sent here.
        await _or_ended(parts.warm(), stop)
        await server.set_ready(not stop.is_set())
        _log.info(
            "serving",
            base_model=parts.profile.base_model,
            grpc=authority(settings.host, server.port),
            metrics=authority(settings.host, edge.health.port),
            http=None if edge.http is None else authority(settings.host, edge.http.port),
            dtype=parts.profile.dtype,
            adapter_slots=parts.profile.adapter_slots,
        )
        watching = asyncio.create_task(parts.supervisor.run())
        stack.push_async_callback(_cancelled, watching)
        gave_up = await _stopped_or_gave_up(stop, watching)
        if gave_up:
            _log.error("the engine cannot be kept alive; exiting, to be started again")
        else:
            _log.info("stopping", delay=settings.drain_delay, grace=settings.shutdown_grace)
        if gave_up:
            await edge.stop(0)
        else:
            await edge.stop(settings.shutdown_grace, delay=settings.drain_delay)
    _log.info("stopped")
    if parts.supervisor.starting:
        _exit_now()
    return 1 if gave_up else 0


async def _started(
    settings: ServingSettings,
    edge: Edge,
    registry: CollectorRegistry,
    folder: Path,
    stack: AsyncExitStack,
) -> Parts:
    await _check_store(settings.object_store_url, folder)
    redactor = _redactor(settings)
    if redactor is not None:
        stack.callback(redactor.close)
        await asyncio.to_thread(redactor.start)
    base = await load_servable_base(
        settings.base_model,
        settings.data_dir.resolve() / "cache",
        settings.base_model_name,
        settings.dtype,
        expected_digest=settings.base_model_digest,
    )
    kv_cache_gib = prepare_environment(settings.kv_cache_gib, settings.log_format, folder)
    machine = await asyncio.to_thread(read_machine, kv_cache_gib, settings.gpu_memory_utilization)
    _tell_device(machine.on_cpu)
    plan = plan_engine(base.dimensions, machine, _asked(settings))
    for line in plan.lines:
        _log.info("plan", line=line)
    start_engine = engine_starter(
        base.files,
        plan,
        base.lora_modules,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        gpu_memory_utilization=settings.gpu_memory_utilization,
        enforce_eager=settings.enforce_eager,
        tool_call_parser=settings.tool_call_parser,
    )
    metrics = ServingMetrics(registry, settings.metrics_tenants)
    engine = await start_engine()
    # It imports vLLM, which reads the environment.
    from serving_svc.parts import Parts

    parts = Parts(
        settings, base, plan, engine, start_engine, edge.server.set_ready, metrics, folder, redactor
    )
    await parts.open(stack)
    parts.serve(edge)
    return parts


def _tell_device(on_cpu: bool) -> None:
    if not on_cpu:
        _log.info("device", device="cuda", why="vLLM finds a GPU")
        return
    _log.info("device", device="cpu", why="vLLM is a build for CPUs, or finds no GPU")
    if signs := gpu_signs():
        _log.warning(
            "a GPU is not used: install vLLM's build for it (the extra serving) and look at the "
            "driver (nvidia-smi)",
            signs=signs,
        )


async def _check_store(url: str, folder: Path) -> None:
    """Refuse to start without a store, unless there are adapters on disk to be served."""
    try:
        await check_store(url)
    except StoreUnavailable as error:
        if not has_versions(folder / "adapters"):
            raise
        _log.warning("starting with the adapters on disk alone", error=error.message)


def _redactor(settings: ServingSettings) -> Redactor | None:
    """Return what rids feedback of personal data, or None where no tenant may record any."""
    if not settings.feedback_tenants:
        return None
    return Redactor(settings.scanner, Mode(settings.feedback_personal_data))


def _asked(settings: ServingSettings) -> Asked:
    budget = settings.adapter_memory_gib
    return Asked(
        max_lora_rank=settings.max_lora_rank,
        tensor_parallel_size=settings.tensor_parallel_size,
        adapter_slots=settings.adapter_slots,
        adapter_memory=None if budget is None else int(budget * 2**30),
        max_cpu_loras=settings.max_cpu_loras,
        max_running=settings.max_running,
        max_step_tokens=settings.max_step_tokens,
    )


def _exit_now() -> NoReturn:
    """End the process at once: the thread that builds an engine cannot be interrupted."""
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(0)


async def _cancelled(task: asyncio.Task[None]) -> None:
    """Cancel `task`, and wait until it has ended."""
    task.cancel()
    await asyncio.wait({task})


async def _or_ended(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Wait for `work`, or until it is to stop."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        return
    task.result()


async def _stopped_or_gave_up(stop: asyncio.Event, watching: asyncio.Task[None]) -> bool:
    """Wait for either; return whether the engine was given up."""
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, watching}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if watching.done():
        watching.result()
    return watching.done()
