"""What is running at one moment, for whoever scrapes the metrics from another thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as Late

from serving_svc.generation.life import Life, Lives
from serving_svc.generation.warming import Warmer
from serving_svc.metrics import Snapshot
from tailorbird.errors import Unavailable
from tailorbird.names import VersionName

_SECONDS = 2.0


class PresentState:
    """Reads the present life of the engine, on its event loop.

    `cache` gives the share of the key-value cache in use, its blocks' size in tokens, and their
    number. A loop that does not answer in time shows what was seen last; without an engine nothing
    runs, waits or is loaded.
    """

    def __init__(
        self,
        lives: Lives,
        warmer: Warmer,
        model: str,
        slots: int,
        cache: Callable[[], tuple[float, int, int]],
    ) -> None:
        self._lives = lives
        self._warmer = warmer
        self._model = model
        self._slots = slots
        self._cache = cache
        self._loop = asyncio.get_running_loop()
        self._nothing = self._last = Snapshot(model, 0, 0, (), (), (), slots)

    def snapshot(self) -> Snapshot:
        """See metrics.ServingState."""
        read = asyncio.run_coroutine_threadsafe(self._read(), self._loop)
        try:
            self._last = read.result(_SECONDS)
        except Unavailable:
            self._last = self._nothing
        except Late:
            read.cancel()
        return self._last

    async def _read(self) -> Snapshot:
        life = self._lives.current()
        seen = life.scheduler.snapshot()
        usage, block_size, blocks = self._cache()
        return Snapshot(
            model=self._model,
            running=life.scheduler.running,
            # Warm-ups among them: the first request to an adapter waits for one.
            waiting=sum(seen.waiting.values()),
            running_adapters=_adapters(seen.running),
            waiting_adapters=_adapters(seen.waiting),
            loaded=self._loaded(life),
            kept=[str(version.adapter_name) for version in life.residency.kept()],
            slots=self._slots,
            kv_usage=usage,
            block_size=block_size,
            blocks=blocks,
        )

    def _loaded(self, life: Life) -> list[tuple[str, bool]]:
        return [
            (str(version.adapter_name), self._warmer.is_pinned(version))
            for version in life.residency.versions()
        ]


def _adapters(versions: Iterable[VersionName | None]) -> list[str]:
    return sorted({str(version.adapter_name) for version in versions if version is not None})
