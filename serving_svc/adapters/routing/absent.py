"""Adapters that have nothing to serve: asking for one again costs no look at the store."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from tailorbird.errors import TailorbirdError
from tailorbird.names import AdapterName
from tailorbird.routes import Route

_FIRST_RETRY_SECONDS = 1.0
_LAST_RETRY_SECONDS = 300.0
_MAX_ADAPTERS = 4096

MakeError = Callable[[], TailorbirdError]
"""Makes the error anew each time: one that is raised twice keeps the frames of both."""


def retry_seconds(failures: int) -> float:
    """Return how long to leave what failed `failures` times alone: 1 s, doubling to 5 minutes."""
    return min(_FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 20), _LAST_RETRY_SECONDS)


@dataclass(slots=True)
class _Absent:
    error: MakeError
    head: Route | None
    failures: int
    until: float
    used: float


class AbsentAdapters:
    """At most `max_adapters` of them; the least recently asked for leave first."""

    def __init__(self, clock: Callable[[], float], *, max_adapters: int = _MAX_ADAPTERS) -> None:
        self._clock = clock
        self._max_adapters = max_adapters
        self._absent: OrderedDict[AdapterName, _Absent] = OrderedDict()

    def check(self, adapter: AdapterName, min_generation: int) -> None:
        """Raise what the last look ended with, unless a look now may end otherwise.

        It may when the time has lapsed, or when a generation is asked for that was not there.
        """
        absent = self._absent.get(adapter)
        if absent is None:
            return
        now = self._clock()
        absent.used = now
        self._absent.move_to_end(adapter)
        seen = absent.head.generation if absent.head else 0
        if now < absent.until and min_generation <= seen:
            raise absent.error()

    def unrouted(self, adapter: AdapterName, error: MakeError, seconds: float) -> None:
        """Remember for `seconds` that the adapter has no route, or does not exist."""
        self._put(adapter, _Absent(error, None, 0, self._clock() + seconds, self._clock()))

    def refused(self, adapter: AdapterName, error: MakeError, head: Route, retry: bool) -> None:
        """Remember that every route up to `head` is refused.

        Until there is a newer one; with `retry`, until the back-off lapses as well.
        """
        before, now = self._absent.get(adapter), self._clock()
        failures = 1
        if before is not None and before.head is not None:
            failures += before.failures * (before.head.generation == head.generation)
        until = now + retry_seconds(failures) if retry else float("inf")
        self._put(adapter, _Absent(error, head, failures, until, now))

    def clear(self, adapter: AdapterName) -> None:
        """Forget it: there is something to serve, or to look at."""
        self._absent.pop(adapter, None)

    def refused_heads(self, used_since: float) -> list[tuple[AdapterName, Route]]:
        """Return the refused adapters asked for since then, each with the newest route seen."""
        return [
            (adapter, absent.head)
            for adapter, absent in self._absent.items()
            if absent.head is not None and absent.used >= used_since
        ]

    def _put(self, adapter: AdapterName, absent: _Absent) -> None:
        self._absent[adapter] = absent
        self._absent.move_to_end(adapter)
        if len(self._absent) > self._max_adapters:
            self._absent.popitem(last=False)
