"""Work that pauses: a generator whose every piece takes a bounded time, and whose return counts."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Done(NamedTuple, Generic[T]):
    """What work came to."""

    result: T


def some(work: Generator[None, None, T], seconds: float) -> Done[T] | None:
    """Go on with the work for so long, or until it is done; None if it is not."""
    until = time.monotonic() + seconds
    while True:
        try:
            next(work)
        except StopIteration as end:
            return Done(end.value)
        if time.monotonic() >= until:
            return None


def drained(work: Generator[None, None, T]) -> T:
    """Do all of the work without a pause."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
