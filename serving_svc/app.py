"""The composition root: builds serving from its settings, and the order of its start and stop."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import math
import multiprocessing
import os
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from serving_svc.adapters.adapter_cache import AdapterCache
from serving_svc.adapters.fetch import AdapterFetcher
from serving_svc.adapters.gate import (
    LINEAR_MODULES,
    PROBE_FLOOR_DEFAULT,
    PROBE_FLOORS,
    ServedBase,
    linear_layers,
)
from serving_svc.adapters.router import Router
from serving_svc.adapters.safetensors_file import read_shapes
from serving_svc.adapters.service import Adapters
from serving_svc.api import convert
from serving_svc.api.servicer import AdapterServicer, InferenceServicer
from serving_svc.engine.machine import read_machine
from serving_svc.engine.plan import Asked, BaseDimensions, EnginePlan, plan_engine
from serving_svc.generation.service import Generations
from serving_svc.metrics import ServingMetrics
from serving_svc.settings import ServingSettings
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as adapters_grpc
from tailorbird.base_model import BaseModelFiles, load_base_model
from tailorbird.errors import FailedPrecondition
from tailorbird.local_disk import locked_folder
from tailorbird.object_store import open_store
from tailorbird.profile import ServingProfile, write_profile
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.auth import TokenVerifier
from tailorbird.rpc.server import RpcServer, stop_signal
from tailorbird.serving.v1 import inference_service_pb2_grpc as inference_grpc
from tailorbird.telemetry import HealthServer

if TYPE_CHECKING:
    from serving_svc.engine.vllm_engine import VllmEngine

_log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_SERVICES = (
    "tailorbird.serving.v1.InferenceService",
    "tailorbird.adapters.v1.AdapterService",
)
# After an engine's death: time for the errors of the requests inside to reach their callers.
_DEATH_GRACE_SECONDS = 2.0


async def serve(settings: ServingSettings) -> int:
    """Serve until SIGTERM, and return 0; return 1 when the engine has died."""
    stop = stop_signal()
    folder = settings.data_dir.resolve() / "serving"
    registry = CollectorRegistry()
    verifier = TokenVerifier.from_file(settings.tokens_file) if settings.tokens_file else None
    server = RpcServer(settings.host, settings.port, verifier, registry, _SERVICES)
    health = HealthServer(
        settings.host, settings.metrics_port, registry, ready=lambda: server.ready
    )
    async with AsyncExitStack() as stack:
        stack.enter_context(locked_folder(folder, "lock"))
        health.start()
        stack.callback(health.stop)
        base = await asyncio.to_thread(
            load_base_model, settings.base_model, folder, settings.base_model_name
        )
        shapes = await asyncio.to_thread(_shapes, base)
        linear = linear_layers(shapes)
        plan = await asyncio.to_thread(_planned, settings, base, shapes, linear)
        engine = await _or_stopped(_started_engine(settings, base, linear, plan), stop)
        stack.push_async_callback(engine.shutdown)
        await _compose(settings, base, linear, plan, engine, server, registry, folder, stack)
        await server.start()
        await server.set_ready(True)
        _log.info(
            "serving",
            base_model=base.name,
            grpc=f"{settings.host}:{server.port}",
            metrics=f"{settings.host}:{health.port}",
            dtype=engine.dtype,
            adapter_slots=plan.adapter_slots,
        )
        died = await _stopped_or_died(stop, engine)
        if died:
            _log.error("the engine died; exiting, to be started again")
        else:
            _log.info("stopping", grace_seconds=settings.shutdown_grace)
        await server.stop(_DEATH_GRACE_SECONDS if died else settings.shutdown_grace)
    _log.info("stopped")
    return 1 if died else 0


async def _compose(
    settings: ServingSettings,
    base: BaseModelFiles,
    linear: Mapping[str, tuple[int, int]],
    plan: EnginePlan,
    engine: VllmEngine,
    server: RpcServer,
    metrics_registry: CollectorRegistry,
    folder: Path,
    stack: AsyncExitStack,
) -> None:
    """Put the parts together, and write the profile."""
    limits = engine.limits
    profile = ServingProfile(
        profile=settings.profile,
        base_model=base.name,
        base_model_digest=base.digest,
        chat_template_digest=base.chat_template_digest,
        max_model_len=limits.max_model_len,
        max_lora_rank=settings.max_lora_rank,
        adapter_slots=plan.adapter_slots,
        dtype=engine.dtype,
    )
    served = ServedBase(
        digest=base.digest,
        chat_template_digest=base.chat_template_digest,
        linear=linear,
        vocab_size=limits.vocab_size,
        max_model_len=limits.max_model_len,
        max_lora_rank=settings.max_lora_rank,
    )
    adapters = AdapterRegistry(open_store(settings.object_store_url))
    fetcher = AdapterFetcher(adapters, served, folder / "adapters", settings.max_adapter_bytes)
    await asyncio.to_thread(fetcher.clear)
    metrics = ServingMetrics(metrics_registry, settings.metrics_tenants)
    cache = AdapterCache(
        engine,
        fetcher,
        metrics,
        slots=plan.adapter_slots,
        max_disk_bytes=settings.adapter_cache_bytes,
        probe_floor=PROBE_FLOORS.get(engine.dtype, PROBE_FLOOR_DEFAULT),
    )
    stack.push_async_callback(cache.close)
    router = Router(adapters, cache.warm, cache.retire, metrics, settings.route_poll_interval)
    stack.push_async_callback(router.close)
    polling = asyncio.create_task(router.run())
    stack.callback(polling.cancel)
    info = convert.server_info(profile, importlib.metadata.version("tailorbird"))
    generations = Generations(engine, router, cache, metrics, limits)
    inference_grpc.add_InferenceServiceServicer_to_server(
        InferenceServicer(generations, info, limits.vocab_size), server.grpc
    )
    adapters_grpc.add_AdapterServiceServicer_to_server(
        AdapterServicer(Adapters(adapters, router, cache)), server.grpc
    )
    await write_profile(adapters.store, profile)


def _shapes(base: BaseModelFiles) -> dict[str, tuple[int, ...]]:
    try:
        return read_shapes(base.path)
    except (OSError, ValueError) as error:
        raise _unusable(base, error) from error


def _planned(
    settings: ServingSettings,
    base: BaseModelFiles,
    shapes: Mapping[str, tuple[int, ...]],
    linear: Mapping[str, tuple[int, int]],
) -> EnginePlan:
    # Read by vLLM when it is imported and in the processes it starts; what the user set stands.
    level = os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    # What it logs before it has set up its own logging.
    logging.getLogger("vllm").setLevel(level)
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    # Its worker does not end by itself: waiting longer than this for it gains nothing.
    os.environ.setdefault("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "1")
    kv_cache_gib = int(os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(settings.kv_cache_gib)))
    dimensions = BaseDimensions.read(
        json.loads((base.path / "config.json").read_text()),
        linear,
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        dtype=settings.dtype,
    )
    budget = settings.adapter_memory_gib
    plan = plan_engine(
        dimensions,
        read_machine(kv_cache_gib, settings.gpu_memory_utilization),
        Asked(
            max_lora_rank=settings.max_lora_rank,
            tensor_parallel_size=settings.tensor_parallel_size,
            adapter_slots=settings.adapter_slots,
            adapter_memory=None if budget is None else int(budget * 2**30),
            max_cpu_loras=settings.max_cpu_loras,
            max_running=settings.max_running,
        ),
    )
    for line in plan.lines:
        _log.info("plan", line=line)
    return plan


def _unusable(base: BaseModelFiles, error: Exception) -> FailedPrecondition:
    text = " ".join(str(error).split())[:500]
    return FailedPrecondition(
        f"the base model {base.name} cannot be loaded: {type(error).__name__}: {text}",
        reason="BASE_UNUSABLE",
    )


async def _started_engine(
    settings: ServingSettings, base: BaseModelFiles, linear: Iterable[str], plan: EnginePlan
) -> VllmEngine:
    modules = sorted({name.rpartition(".")[2] for name in linear})
    if not modules:
        raise FailedPrecondition(
            f"{base.name} has none of the layers {sorted(LINEAR_MODULES)} that adapters may change",
            reason="BASE_UNSUPPORTED",
        )
    try:
        engine = await asyncio.to_thread(_build_engine, settings, base.path, modules, plan)
    except Exception as error:
        raise _unusable(base, error) from error
    try:
        await engine.check()
    except BaseException:
        await engine.shutdown()
        raise
    return engine


def _build_engine(
    settings: ServingSettings, model: Path, modules: list[str], plan: EnginePlan
) -> VllmEngine:
    from serving_svc.engine.vllm_engine import EngineConfig, VllmEngine

    return VllmEngine.build(
        EngineConfig(
            model=model,
            dtype=settings.dtype,
            max_model_len=settings.max_model_len,
            adapter_slots=plan.adapter_slots,
            max_lora_rank=settings.max_lora_rank,
            lora_modules=modules,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            enforce_eager=settings.enforce_eager,
        )
    )


async def _or_stopped(starting: Coroutine[Any, Any, _T], stop: asyncio.Event) -> _T:
    """Return what `starting` returns. A stop meanwhile ends the process: it has no calls yet."""
    task, stopped = asyncio.create_task(starting), asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        _log.info("stopped while starting")
        for child in multiprocessing.active_children():
            child.terminate()
        # The thread that builds the engine cannot be interrupted.
        os._exit(0)
    stopped.cancel()
    return task.result()


async def _stopped_or_died(stop: asyncio.Event, engine: VllmEngine) -> bool:
    stopped, died = asyncio.create_task(stop.wait()), asyncio.create_task(engine.died())
    await asyncio.wait({stopped, died}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    died.cancel()
    return died.done()
