"""Sound adapters in a real object store, and a store that fails and hangs when it is told to."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from obstore.store import LocalStore
from prometheus_client import CollectorRegistry
from safetensors.numpy import save

from serving_svc.adapters.disk import AdapterDisk
from serving_svc.adapters.gate import ServedBase
from serving_svc.adapters.refusals import Refusals
from serving_svc.metrics import ServingMetrics
from tailorbird.manifest import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PROBES,
    AdapterManifest,
    EvaluationSummary,
    FileEntry,
    Lineage,
    Probes,
    ProbeSequence,
)
from tailorbird.names import AdapterName, VersionName
from tailorbird.object_store import ObjectInfo, ObstoreStore
from tailorbird.registry import AdapterRegistry

ADAPTER = AdapterName("acme", "support")
OTHER = AdapterName("zeta", "support")
DIGEST = f"sha256:{'a' * 64}"
LAYER = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{LAYER}.lora_{part}.weight" for part in "AB")
SHAPES = {A: (8, 12), B: (16, 8)}
CONFIG = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "bias": "none",
    "target_modules": ["q_proj"],
}
WEIGHTS = save({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()})
# The second has the larger effect.
SEQUENCES = (
    ProbeSequence(token_ids=(1, 2, 3), base_logprobs=(-2, -2), adapter_logprobs=(-1.5, -1.5)),
    ProbeSequence(token_ids=(4, 5), base_logprobs=(-2,), adapter_logprobs=(-1,)),
)
FILES = {
    ADAPTER_CONFIG: json.dumps(CONFIG).encode(),
    ADAPTER_WEIGHTS: WEIGHTS,
    PROBES: Probes(sequences=SEQUENCES).to_json(),
}
NEEDED_BYTES = sum(map(len, FILES.values()))


def version(number: int, adapter: AdapterName = ADAPTER) -> VersionName:
    return adapter.version(f"20260101T0000{number:02d}-job-1")


def served_base() -> ServedBase:
    return ServedBase(
        digest=DIGEST,
        chat_template_digest=DIGEST,
        linear={LAYER: (16, 12)},
        vocab_size=10,
        max_model_len=8,
        max_lora_rank=16,
        dtype="float32",
    )


def manifest_of(of: VersionName, files: Mapping[str, bytes] = FILES) -> AdapterManifest:
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
        tensors=SHAPES,
        files={
            name: FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for name, data in files.items()
        },
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


class ScriptedStore(ObstoreStore):
    """A local folder that counts what is asked of it; `errors` and `hangs` are by operation."""

    def __init__(self, folder: Path) -> None:
        super().__init__(LocalStore(folder, mkdir=True))
        self.calls: Counter[str] = Counter()
        self.keys: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.errors_after: dict[str, Exception] = {}
        self.hangs: set[str] = set()
        self.hanging = asyncio.Event()
        self.called = asyncio.Event()
        self.reading = 0
        self.most_reading = 0
        self._readers = asyncio.Event()

    async def readers(self, count: int) -> None:
        """Wait until so many read at the same time."""
        while self.reading < count:
            self._readers.clear()
            await self._readers.wait()

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        await self._before("get", key)
        return await super().get(key, max_bytes)

    async def put(self, key: str, data: bytes) -> None:
        await self._before("put", key)
        await super().put(key, data)
        self._after("put")

    async def create(self, key: str, data: bytes) -> None:
        await self._before("create", key)
        await super().create(key, data)
        self._after("create")

    async def upload(self, key: str, path: Path) -> None:
        await self._before("upload", key)
        await super().upload(key, path)
        self._after("upload")

    async def objects(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        await self._before("objects", prefix)
        async for info in super().objects(prefix):
            yield info

    async def read(self, key: str) -> AsyncGenerator[memoryview]:
        self.reading += 1
        self._readers.set()
        self.most_reading = max(self.most_reading, self.reading)
        try:
            await self._before("read", key)
            async for piece in super().read(key):
                yield piece
            self._after("read")
        finally:
            self.reading -= 1

    async def _before(self, operation: str, key: str) -> None:
        self.calls[operation] += 1
        self.called.set()
        self.keys.append(key)
        if operation in self.hangs:
            self.hanging.set()
            await asyncio.Event().wait()
        if operation in self.errors:
            raise self.errors[operation]

    def _after(self, operation: str) -> None:
        if operation in self.errors_after:
            raise self.errors_after[operation]


class World:
    """A store, a folder, and whatever disk stands over them."""

    def __init__(self, folder: Path) -> None:
        self.store = ScriptedStore(folder / "store")
        self.registry = AdapterRegistry(self.store)
        self.folder = folder / "disk"
        self.refusals = Refusals(new_metrics())

    async def publish(self, *versions: VersionName, files: Mapping[str, bytes] = FILES) -> None:
        for of in versions:
            for name, data in files.items():
                await ObstoreStore.put(self.store, f"{of}/{name}", data)
            await ObstoreStore.put(
                self.store, f"{of}/manifest.json", manifest_of(of, files).to_json()
            )

    async def open_disk(
        self,
        *,
        max_bytes: int = 10**6,
        base: ServedBase | None = None,
        concurrent: int = 4,
        stall_seconds: float = 30,
        max_weights_bytes: int = 10**5,
    ) -> AdapterDisk:
        """Return a disk as a new process would: with refusals of its own."""
        self.refusals = Refusals(new_metrics())
        disk = AdapterDisk(
            self.registry,
            base or served_base(),
            self.refusals,
            self.folder,
            max_bytes=max_bytes,
            max_weights_bytes=max_weights_bytes,
            concurrent=concurrent,
            stall_seconds=stall_seconds,
        )
        await disk.open()
        return disk

    def folders(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


def new_metrics() -> ServingMetrics:
    return ServingMetrics(CollectorRegistry())
