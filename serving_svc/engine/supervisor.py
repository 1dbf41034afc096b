"""Keeps an engine alive: notices its death or silence, and starts another in the same process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import structlog

from serving_svc.generation.life import Life
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import TailorbirdError, Unavailable
from tailorbird.names import VersionName
from tailorbird.uninterrupted import uninterrupted

_log = structlog.get_logger(__name__)

_WATCH_SECONDS = 1.0
_FIRST_DELAY = 1.0
# An engine that lived this long starts the count of deaths anew.
_HEALTHY_SECONDS = 300.0


class WatchedEngine(Protocol):
    """What the supervisor needs of an engine."""

    @property
    def silent_seconds(self) -> float:
        """Seconds without an output while it has work; 0 without work."""

    @property
    def quiet_seconds(self) -> float:
        """Seconds since its last output, with work or without."""

    async def died(self) -> None:
        """Return when it has died."""

    async def check(self) -> None:
        """Generate a little; raises if it cannot."""

    async def shutdown(self) -> None:
        """End it, dead or alive, and everything inside."""


_Engine = TypeVar("_Engine", bound=WatchedEngine)


@dataclass(frozen=True, slots=True)
class Watch:
    """How long is too long, in seconds."""

    stall: float
    """Without an output while busy, or for one token while idle."""
    idle: float
    """Between two tiny generations while idle."""
    longest_delay: float
    """Between two tries to start."""
    attempts: int
    """Tries to start that fail, or lives that end soon, in a row, before it gives up."""


class Supervisor:
    """Runs one engine at a time.

    `start_engine` starts one, ready to generate; `live` puts a life together around it; `restored`
    brings back into it what the one before held; `ready` hears whether requests can be taken.
    `starting` tells that a thread builds another engine, which goes on if `run` is cancelled then.
    """

    def __init__(
        self,
        start_engine: Callable[[], Awaitable[_Engine]],
        live: Callable[[_Engine], Life],
        restored: Callable[[Sequence[VersionName]], Awaitable[None]],
        ready: Callable[[bool], Awaitable[None]],
        watch: Watch,
        metrics: ServingMetrics,
    ) -> None:
        self._start_engine: Callable[[], Awaitable[WatchedEngine]] = start_engine
        self._live: Callable[[WatchedEngine], Life] = live  # type: ignore[assignment]
        self._restored = restored
        self._ready = ready
        self._watch = watch
        self._metrics = metrics
        self._engine: WatchedEngine | None = None
        self._life: Life | None = None
        self._held: Sequence[VersionName] = ()
        self._born = 0.0
        self._failures = 0
        self.starting = False

    def current(self) -> Life:
        """See generation.life.Lives."""
        if self._life is None:
            raise Unavailable(
                "the engine is being restarted", reason="ENGINE_RESTARTING", retry_after=10
            )
        return self._life

    def begin(self, engine: WatchedEngine) -> None:
        """Begin with an engine that was started already."""
        self._engine, self._life = engine, self._live(engine)
        self._born = time.monotonic()
        self._metrics.engine_up.set(1)

    async def run(self) -> None:
        """Watch the engine, and start another whenever it dies; return when that fails for good."""
        while True:
            await self._died_or_silent()
            await self._end_life()
            if not await self._restart():
                return
            self._metrics.engine_restarts.inc()
            if await self._revived():
                await self._ready(True)

    async def close(self) -> None:
        """End the engine, after `run` has returned. Requests inside end with EngineDied."""
        await self._end_life()

    async def _end_life(self) -> None:
        life, engine = self._life, self._engine
        self._life = self._engine = None
        if life is not None and engine is not None:
            # Half ended, it would keep its processes, and those inside would wait for ever.
            await uninterrupted(self._end(life, engine))

    async def _end(self, life: Life, engine: WatchedEngine) -> None:
        self._metrics.engine_up.set(0)
        self._held = life.residency.versions()
        # Those who wait are told at once; those inside hear it from the engine.
        life.scheduler.close(
            Unavailable("the engine is being restarted", reason="ENGINE_RESTARTING", retry_after=10)
        )
        await self._ready(False)
        try:
            await engine.shutdown()
        except Exception:
            _log.exception("the engine did not end well")
        await life.scheduler.aclose()
        await life.residency.close()

    async def _restart(self) -> bool:
        if time.monotonic() - self._born > _HEALTHY_SECONDS:
            self._failures = 0
        while True:
            self._failures += 1
            if self._failures > self._watch.attempts:
                _log.critical("the engine cannot be kept alive", attempts=self._failures - 1)
                return False
            delay = min(_FIRST_DELAY * 2 ** (self._failures - 1), self._watch.longest_delay)
            _log.warning("the engine is started again", attempt=self._failures, delay=delay)
            await asyncio.sleep(delay)
            self.starting = True
            try:
                engine = await self._start_engine()
            except Exception as error:
                self.starting = False
                _log.error("the engine did not start", error=f"{type(error).__name__}: {error}")
                continue
            self.starting = False
            self.begin(engine)
            return True

    async def _revived(self) -> bool:
        """Bring back what was held; return whether the engine outlives it."""
        engine = self._engine
        if engine is None:
            return False
        restoring = asyncio.ensure_future(self._restored(self._held))
        death = asyncio.create_task(engine.died())
        try:
            await asyncio.wait({restoring, death}, return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                return False
            restoring.result()
            return True
        finally:
            restoring.cancel()
            death.cancel()

    async def _died_or_silent(self) -> None:
        engine = self._engine
        if engine is None:
            return
        death = asyncio.create_task(engine.died())
        silence = asyncio.create_task(self._silent(engine))
        try:
            await asyncio.wait({death, silence}, return_when=asyncio.FIRST_COMPLETED)
            if death.done():
                _log.error("the engine died")
            else:
                _log.error("the engine is silent; it is ended", stall_seconds=self._watch.stall)
        finally:
            death.cancel()
            silence.cancel()

    async def _silent(self, engine: WatchedEngine) -> None:
        """Return when the engine has shown no sign of life for too long.

        Requests that are cancelled before their first output prove nothing, and keep it from being
        silent for long: one that is quiet, whoever comes and goes, is asked to generate a little.
        """
        checked = time.monotonic()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            silent = engine.silent_seconds
            if silent > self._watch.stall:
                return
            asked = time.monotonic()
            if engine.quiet_seconds <= self._watch.idle or asked - checked <= self._watch.idle:
                continue
            try:
                async with asyncio.timeout(self._watch.stall - silent):
                    await engine.check()
            except TimeoutError:
                # Others' long prompts may go before it.
                if engine.quiet_seconds >= time.monotonic() - asked:
                    return
            except TailorbirdError as error:
                _log.warning("the engine failed a check", error=error.message)
            checked = time.monotonic()
