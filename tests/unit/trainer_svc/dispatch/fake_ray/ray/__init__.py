"""What the relay uses of Ray, in one process: each call of an actor has a thread of its own.

FAKE_RAY says what is wrong with the cluster: "refuses", "full", "older" (its release), "silent"
from the second look on, or "dies" when the worker has begun. FAKE_RAY_CALLS is the file of calls.
`tests/acceptance/test_ray.py` has the real one.
"""

from __future__ import annotations

import itertools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

_WRONG = os.environ.get("FAKE_RAY", "")
_THREADS = ThreadPoolExecutor(16)


class GetTimeoutError(TimeoutError):
    pass


class ActorDiedError(Exception):
    pass


exceptions = SimpleNamespace(GetTimeoutError=GetTimeoutError, ActorDiedError=ActorDiedError)


def _note(*said: object) -> None:
    with Path(os.environ["FAKE_RAY_CALLS"]).open("a") as file:
        file.write(" ".join(map(str, said)) + "\n")


def init(**how: Any) -> None:
    _note("init", how["address"], how["log_to_driver"])
    if _WRONG == "refuses":
        raise ConnectionError("version mismatch: of /srv/ray")


def shutdown() -> None:
    _note("shutdown")


def get(future: Future[Any], timeout: float | None = None) -> Any:
    try:
        return future.result(timeout)
    except TimeoutError:
        raise GetTimeoutError from None


def remote(kind: type) -> Any:
    def options(**asked: Any) -> Any:
        _note("options", *sorted(f"{key}={value}" for key, value in asked.items()))
        return SimpleNamespace(remote=lambda: _Actor(kind()))

    return SimpleNamespace(options=options)


class _Actor:
    def __init__(self, real: Any) -> None:
        self._real = real
        self._looks = itertools.count()
        self._begun = False

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: _THREADS.submit(self._call, method, *args))

    def _call(self, method: str, *args: Any) -> Any:
        if method not in {"attend", "receive"}:
            _note(method)
        if _WRONG == "full" or (_WRONG == "silent" and method == "attend" and next(self._looks)):
            Event().wait()
        if _WRONG == "older" and method == "node":
            return "host", "0.0.1"
        if _WRONG == "dies" and method == "receive":
            raise ActorDiedError("of 10.0.0.1, its log is in /srv/ray")
        return getattr(self._real, method)(*args)
