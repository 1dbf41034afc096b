"""What one life of the engine holds: which versions, under which ids, all of them proven.

A version in a slot is held on disk, since the engine may read its folder again. Its id, name and
path are its own for the life of the process. After a failure or a cancellation, wherever it comes,
the engine is told to remove the adapter: it may answer to the id of a failed load with the base's
weights.

A version that gives its slot up is kept in the engine's host memory, proven as it is, and back in a
slot without a call to the engine, which moves it there with its first step. The engine never holds
more than it was built for, or it would choose by itself what goes.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from serving_svc.adapters.chats import check_chats
from serving_svc.adapters.disk import AdapterDisk
from serving_svc.adapters.gate import judge_probes
from serving_svc.adapters.model import LoadedAdapter, StagedAdapter
from serving_svc.adapters.refusals import ENGINE_DIED, Refusals
from serving_svc.adapters.replay import effect, replay
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import Aborted, AdapterRefused, TailorbirdError, Unavailable
from tailorbird.manifest import Probes, RenderedChat
from tailorbird.names import VersionName
from tailorbird.uninterrupted import uninterrupted

_log = structlog.get_logger(__name__)

_MAX_PASSED = 10_000


class AdapterEngine(Protocol):
    """What residency needs of the engine; every call raises EngineDied once it has died."""

    async def add_adapter(self, adapter: LoadedAdapter) -> None:
        """Load an adapter; AdapterRefused (LOAD_FAILED) if the engine cannot."""

    async def remove_adapter(self, adapter: LoadedAdapter) -> None:
        """Unload an adapter, also one whose loading failed or was given up."""

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        """Return the logprob of each token but the first, given those before it, in nats."""

    async def render(self, chat: RenderedChat, tenant: str) -> Sequence[int]:
        """See chats.ChatRenderer."""


@dataclass(frozen=True, slots=True)
class _Resident:
    """A version in a slot."""

    adapter: LoadedAdapter
    held: AsyncExitStack
    """The version's hold on disk."""


