"""Fills the scheduler's slots, from disk or from a folder that is no version yet."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress

from serving_svc.adapters.model import LoadedAdapter, StagedAdapter
from serving_svc.adapters.residency import Residency
from tailorbird.errors import TailorbirdError, Unavailable
from tailorbird.names import VersionName


class SlotLoader:
    """What the scheduler loads with: versions from disk, and folders that are no version yet."""

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._scratch: dict[VersionName, StagedAdapter] = {}
        self._loaded: dict[VersionName, tuple[AsyncExitStack, LoadedAdapter]] = {}

    async def load(self, version: VersionName) -> None:
        """See scheduler.AdapterLoader."""
        staged = self._scratch.get(version)
        if staged is None:
            await self._residency.load(version)
            return
        async with AsyncExitStack() as stack:
            adapter = await stack.enter_async_context(self._residency.scratch(staged))
            if self._scratch.get(version) is not staged:
                # Nobody would unload it, and its folder goes.
                raise Unavailable(f"{version} was given up meanwhile", reason="ADAPTER_NOT_LOADED")
            self._loaded[version] = stack.pop_all(), adapter

    async def unload(self, version: VersionName) -> None:
        """See scheduler.AdapterLoader."""
        if version in self._loaded:
            stack, _ = self._loaded.pop(version)
            with suppress(TailorbirdError):
                await stack.aclose()
            return
        await self._residency.unload(version)

    def offer(self, staged: StagedAdapter) -> None:
        """Load this folder when its version is asked for."""
        self._scratch[staged.version] = staged

    def withdraw(self, version: VersionName) -> None:
        """Forget the folder."""
        self._scratch.pop(version, None)

    def loaded(self, version: VersionName) -> LoadedAdapter:
        """Return what the engine knows an offered folder as; its slot is held."""
        return self._loaded[version][1]
