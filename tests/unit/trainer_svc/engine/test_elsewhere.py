"""A cancellation outlasts what other threads do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from concurrent.futures import Future
from threading import Event

import pytest

from tailorbird.errors import Aborted
from trainer_svc.engine.elsewhere import finished, in_thread, stoppable


async def test_a_result_and_an_error_come_through() -> None:
    assert await in_thread(lambda _: 7) == 7
    with pytest.raises(KeyError):
        await in_thread(lambda _: {"a": 1}["b"])


async def test_an_iterator_that_ends_too_early_hangs_nobody() -> None:
    with pytest.raises(RuntimeError, match="no more"):
        await asyncio.wait_for(in_thread(lambda _: next(iter(()))), 30)


async def test_a_cancelled_wait_tells_the_thread_and_ends_after_it() -> None:
    began, seen = asyncio.Event(), []
    loop = asyncio.get_running_loop()

    def work(stopped: Callable[[], bool]) -> None:
        loop.call_soon_threadsafe(began.set)
        while not stopped():
            pass
        seen.append("over")
        raise Aborted("stopped")

    task = asyncio.create_task(in_thread(work))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["over"]


async def test_what_has_not_begun_never_begins() -> None:
    queued: Future[None] = Future()
    task = asyncio.create_task(finished(queued, queued.cancel))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert queued.cancelled()


def test_pieces_end_before_the_next_one() -> None:
    done: list[int] = []

    def work() -> Generator[None, None, str]:
        for piece in range(3):
            done.append(piece)
            yield
        return "whole"

    stop = Event()
    pieces = stoppable(work(), stop)
    next(pieces)
    stop.set()
    with pytest.raises(Aborted):
        next(pieces)
    assert done == [0]
    whole = stoppable(work(), Event())
    with pytest.raises(StopIteration) as end:
        while True:
            next(whole)
    assert end.value.value == "whole"
