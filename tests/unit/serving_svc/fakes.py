"""Stands for the engine and the fetcher, and remembers what was done to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from serving_svc.adapters.adapter_cache import AdapterCache
from serving_svc.adapters.fetch import StagedAdapter
from serving_svc.adapters.model import LoadedAdapter
from serving_svc.generation.model import Chunk, FinishReason, Input, Sampling, Usage
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import AdapterManifest, EvaluationSummary, Lineage, Probes, ProbeSequence
from tailorbird.names import AdapterName, VersionName
from tailorbird.registry import Route, RoutedVersion, RouteReason

ADAPTER = AdapterName("acme", "support")
DIGEST = f"sha256:{'a' * 64}"
BASE_LOGPROB, ADAPTER_LOGPROB = -2.0, -1.0
PROBES = Probes(
    sequences=(
        ProbeSequence(
            token_ids=(5, 6, 7),
            base_logprobs=(BASE_LOGPROB, BASE_LOGPROB),
            adapter_logprobs=(ADAPTER_LOGPROB, ADAPTER_LOGPROB),
        ),
    )
)


def version(number: int, adapter: AdapterName = ADAPTER) -> VersionName:
    return adapter.version(f"20260101T0000{number:02d}-job-1")


def route(generation: int, number: int, reason: RouteReason = "publish") -> Route:
    return Route(
        generation=generation,
        versions=(RoutedVersion(version=version(number).version),),
        reason=reason,
        actor="test",
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        nonce=f"{generation}-{number}",
    )


def manifest(of: VersionName) -> AdapterManifest:
    return AdapterManifest(
        version=str(of),
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        base_model="base",
        base_model_digest=DIGEST,
        chat_template_digest=DIGEST,
        rank=8,
        alpha=16,
        use_rslora=False,
        target_modules=("q_proj",),
        tensors={},
        files={},
        lineage=Lineage(
            job=f"tenants/{of.tenant}/jobs/job",
            training_dataset=f"tenants/{of.tenant}/datasets/data",
            training_dataset_sha256="0" * 64,
            spec_sha256="1" * 64,
            parent_version="",
            code_version="test",
        ),
        evaluation=EvaluationSummary(
            steps=1, training_loss=1, validation_loss=0.5, base_validation_loss=None
        ),
    )


class FakeEngine:
    """An engine with slots, whose adapters do what their probes say unless told otherwise."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.loaded: dict[int, LoadedAdapter] = {}
        self.ids: list[int] = []
        self.paths: list[Path] = []
        self.adapter_logprob = ADAPTER_LOGPROB
        self.add_error: Exception | None = None
        self.may_add = asyncio.Event()
        self.may_add.set()
        self.may_remove = asyncio.Event()
        self.may_remove.set()
        self.adding = asyncio.Event()
        self.removing = asyncio.Event()
        self.chunks = [Chunk("a"), Chunk("b"), Chunk("", FinishReason.STOP, Usage(3, 2))]
        self.generate_error: Exception | None = None
        self.answered_by: list[LoadedAdapter | None] = []
        self.closed = asyncio.Event()

    async def add_adapter(self, adapter: LoadedAdapter) -> None:
        assert adapter.engine_id not in self.ids
        self.ids.append(adapter.engine_id)
        self.paths.append(adapter.path)
        self.adding.set()
        # As vLLM may: the id is taken from here on, whether the load ends well or not.
        self.loaded[adapter.engine_id] = adapter
        assert len(self.loaded) <= self.slots
        await self.may_add.wait()
        if self.add_error is not None:
            raise self.add_error

    async def remove_adapter(self, adapter: LoadedAdapter) -> None:
        self.removing.set()
        await self.may_remove.wait()
        del self.loaded[adapter.engine_id]

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        assert adapter is None or adapter.engine_id in self.loaded
        value = BASE_LOGPROB if adapter is None else self.adapter_logprob
        return [value] * (len(token_ids) - 1)

    async def encode(self, prompt: Input) -> Sequence[int]:
        return (5, 6, 7)

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        tenant: str,
        adapter: LoadedAdapter | None,
    ) -> AsyncGenerator[Chunk]:
        assert adapter is None or adapter.engine_id in self.loaded
        self.answered_by.append(adapter)
        try:
            for chunk in self.chunks:
                await asyncio.sleep(0)
                yield chunk
            if self.generate_error is not None:
                raise self.generate_error
        finally:
            self.closed.set()


class FakeFetcher:
    """Stages every version but those in `errors`."""

    def __init__(self, folder: Path, size: int = 10) -> None:
        self.folder = folder
        self.size = size
        self.errors: dict[VersionName, Exception] = {}
        self.staged: list[VersionName] = []
        self.may_stage = asyncio.Event()
        self.may_stage.set()
        self.staging = asyncio.Event()

    async def stage(self, version: VersionName) -> StagedAdapter:
        self.staged.append(version)
        self.staging.set()
        await self.may_stage.wait()
        if version in self.errors:
            raise self.errors[version]
        path = self.folder / f"{len(self.staged)}-{version.version}"
        path.mkdir()
        return StagedAdapter(path, self.size, PROBES)

    async def discard(self, path: Path) -> None:
        await asyncio.to_thread(path.rmdir)


def refused(reason: str = "NOT_FINITE") -> AdapterRefused:
    return AdapterRefused("it is broken", reason=reason)


def new_metrics() -> ServingMetrics:
    return ServingMetrics(CollectorRegistry())


def new_cache(engine: FakeEngine, fetcher: FakeFetcher, max_disk_bytes: int = 1000) -> AdapterCache:
    return AdapterCache(
        engine,
        fetcher,
        new_metrics(),
        slots=engine.slots,
        max_disk_bytes=max_disk_bytes,
        probe_floor=0.02,
    )
