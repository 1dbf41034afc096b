"""Dispatchers with scripted workers, a real job store and a real file store."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.names import DatasetName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.dispatching import Make
from tests.unit.trainer_svc.fakes import ScriptedExecutor
from tests.unit.trainer_svc.values import make_bases
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.jobs.store import JobStore
from trainer_svc.metrics import TrainerMetrics


@pytest.fixture
async def datasets(object_store: ObstoreStore, tmp_path: Path) -> DatasetStore:
    async def chunks() -> AsyncIterator[bytes]:
        yield json.dumps({"prompt": "a", "completion": "b"}).encode()

    store = DatasetStore(object_store, tmp_path / "spool", 10_000, 10_000)
    await store.upload(DatasetName("acme", "chats"), None, chunks())
    return store


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def make(
    jobs: JobStore, datasets: DatasetStore, object_store: ObstoreStore, registry: CollectorRegistry
) -> Make:
    built: list[ScriptedExecutor] = []

    def build(
        executor: ScriptedExecutor,
        workers: int = 1,
        jobs_per_worker: int = 1,
        *names: str,
        base_memory: float = math.inf,
        **weight_bytes: int,
    ) -> Dispatcher:
        # A second trainer of one test counts for itself.
        metrics = TrainerMetrics(registry if not built else CollectorRegistry())
        built.append(executor)
        return Dispatcher(
            jobs,
            datasets,
            AdapterRegistry(object_store),
            executor,
            Publisher(jobs, object_store, metrics),
            metrics,
            bases=make_bases(*names, **weight_bytes),
            trainer="before",
            base_memory=base_memory,
            workers=workers,
            jobs_per_worker=jobs_per_worker,
            max_worker_losses=3,
        )

    return build
