"""A thousand tenants that come and go for ten minutes: nothing grows, and nobody is failed."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import pytest

from tailorbird.base_model import load_base_model
from tailorbird.names import AdapterName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tests.integration.serving.calls import ask, promote
from tests.integration.serving.process import Client, ServingProcess
from tests.integration.serving.world import World, make_base

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

TENANTS = 1000
VARIANTS = 8
CALLERS = 16
SECONDS = 600.0
SETTLED = 240.0
"""By then every tenant has been there, and every cache is full."""
SAMPLE_SECONDS = 10.0
SLOTS = 4
DISK_BYTES = 20 * 2**20


@dataclass(frozen=True)
class Sample:
    """What serving holds: bytes of its own, descriptors, series of metrics, bytes on disk."""

    at: float
    memory: int
    descriptors: int
    series: int
    disk: int


class Churn:
    """The callers of one run, and what they saw."""

    def __init__(self, world: World, adapters: list[AdapterName], client: Client) -> None:
        self._world = world
        self._adapters = adapters
        self._client = client
        self._random = random.Random(7)
        self._turns = self._all_in_turn()
        self.until = time.monotonic() + SECONDS
        self.answered: set[AdapterName] = set()
        self.answers = self.left = self.promoted = 0

    async def call(self) -> None:
        """Ask a tenant's adapter after the other; leave some answers unread."""
        while time.monotonic() < self.until:
            adapter = next(self._turns)
            if self._random.random() < 0.2:
                stream = self._client.stream(ask(adapter))
                await anext(aiter(stream))
                stream.cancel()
                self.left += 1
                continue
            answer = await self._client.generate(ask(adapter))
            (version,) = (v for v in self._world.answers if str(v) == answer.version)
            assert version.adapter_name == adapter
            assert answer.text == self._world.answers[version]
            self.answered.add(adapter)
            self.answers += 1

    def _all_in_turn(self) -> Iterator[AdapterName]:
        """Yield all adapters, in another order each time."""
        while True:
            yield from self._random.sample(self._adapters, len(self._adapters))

    async def publish(self) -> None:
        """Give a tenant another version now and then."""
        sources = list(self._world.answers)[:VARIANTS]
        while time.monotonic() < self.until:
            adapter = self._random.choice(self._adapters)
            version = await self._world.publish_copy(self._random.choice(sources), adapter)
            await promote(self._client, version)
            self.promoted += 1
            await asyncio.sleep(2.0)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    make_base(tmp_path / "base")
    base = load_base_model(str(tmp_path / "base"), tmp_path)
    registry = AdapterRegistry(open_store((tmp_path / "data" / "store").as_uri()))
    return World(base, registry, tmp_path)


@pytest.fixture
async def serving(tmp_path: Path, world: World) -> AsyncIterator[ServingProcess]:
    process = ServingProcess(
        {
            "TAILORBIRD_BASE_MODEL": str(world.base.path),
            "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
            "TAILORBIRD_DTYPE": "float32",
            "TAILORBIRD_ADAPTER_SLOTS": str(SLOTS),
            "TAILORBIRD_MAX_CPU_LORAS": "32",
            "TAILORBIRD_MAX_ADAPTER_BYTES": str(2**20),
            "TAILORBIRD_ADAPTER_CACHE_BYTES": str(DISK_BYTES),
            "TAILORBIRD_METRICS_TENANTS": "50",
        },
        tmp_path / "serving.log",
    )
    await asyncio.to_thread(process.wait_until_serving)
    yield process
    process.close()


async def test_a_thousand_tenants_come_and_go(
    world: World, serving: ServingProcess, tmp_path: Path
) -> None:
    adapters = [AdapterName(f"tenant-{number:04d}", "support") for number in range(TENANTS)]
    sources = [
        await world.publish_routed(adapter, seed=seed)
        for seed, adapter in enumerate(adapters[:VARIANTS])
    ]
    for number, adapter in enumerate(adapters[VARIANTS:]):
        await world.route(await world.publish_copy(sources[number % VARIANTS], adapter))
    samples: list[Sample] = []
    async with Client(serving.target, "none") as client:
        churn = Churn(world, adapters, client)
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(churn.call())
            tasks.create_task(churn.publish())
            while time.monotonic() < churn.until:
                await asyncio.sleep(SAMPLE_SECONDS)
                seen = await asyncio.to_thread(_sample, serving, tmp_path / "data", started)
                samples.append(seen)
    report = "\n".join(map(str, samples[::6]))
    assert len(churn.answered) == TENANTS, churn.answers
    assert churn.left > 100
    assert churn.promoted > 100
    settled = [sample for sample in samples if sample.at > SETTLED]
    early, late = settled[: len(settled) // 3], settled[-(len(settled) // 3) :]
    assert _of(late, "memory") < _of(early, "memory") * 1.03, report
    assert _of(late, "descriptors") <= _of(early, "descriptors") + 8, report
    assert _of(late, "series") <= _of(early, "series") * 1.01, report
    # What is being fetched comes beside what is kept.
    assert max(sample.disk for sample in samples) < DISK_BYTES + 8 * 2**20, report


def _of(samples: list[Sample], what: str) -> float:
    return float(median(getattr(sample, what) for sample in samples))


def _sample(serving: ServingProcess, data: Path, started: float) -> Sample:
    root = psutil.Process(serving.process.pid)
    processes = [root, *root.children(recursive=True)]
    lines = serving.http("/metrics").splitlines()
    return Sample(
        time.monotonic() - started,
        sum(process.memory_full_info().uss for process in processes),
        sum(process.num_fds() for process in processes),
        sum(not line.startswith("#") for line in lines),
        sum(
            _size(Path(top) / name) for top, _, names in os.walk(data / "serving") for name in names
        ),
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        # Gone meanwhile.
        return 0