class Residency:
    """Loads and unloads versions for the scheduler, which owns the slots. It ends with `engine`.

    `engine_ids` counts up for the life of the process, over all lives of the engine: vLLM keys on
    the id alone, and dies of one of 2**31 or more. `probe_floor` is the gate's, in nats per token.
    `most_kept`: versions in the engine's host memory beside those in slots.
    """

    def __init__(
        self,
        engine: AdapterEngine,
        disk: AdapterDisk,
        refusals: Refusals,
        metrics: ServingMetrics,
        *,
        probe_floor: float,
        engine_ids: Iterator[int],
        most_kept: int = 0,
    ) -> None:
        self._engine = engine
        self._disk = disk
        self._refusals = refusals
        self._metrics = metrics
        self._probe_floor = probe_floor
        self._engine_ids = engine_ids
        self._most_kept = most_kept
        self._residents: dict[VersionName, _Resident] = {}
        # In host memory only, the one longest without a slot first.
        self._kept: OrderedDict[VersionName, LoadedAdapter] = OrderedDict()
        self._coming: set[VersionName] = set()
        self._unwanted: set[VersionName] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        # Versions that passed all their probes in this life of the engine, oldest first.
        self._passed: OrderedDict[VersionName, None] = OrderedDict()
        self._closed = self._died = False

    async def load(self, version: VersionName) -> None:
        """Put a version into the engine and through its probes. The caller has a slot for it.

        Nothing happens if it is there. Raises what holding it on disk raises, AdapterRefused if the
        engine cannot load it or its probes differ, and Unavailable, also if the engine dies. The
        engine is without it then, as after a cancellation. A version is loaded or unloaded by one
        caller at a time.
        """
        if version in self._residents:
            return
        if self._died:
            raise _died()
        started = time.perf_counter()
        self._coming.add(version)
        try:
            if await self._take_back(version):
                return
            await self._load(version)
        except AdapterRefused:
            raise
        except Exception:
            self._metrics.loads.labels("failed").inc()
            raise
        finally:
            self._coming.remove(version)
            if version not in self._residents:
                self._unwanted.discard(version)
        seconds = time.perf_counter() - started
        self._metrics.loads.labels("ok").inc()
        self._metrics.load_seconds.observe(seconds)
        _log.info("adapter loaded", version=str(version), seconds=round(seconds, 3))

    async def unload(self, version: VersionName) -> None:
        """Take a version out of its slot, if it is in one, and let the disk have it.

        It is kept in host memory, unless nothing is. Never raises for the engine: a dead one holds
        nothing. Once begun it goes to its end.
        """
        resident = self._residents.pop(version, None)
        if resident is None:
            return
        is_kept = self._most_kept > 0 and version not in self._unwanted
        if is_kept:
            self._kept[version] = resident.adapter
        self._unwanted.discard(version)
        self._count()
        await uninterrupted(self._give_up(version, resident, is_kept))

    def forget(self, version: VersionName) -> None:
        """Take a version out of host memory, now or with its slot; it will not be asked for."""
        if version in self._residents or version in self._coming:
            self._unwanted.add(version)
        self._evict(version)

    def loaded(self, version: VersionName) -> LoadedAdapter:
        """Return what the engine knows a version as; Unavailable if it does not hold it."""
        resident = self._residents.get(version)
        if resident is None:
            raise Unavailable(f"{version} is not in the engine", reason="ADAPTER_NOT_LOADED")
        return resident.adapter

    def holds(self, version: VersionName) -> bool:
        """Tell whether a version is in a slot, and its files held: not so what is only kept."""
        return version in self._residents

    def versions(self) -> Sequence[VersionName]:
        """Return the versions in slots."""
        return list(self._residents)

    def kept(self) -> Sequence[VersionName]:
        """Return the versions in host memory only."""
        return list(self._kept)

    @asynccontextmanager
    async def scratch(self, staged: StagedAdapter) -> AsyncIterator[LoadedAdapter]:
        """Keep a folder that is no version yet in the engine inside the block, unjudged.

        The caller has a slot for it. Raises what adding an adapter raises.
        """
        await self._make_room()
        async with self._added(staged) as adapter:
            yield adapter
        await uninterrupted(self._remove(adapter))

    async def close(self) -> None:
        """Let the disk have everything; the engine has ended, or ends next. Loading fails after."""
        self._closed = True
        residents = list(self._residents.values())
        self._residents.clear()
        self._kept.clear()
        self._count()
        for task in self._leaving:
            task.cancel()
        for resident in residents:
            await resident.held.aclose()

    async def _take_back(self, version: VersionName) -> bool:
        """Put a version that is kept into a slot; False if it is not, or its files are others."""
        if version not in self._kept:
            return False
        async with AsyncExitStack() as stack:
            staged = await stack.enter_async_context(self._disk.hold(version))
            # It may have left meanwhile, or everything may have.
            adapter = self._kept.get(version)
            if adapter is None:
                return False
            if adapter.path != staged.path:
                # Fetched anew: the engine knows a folder that is gone.
                self._evict(version)
                return False
            # No await from here on.
            del self._kept[version]
            self._residents[version] = _Resident(adapter, stack.pop_all())
            self._count()
            self._metrics.loads.labels("kept").inc()
        return True

    async def _load(self, version: VersionName) -> None:
        async with AsyncExitStack() as stack:
            staged = await stack.enter_async_context(self._disk.hold(version))
            await self._make_room()
            try:
                if version not in self._passed:
                    await check_chats(self._engine, staged.probes.chats, version.tenant)
                async with self._added(staged) as adapter:
                    await self._probe(version, staged.probes, adapter)
                    if self._closed:
                        raise Unavailable("the engine is stopping", reason="ENGINE_STOPPING")
            except AdapterRefused as refusal:
                # What this engine has served is not broken: this load of it was.
                refusal.retryable = refusal.retryable or version in self._passed
                self._refusals.record(version, refusal)
                if not refusal.retryable:
                    self._disk.forget(version)
                raise
            except Aborted as error:
                # The version may be what the engine died of; who waits for it is not.
                self._died = True
                self._refusals.record(
                    version,
                    AdapterRefused(
                        "the engine died while it was loaded", reason=ENGINE_DIED, retryable=True
                    ),
                )
                raise _died() from error
            # No await from here on: a cancellation would come between the engine and its record.
            self._refusals.clear(version)
            self._residents[version] = _Resident(adapter, stack.pop_all())
            self._count()

    @asynccontextmanager
    async def _added(self, staged: StagedAdapter) -> AsyncIterator[LoadedAdapter]:
        """Add an adapter, and remove it if adding it or the block fails."""
        engine_id = next(self._engine_ids)
        adapter = LoadedAdapter(engine_id, f"{staged.version}#{engine_id}", staged.path)
        try:
            await self._engine.add_adapter(adapter)
            yield adapter
        except BaseException:
            await uninterrupted(self._remove(adapter))
            raise

    async def _probe(self, version: VersionName, probes: Probes, adapter: LoadedAdapter) -> None:
        """Judge all probes the first time, later the one with the largest effect.

        The files are the same ones, by their digests, and so are base and engine: what can still
        have gone wrong is this load, which one sequence shows. The engine rounds otherwise in each
        batch, so what another batch may mend is judged once more, by all.
        """
        passed = version in self._passed
        largest = Probes(sequences=(max(probes.sequences, key=effect),))
        try:
            await self._judge(largest if passed else probes, adapter)
        except AdapterRefused as refusal:
            if not (passed or refusal.retryable):
                raise
            await self._judge(probes, adapter)
        self._passed[version] = None
        if len(self._passed) > _MAX_PASSED:
            self._passed.popitem(last=False)

    async def _judge(self, probes: Probes, adapter: LoadedAdapter) -> None:
        ids = [probe.token_ids for probe in probes.sequences]
        judge_probes(probes, *await replay(self._engine, ids, adapter), self._probe_floor)

    async def _make_room(self) -> None:
        """Have what is too much in host memory leave the engine, before one more comes.

        Not when a slot is given up: what comes next may be the one that would have left. Raises
        Unavailable if the engine has died.
        """
        while len(self._kept) + len(self._leaving) > self._most_kept:
            # Others may be on their way out already, for who else comes.
            if len(self._kept) > self._most_kept:
                self._evict(next(iter(self._kept)))
            await asyncio.wait(self._leaving, return_when=asyncio.FIRST_COMPLETED)
        if self._died:
            raise _died()

    def _evict(self, version: VersionName) -> None:
        adapter = self._kept.pop(version, None)
        if adapter is not None:
            task = asyncio.get_running_loop().create_task(self._remove(adapter))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
            _log.info("adapter unloaded", version=str(version))

    async def _give_up(self, version: VersionName, resident: _Resident, is_kept: bool) -> None:
        try:
            if not is_kept:
                await self._remove(resident.adapter)
                _log.info("adapter unloaded", version=str(version))
        finally:
            await resident.held.aclose()

    async def _remove(self, adapter: LoadedAdapter) -> None:
        try:
            await self._engine.remove_adapter(adapter)
        except Exception as error:
            # Who is loaded next is not what it died of.
            self._died = self._died or isinstance(error, Aborted)
            _log.warning(
                "adapter not removed",
                name=adapter.name,
                error=str(error),
                exc_info=not isinstance(error, TailorbirdError),
            )

    def _count(self) -> None:
        self._metrics.resident.set(len(self._residents))


def _died() -> Unavailable:
    return Unavailable("the engine died while an adapter was loaded", reason=ENGINE_DIED)
