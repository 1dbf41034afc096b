"""Puts serving's parts together around one engine and those that follow it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import itertools
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog

from serving_svc.adapters.disk import AdapterDisk, Deletions
from serving_svc.adapters.gate import PROBE_FLOOR_DEFAULT, PROBE_FLOORS, ServedBase
from serving_svc.adapters.hot import HotList
from serving_svc.adapters.importing import AdapterImporter, ImportSources
from serving_svc.adapters.refusals import Refusals
from serving_svc.adapters.residency import Residency
from serving_svc.adapters.routing import Router, RoutesOnDisk
from serving_svc.adapters.service import Adapters
from serving_svc.adapters.workers import Workers
from serving_svc.api.adapter_servicer import AdapterServicer
from serving_svc.api.convert_answers import server_info
from serving_svc.api.inference_servicer import InferenceServicer
from serving_svc.engine.base import ServableBase
from serving_svc.engine.plan import EnginePlan
from serving_svc.engine.structures import StructureChecker
from serving_svc.engine.supervisor import Supervisor, Watch
from serving_svc.engine.vllm_engine import VllmEngine
from serving_svc.feedback.quota import DailyQuota
from serving_svc.feedback.redaction import Redactor
from serving_svc.feedback.service import FeedbackRecorder
from serving_svc.generation.life import Life, PresentEngine
from serving_svc.generation.residents import Residents
from serving_svc.generation.scheduler import Scheduler, SchedulerLimits
from serving_svc.generation.service import Generations
from serving_svc.generation.slot_loader import SlotLoader
from serving_svc.generation.state import PresentState
from serving_svc.generation.warming import Warmer
from serving_svc.metrics import ServingMetrics
from serving_svc.settings import ServingSettings
from tailorbird.adapters.v1 import adapter_service_pb2_grpc as adapters_grpc
from tailorbird.edge import Edge
from tailorbird.errors import StoreUnavailable, TailorbirdError
from tailorbird.feedback import FeedbackStore
from tailorbird.names import AdapterName, VersionName
from tailorbird.object_store import open_store
from tailorbird.profile import ServingProfile, write_profile
from tailorbird.registry import AdapterRegistry
from tailorbird.serving.v1 import inference_service_pb2_grpc as inference_grpc

_log = structlog.get_logger(__name__)

# How often what is in the engine is noted for a pod that comes after this one, in seconds.
_HOT_SECONDS = 30.0
_DELETIONS_SECONDS = 600.0
_PROFILE_RETRY_SECONDS = 10.0
# Failed starts, or lives that end within minutes, in a row.
_RESTARTS = 5


class Parts:
    """Everything between the servicers and the engine; `open` before use, `close` after."""

    def __init__(
        self,
        settings: ServingSettings,
        base: ServableBase,
        plan: EnginePlan,
        engine: VllmEngine,
        start_engine: Callable[[], Awaitable[VllmEngine]],
        ready: Callable[[bool], Awaitable[None]],
        metrics: ServingMetrics,
        folder: Path,
        redactor: Redactor | None,
    ) -> None:
        self._settings = settings
        self._plan = plan
        self._engine = engine
        self._metrics = metrics
        self._registry = AdapterRegistry(
            open_store(settings.object_store_url, settings.store_retry_timeout)
        )
        self._probe_floor = PROBE_FLOORS.get(engine.dtype, PROBE_FLOOR_DEFAULT)
        self._engine_ids = itertools.count(1)
        self._limits = engine.limits
        self.profile = _profile(settings, base, plan, engine)
        served = _served(base, plan, engine)
        self._refusals = Refusals(metrics)
        self.disk = AdapterDisk(
            self._registry,
            served,
            self._refusals,
            folder / "adapters",
            max_bytes=settings.adapter_cache_bytes,
            max_weights_bytes=settings.max_adapter_bytes,
            concurrent=settings.adapter_fetches,
            stall_seconds=settings.fetch_stall_timeout,
        )
        self.supervisor = Supervisor(
            start_engine, self._live, self._restore, ready, _watch(settings), metrics
        )
        self.warmer = Warmer(self.supervisor, self.disk)
        self._saved_routes = RoutesOnDisk(folder / "routes")
        self.router = Router(
            self._registry,
            self.warmer,
            metrics,
            self._saved_routes,
            poll_interval=settings.route_poll_interval,
        )
        self._hot = HotList(
            self._registry.store,
            settings.profile,
            settings.replica,
            self._loaded,
            interval=_HOT_SECONDS,
        )
        self._deletions = Deletions(
            self._registry, self._held, self.router.deleted, interval=_DELETIONS_SECONDS
        )
        self._import_workers = Workers(settings.adapter_fetches)
        self._importer = AdapterImporter(
            self._registry,
            served,
            base.files.name,
            PresentEngine(self.supervisor),
            self.warmer,
            ImportSources(settings.import_prefixes, self._import_workers, open_store),
            self._import_workers,
            folder / "imports",
            max_weights_bytes=settings.max_adapter_bytes,
            probe_floor=self._probe_floor,
            stall_seconds=settings.fetch_stall_timeout,
        )
        self._structures = StructureChecker()
        self._recorder = _recorder(settings, self._registry, redactor, metrics)
        self.supervisor.begin(engine)
        metrics.slots.set(plan.adapter_slots)
        metrics.watch(
            PresentState(
                self.supervisor, self.warmer, base.files.name, plan.adapter_slots, self._cache
            )
        )

    async def open(self, stack: AsyncExitStack) -> None:
        """Take over what an earlier process left on disk, and begin to look after it."""
        stack.push_async_callback(self.supervisor.close)
        stack.push_async_callback(self._structures.close)
        stack.push_async_callback(self._import_workers.close)
        await self._importer.open()
        stack.push_async_callback(self.disk.close)
        await self.disk.open()
        stack.push_async_callback(self._saved_routes.close)
        stack.push_async_callback(self.router.close)
        for work in (
            self.router.run(),
            self._hot.run(),
            self._deletions.run(),
            self._write_profile(),
        ):
            task = asyncio.create_task(work)
            stack.callback(task.cancel)

    async def warm(self) -> None:
        """Bring into the engine what the settings name and what was hot; what fails is logged."""
        # At the same time: a store that hangs may keep each of them for seconds.
        named = await asyncio.gather(*map(self._version_of, self._settings.warm))
        hot = await self._hot.to_warm(self.disk, self._refusals, self._plan.adapter_slots)
        await self._restore([version for version in (*named, *hot) if version is not None])

    def serve(self, edge: Edge) -> None:
        """Add the services to `edge`."""
        server = edge.server
        generations = Generations(
            self.supervisor, self.router, self.disk, self._structures, self._metrics, self._limits
        )
        adapters = Adapters(
            self._registry,
            self.router,
            self.warmer,
            self._refusals,
            slots=self._plan.adapter_slots,
        )
        residents = Residents(self.supervisor, self.router, self.warmer, self.disk, self._refusals)
        info = server_info(
            self.profile, importlib.metadata.version("tailorbird"), self._settings.replica
        )
        inference_grpc.add_InferenceServiceServicer_to_server(
            InferenceServicer(
                generations,
                self._recorder,
                info,
                self._limits.vocab_size,
                max_prompt_tokens=self._limits.max_model_len,
                max_feedback_bytes=self._settings.feedback_max_record_bytes,
                reader_patience=self._settings.stream_stall_timeout,
            ),
            server.grpc,
        )
        adapters_grpc.add_AdapterServiceServicer_to_server(
            AdapterServicer(adapters, residents, self._importer, self._settings.replica),
            server.grpc,
        )
        if edge.http is not None:
            # The extra `http` is there, then.
            from serving_svc.http.convert_request import Served
            from serving_svc.http.models import Models
            from serving_svc.http.routes import OpenAiRoutes

            limits, base = self._limits, self.profile.base_model
            models = Models(adapters, base, limits.max_model_len, datetime.now(UTC))
            served = Served(base, limits.vocab_size, limits.max_model_len)
            patience = self._settings.stream_stall_timeout
            edge.http.add(OpenAiRoutes(generations, models, served, reader_patience=patience).all())

    def _cache(self) -> tuple[float, int, int]:
        return self._engine.kv_cache_usage, *self._engine.kv_cache_blocks

    def _live(self, engine: VllmEngine) -> Life:
        self._engine = engine
        residency = Residency(
            engine,
            self.disk,
            self._refusals,
            self._metrics,
            probe_floor=self._probe_floor,
            engine_ids=self._engine_ids,
            most_kept=self._plan.max_cpu_loras - self._plan.adapter_slots,
        )
        loader = SlotLoader(residency)
        limits = scheduler_limits(self._settings, self._plan)
        scheduler = Scheduler(loader, limits, slots=self._plan.adapter_slots)
        return Life(engine, residency, scheduler, loader)

    def _held(self) -> set[VersionName]:
        """Return the versions of which there is a copy here: on disk, in slots or in memory."""
        found = {held.version for held in self.disk.versions()}
        with suppress(TailorbirdError):
            residency = self.supervisor.current().residency
            found |= {*residency.versions(), *residency.kept()}
        return found

    def _loaded(self) -> Sequence[VersionName]:
        with suppress(TailorbirdError):
            return self.supervisor.current().residency.versions()
        return ()

    async def _restore(self, versions: Sequence[VersionName]) -> None:
        await self.warmer.restore(versions, self._plan.adapter_slots)

    async def _version_of(self, name: str) -> VersionName | None:
        if "/versions/" in name:
            return VersionName.parse(name)
        try:
            return (await self.router.resolve(AdapterName.parse(name))).version
        except TailorbirdError as error:
            _log.warning("not warmed", adapter=name, error=error.message)
            return None

    async def _write_profile(self) -> None:
        """Tell the trainer what is served here; a store that is down is tried again."""
        while True:
            try:
                await write_profile(self._registry.store, self.profile)
                return
            except StoreUnavailable as error:
                _log.warning("profile not written", error=error.message)
            await asyncio.sleep(_PROFILE_RETRY_SECONDS)


def _profile(
    settings: ServingSettings, base: ServableBase, plan: EnginePlan, engine: VllmEngine
) -> ServingProfile:
    return ServingProfile(
        profile=settings.profile,
        base_model=base.files.name,
        base_model_digest=base.files.digest,
        chat_template_digest=base.files.chat_template_digest,
        max_model_len=engine.limits.max_model_len,
        max_lora_rank=plan.max_lora_rank,
        adapter_slots=plan.adapter_slots,
        dtype=engine.dtype,
    )


def _served(base: ServableBase, plan: EnginePlan, engine: VllmEngine) -> ServedBase:
    return ServedBase(
        digest=base.files.digest,
        chat_template_digest=base.files.chat_template_digest,
        linear=base.linear,
        vocab_size=engine.limits.vocab_size,
        max_model_len=engine.limits.max_model_len,
        max_lora_rank=plan.max_lora_rank,
        dtype=engine.dtype,
    )


def _recorder(
    settings: ServingSettings,
    registry: AdapterRegistry,
    redactor: Redactor | None,
    metrics: ServingMetrics,
) -> FeedbackRecorder:
    store = FeedbackStore(registry.store)
    return FeedbackRecorder(
        store,
        registry,
        redactor,
        DailyQuota(store, settings.feedback_records_per_day),
        metrics.feedback,
        tenants=settings.feedback_allowed,
        max_record_bytes=settings.feedback_max_record_bytes,
    )


def _watch(settings: ServingSettings) -> Watch:
    return Watch(
        stall=settings.stall_timeout,
        idle=settings.stall_timeout / 2,
        longest_delay=settings.engine_restart_backoff_max,
        attempts=_RESTARTS,
    )


def scheduler_limits(settings: ServingSettings, plan: EnginePlan) -> SchedulerLimits:
    """Return what the scheduler holds callers to."""
    return SchedulerLimits(
        max_running=plan.max_running,
        max_waiting=settings.max_waiting,
        tenant_max_running=settings.tenant_max_running,
        tenant_max_waiting=settings.tenant_max_waiting,
        requests_per_second=settings.tenant_requests_per_second,
        tokens_per_minute=settings.tenant_tokens_per_minute,
        quantum_tokens=settings.fair_quantum_tokens,
        slot_quantum_tokens=settings.slot_quantum_tokens,
    )
