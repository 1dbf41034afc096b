"""Which versions are on disk and in the engine, and who holds them.

A version is fetched and loaded once however many ask for it. While it is held it leaves neither the
engine nor the disk. The engine never holds more adapters than it has slots, those being loaded or
probed included, so it never evicts one by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import structlog

from serving_svc.adapters.fetch import StagedAdapter
from serving_svc.adapters.gate import judge_probes
from serving_svc.adapters.model import LoadedAdapter
from serving_svc.adapters.single_flight import SingleFlight
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import AdapterRefused, ResourceExhausted, TailorbirdError
from tailorbird.manifest import Probes
from tailorbird.names import AdapterName, VersionName

_log = structlog.get_logger(__name__)


class AdapterEngine(Protocol):
    """What the cache needs of the engine."""

    async def add_adapter(self, adapter: LoadedAdapter) -> None:
        """Load an adapter; AdapterRefused (LOAD_FAILED) if the engine cannot."""

    async def remove_adapter(self, adapter: LoadedAdapter) -> None:
        """Unload an adapter, also one whose loading failed."""

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        """Return the logprob of each token but the first, given those before it, in nats."""


class Fetcher(Protocol):
    """What the cache needs of the fetcher."""

    async def stage(self, version: VersionName) -> StagedAdapter:
        """Fetch and check a version."""

    async def discard(self, path: Path) -> None:
        """Delete a staged folder."""


@dataclass(slots=True)
class _Entry:
    version: VersionName
    leases: int = 0
    staged: StagedAdapter | None = None
    loaded: LoadedAdapter | None = None


class AdapterCache:
    """Leases on versions; see the module's text for what they guarantee."""

    def __init__(
        self,
        engine: AdapterEngine,
        fetcher: Fetcher,
        metrics: ServingMetrics,
        *,
        slots: int,
        max_disk_bytes: int,
        probe_floor: float,
    ) -> None:
        self._engine = engine
        self._fetcher = fetcher
        self._metrics = metrics
        self._slots = slots
        self._max_disk_bytes = max_disk_bytes
        self._probe_floor = probe_floor
        # Least recently used first.
        self._entries: OrderedDict[VersionName, _Entry] = OrderedDict()
        self._loads: SingleFlight[VersionName, None] = SingleFlight()
        self._refused: dict[VersionName, AdapterRefused] = {}
        self._slots_used = 0
        # vLLM keys on this number alone, and dies of one of 2**31 or more.
        self._engine_ids = itertools.count(1)
        metrics.slots.set(slots)

    @asynccontextmanager
    async def lease(self, version: VersionName) -> AsyncIterator[LoadedAdapter]:
        """Hold a version in the engine, loading it first if needed.

        Raises NotFound if it is not published, AdapterRefused if it failed the gate, now or before,
        ResourceExhausted if every slot is held, StoreUnavailable.
        """
        self._raise_if_refused(version)
        entry = self._entries.setdefault(version, _Entry(version))
        # Counted before the load, so that nothing can take the version away once it is loaded.
        entry.leases += 1
        self._metrics.leases.inc()
        try:
            while entry.loaded is None:
                await self._loads.run(version, partial(self._begin_load, entry))
            self._entries.move_to_end(version)
            yield entry.loaded
        finally:
            entry.leases -= 1
            self._metrics.leases.dec()
            self._forget_if_empty(entry)

    async def warm(self, version: VersionName) -> None:
        """Put a version through the gate and into the engine; raises what `lease` raises."""
        async with self.lease(version):
            return

    def retire(self, version: VersionName) -> None:
        """Let a version that is no longer routed be the first to leave."""
        if version in self._entries:
            self._entries.move_to_end(version, last=False)

    def refusals(self, adapter: AdapterName) -> dict[VersionName, AdapterRefused]:
        """Return the versions of `adapter` that failed the gate, and why."""
        return {
            version: refusal
            for version, refusal in self._refused.items()
            if version.adapter_name == adapter
        }

    async def close(self) -> None:
        """End what is being loaded."""
        await self._loads.close()

    def _raise_if_refused(self, version: VersionName) -> None:
        refusal = self._refused.get(version)
        if refusal is not None:
            raise _refused(version, refusal)

    def _begin_load(self, entry: _Entry) -> Coroutine[Any, Any, None]:
        # A load holds its entry itself: those who asked for it may all go.
        entry.leases += 1
        return self._load(entry)

    async def _load(self, entry: _Entry) -> None:
        try:
            await self._load_held(entry)
        finally:
            entry.leases -= 1
            self._forget_if_empty(entry)

    async def _load_held(self, entry: _Entry) -> None:
        started = time.perf_counter()
        try:
            if entry.staged is None:
                entry.staged = await self._fetcher.stage(entry.version)
                await self._trim_disk()
            await self._take_slot()
            try:
                entry.loaded = await self._add(entry.version, entry.staged)
            except BaseException:
                self._slots_used -= 1
                raise
        except AdapterRefused as refusal:
            await self._refuse(entry, refusal)
            raise _refused(entry.version, refusal) from refusal
        except Exception:
            self._metrics.loads.labels("failed").inc()
            raise
        seconds = time.perf_counter() - started
        self._count_resident()
        self._metrics.loads.labels("ok").inc()
        self._metrics.load_seconds.observe(seconds)
        _log.info("adapter loaded", version=str(entry.version), seconds=round(seconds, 3))

    async def _add(self, version: VersionName, staged: StagedAdapter) -> LoadedAdapter:
        engine_id = next(self._engine_ids)
        adapter = LoadedAdapter(engine_id, f"{version}#{engine_id}", staged.path)
        try:
            await self._engine.add_adapter(adapter)
            await self._probe(staged.probes, adapter)
        except BaseException:
            # After a failed load the engine may still answer to the id, with the base's weights.
            with suppress(TailorbirdError):
                await self._engine.remove_adapter(adapter)
            raise
        return adapter

    async def _probe(self, probes: Probes, adapter: LoadedAdapter) -> None:
        served = await asyncio.gather(
            *(
                self._engine.prompt_logprobs(probe.token_ids, of)
                for of in (None, adapter)
                for probe in probes.sequences
            )
        )
        count = len(probes.sequences)
        judge_probes(probes, served[:count], served[count:], self._probe_floor)

    async def _take_slot(self) -> None:
        if self._slots_used < self._slots:
            self._slots_used += 1
            return
        victim = next(
            (entry for entry in self._entries.values() if entry.loaded and not entry.leases), None
        )
        if victim is None or victim.loaded is None:
            raise ResourceExhausted(
                f"all {self._slots} adapter slots are in use by running requests",
                reason="ADAPTER_SLOTS_EXHAUSTED",
                limit=self._slots,
            )
        leaving, victim.loaded = victim.loaded, None
        # A hold, so that the folder stays until the engine has let go of it.
        victim.leases += 1
        try:
            await self._engine.remove_adapter(leaving)
        finally:
            victim.leases -= 1
            self._count_resident()
        await self._trim_disk()
        _log.info("adapter evicted", version=str(victim.version))

    async def _refuse(self, entry: _Entry, refusal: AdapterRefused) -> None:
        self._refused[entry.version] = refusal
        self._metrics.loads.labels("refused").inc()
        self._metrics.refusals.labels(refusal.reason).inc()
        _log.warning(
            "adapter refused",
            version=str(entry.version),
            reason=refusal.reason,
            message=refusal.message,
        )
        await self._discard(entry)

    async def _trim_disk(self) -> None:
        size = sum(entry.staged.size for entry in self._entries.values() if entry.staged)
        for entry in list(self._entries.values()):
            if size <= self._max_disk_bytes:
                return
            if entry.staged is not None and entry.loaded is None and not entry.leases:
                size -= entry.staged.size
                await self._discard(entry)

    async def _discard(self, entry: _Entry) -> None:
        staged, entry.staged = entry.staged, None
        self._forget_if_empty(entry)
        if staged is not None:
            await self._fetcher.discard(staged.path)

    def _forget_if_empty(self, entry: _Entry) -> None:
        if not (entry.leases or entry.staged or entry.loaded):
            self._entries.pop(entry.version, None)

    def _count_resident(self) -> None:
        self._metrics.resident.set(sum(bool(entry.loaded) for entry in self._entries.values()))


def _refused(version: VersionName, refusal: AdapterRefused) -> AdapterRefused:
    return AdapterRefused(
        f"{version} is refused: {refusal.message}", reason=refusal.reason, version=version
    )
