"""Serving without its API: the fake engine under a real scheduler, residency, disk and store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from serving_svc.adapters.residency import Residency
from serving_svc.adapters.routing.router import Resolved
from serving_svc.generation.life import Life
from serving_svc.generation.model import GenerationRequest, ModelLimits, Sampling, Structure, Text
from serving_svc.generation.scheduler import Scheduler, SchedulerLimits
from serving_svc.generation.service import Generations
from serving_svc.generation.slot_loader import SlotLoader
from serving_svc.generation.warming import Warmer
from tailorbird.errors import TailorbirdError, Unavailable
from tailorbird.manifest import PROBES as PROBES_FILE
from tailorbird.names import AdapterName, TenantName, VersionName
from tests.unit.serving_svc.adapters.cancelling import CancelledAt
from tests.unit.serving_svc.adapters.published import ADAPTER, FILES, World, version
from tests.unit.serving_svc.fakes import PROBES, FakeEngine, new_metrics

PUBLISHED = {**FILES, PROBES_FILE: PROBES.to_json()}
RESTARTING = Unavailable("the engine is being restarted", reason="ENGINE_RESTARTING")


class Routes:
    """Each adapter's one version; a version in `deleted` is answered for by nobody."""

    def __init__(self) -> None:
        self.of = {ADAPTER: version(1)}
        self.deleted: dict[VersionName, TailorbirdError] = {}
        self.forgotten: list[tuple[AdapterName, int]] = []
        self.walks_to: VersionName | None = None
        self.asked: list[tuple[AdapterName, str, int]] = []

    async def resolve(
        self, adapter: AdapterName, routing_key: str = "", min_generation: int = 0
    ) -> Resolved:
        self.asked.append((adapter, routing_key, min_generation))
        await asyncio.sleep(0)
        return Resolved(self.of[adapter], 7)

    def named(self, version: VersionName) -> Resolved:
        if version in self.deleted:
            raise self.deleted[version]
        return Resolved(version, 0)

    def forget(self, adapter: AdapterName, generation: int = 0) -> None:
        self.forgotten.append((adapter, generation))
        if self.walks_to is not None:
            self.of[adapter] = self.walks_to


class Structures:
    def __init__(self) -> None:
        self.error: TailorbirdError | None = None

    async def check(self, structure: Structure, tenant: str) -> Structure:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return Structure(structure.kind, "checked")


class Serving:
    """One process of serving, whose engine may end and begin anew."""

    def __init__(self, folder: Path, slots: int = 2, kept: int = 0, **limits: int) -> None:
        self.world = World(folder)
        self.slots = slots
        self.kept = kept
        self.limits = SchedulerLimits(**limits)
        self.metrics = new_metrics()
        self.routes = Routes()
        self.structures = Structures()
        self._ids = itertools.count(1)
        self._life: Life | None = None

    async def open(self, *versions: VersionName) -> Serving:
        await self.world.publish(*versions, files=PUBLISHED)
        self.disk = await self.world.open_disk()
        self.warmer = Warmer(self, self.disk)
        self.generations = Generations(
            self,
            self.routes,
            self.disk,
            self.structures,
            self.metrics,
            ModelLimits(max_model_len=64, vocab_size=256),
        )
        self.begin()
        return self

    def begin(self) -> None:
        """Begin a life, as the supervisor does."""
        self.engine = FakeEngine(self.slots + self.kept)
        self.residency = Residency(
            self.engine,
            self.disk,
            self.world.refusals,
            self.metrics,
            probe_floor=0.02,
            engine_ids=self._ids,
            most_kept=self.kept,
        )
        self.loader = SlotLoader(self.residency)
        self.scheduler = Scheduler(self.loader, self.limits, slots=self.slots)
        self._life = Life(self.engine, self.residency, self.scheduler, self.loader)

    async def end(self) -> None:
        """End the life, as the supervisor does."""
        self._life = None
        self.scheduler.close(RESTARTING)
        self.engine.die()
        await self.scheduler.aclose()
        await self.residency.close()

    async def close(self) -> None:
        if self._life is not None:
            await self.end()
        await self.disk.close()

    def current(self) -> Life:
        if self._life is None:
            raise RESTARTING
        return self._life

    async def settled(self) -> None:
        """Wait until nothing is on its way into the engine or out of it."""
        while tasks := list(self.scheduler._tasks):
            await asyncio.wait(tasks)

    def check_nothing_is_held(self) -> None:
        assert not self.engine.inside
        assert self.scheduler.running == self.scheduler.waiting == 0
        assert [v for v in self.residency.versions() if self.scheduler.leases(v)] == []
        assert self.metrics.leases._value.get() == 0
        assert self.generations._pace._streams == 0
        # What is in the engine is held once, for as long as it is there.
        holds = sum(held.holds for held in self.disk.versions())
        assert holds == len(self.residency.versions()) == len(self.engine.loaded)

    async def cancelled_everywhere(
        self, work: Callable[[], Awaitable[Any]], before: GenerationRequest | None = None
    ) -> int:
        """Do `work` again and again, cancelled at each of its suspensions; return how many.

        Each time the engine is empty, but for what `before` brings into it.
        """

        async def begun() -> Any:
            return await work()

        for at in itertools.count(1):
            for of in self.residency.versions():
                await self.scheduler.discard(of)
            if before is not None:
                await self.generations.generate(before)
            tried = CancelledAt(begun(), at)
            task = asyncio.create_task(tried.run())
            await asyncio.wait({task})
            await self.settled()
            self.check_nothing_is_held()
            if tried.suspensions < at:
                assert task.exception() is None
                return at - 1
        raise AssertionError


def request(
    adapter: AdapterName | None = ADAPTER, text: str = "Hi", **values: Any
) -> GenerationRequest:
    sampling = Sampling(**({"max_tokens": 3} | values.pop("sampling", {})))
    pinned = values.pop("version", None)
    tenant = TenantName("acme" if adapter is None else adapter.tenant)
    return GenerationRequest(tenant, adapter, pinned, Text(text), sampling, **values)
