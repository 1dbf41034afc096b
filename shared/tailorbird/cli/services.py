"""What `up` runs: started, waited for, started again when one dies, stopped together."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tailorbird.cli.service_process import Part, Plan, Service, ServiceDied

_POLL_SECONDS = 0.1
_GRACE = 35.0


def _nothing(*_: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Told:
    """What is called as things become of the services."""

    ready: Callable[[Service, float], None] = _nothing
    """It takes requests, so many seconds after its start."""
    waits: Callable[[Service, float], None] = _nothing
    """It does not take requests yet, so many seconds after its start; called again and again."""
    dead: Callable[[ServiceDied, float], None] = _nothing
    """It has ended by itself, and is started again in so many seconds."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a service that dies is started again."""

    first_pause: float = 1.0
    """Seconds before it is started again; each time in a row twice as many."""
    longest_pause: float = 30.0
    deaths: int = 5
    """So many in a row are given up on."""
    steady: float = 180.0
    """Seconds that a service was ready for, after which its next death begins a new row."""

    def pause(self, deaths: int) -> float:
        """Return the seconds to wait after so many deaths in a row."""
        return float(min(self.longest_pause, self.first_pause * 2 ** (deaths - 1)))


@dataclass(slots=True)
class _Kept:
    """One service over all of its processes. Times are monotonic."""

    start: Callable[[], Service]
    service: Service
    started: float = field(default_factory=time.monotonic)
    ready_since: float = math.inf
    deaths: int = 0
    due: float | None = None
    """When it is to be started again; None while it runs."""


class Services:
    """Both services, and what else is kept, stopped in order when the block ends.

    Use from the main thread.

    `started` hears of each process by its service's name and its number. When the block ends by an
    error, they have `grace_after_error` seconds to stop in order instead of `grace`.
    """

    def __init__(
        self,
        plan: Plan,
        grace: float = _GRACE,
        *,
        grace_after_error: float | None = None,
        patience: Patience | None = None,
        started: Callable[[str, int], None] = lambda *_: None,
    ) -> None:
        self._plan = plan
        self._grace = grace
        self._grace_after_error = grace if grace_after_error is None else grace_after_error
        self._patience = patience or Patience()
        self._started = started
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._kept: list[_Kept] = []
        self._stopping = False

    def __enter__(self) -> Services:
        try:
            for part in self._plan.services:
                self.keep(part)
        except BaseException:
            for service in self._all:
                service.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopping = True
        for service in self._all:
            service.terminate()
        grace = self._grace if kind is None else self._grace_after_error
        deadline = time.monotonic() + grace
        for service in self._all:
            service.finish(deadline)

    def keep(self, part: Part) -> Service:
        """Start a part, to be looked after like the others."""

        def start() -> Service:
            service = Service(part, self._plan, lambda: self._news.put(None))
            self._started(part.name, service.pid)
            return service

        kept = _Kept(start, start())
        self._kept.append(kept)
        return kept.service

    @property
    def trainer(self) -> Service:
        """The trainer's process, the latest."""
        return self._kept[0].service

    @property
    def serving(self) -> Service:
        """Serving's process, the latest."""
        return self._kept[1].service

    @property
    def both(self) -> tuple[Service, ...]:
        """The trainer and serving."""
        return self._all[:2]

    @property
    def _all(self) -> tuple[Service, ...]:
        return tuple(kept.service for kept in self._kept)

    def stop(self) -> None:
        """Make `until_ready` and `supervise` return; a second time, kill. Safe in a signal handler.

        What they have started goes with them.
        """
        if self._stopping:
            for service in self._all:
                service.kill()
        self._stopping = True
        self._news.put(None)

    def until_ready(self, *services: Service, told: Told = Told()) -> bool:
        """Wait until the services take requests; False if `stop` was called first.

        Without an end as long as they run: a base may have to be downloaded. Raises ServiceDied if
        any of them ends.
        """
        waiting = [kept for kept in self._kept if not services or kept.service in services]
        while waiting and not self._stopping:
            for kept in self._kept:
                if kept.service.exit_status is not None:
                    raise kept.service.death()
            waiting = [kept for kept in waiting if not _is_ready(kept, told)]
            if waiting:
                self._sleep(_POLL_SECONDS)
        return not self._stopping

    def supervise(self, told: Told) -> None:
        """Start again what dies, until `stop` is called; the others go on meanwhile.

        Raises ServiceDied when one has died too often in a row.
        """
        while not self._stopping:
            for kept in self._kept:
                self._look_after(kept, told)
            self._sleep(self._until_next())

    def _look_after(self, kept: _Kept, told: Told) -> None:
        now = time.monotonic()
        if kept.due is not None:
            if now >= kept.due:
                kept.service, kept.started, kept.due = kept.start(), now, None
        elif kept.service.exit_status is not None:
            self._died(kept, now, told)
        elif kept.ready_since == math.inf:
            _is_ready(kept, told)

    def _died(self, kept: _Kept, now: float, told: Told) -> None:
        steady = now - kept.ready_since > self._patience.steady
        kept.deaths = 1 if steady else kept.deaths + 1
        kept.ready_since = math.inf
        death = kept.service.death()
        if kept.deaths >= self._patience.deaths:
            raise ServiceDied(
                f"{kept.service.name} died {kept.deaths} times in a row and is given up on. "
                f"The last time, {death.message}"
            )
        pause = self._patience.pause(kept.deaths)
        kept.due = now + pause
        told.dead(death, pause)

    def _until_next(self) -> float | None:
        """Return the seconds until something is to be looked at again; None: until news come."""
        if any(kept.due is None and kept.ready_since == math.inf for kept in self._kept):
            return _POLL_SECONDS
        due = [kept.due for kept in self._kept if kept.due is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _sleep(self, seconds: float | None) -> None:
        """Return after so many seconds, or as soon as a service ends or `stop` is called."""
        try:
            self._news.get(timeout=seconds)
        except queue.Empty:
            return


def _is_ready(kept: _Kept, told: Told) -> bool:
    """Ask whether it takes requests, and tell."""
    now = time.monotonic()
    if kept.service.get("/readyz")[0] != 200:
        told.waits(kept.service, now - kept.started)
        return False
    kept.ready_since = now
    told.ready(kept.service, now - kept.started)
    return True
