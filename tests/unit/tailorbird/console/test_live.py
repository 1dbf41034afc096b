"""What goes to a page piece by piece."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest

from tailorbird.console.live import Streams, past, sse
from tailorbird.errors import ResourceExhausted


def test_no_text_begins_an_event_of_its_own() -> None:
    said = sse("lost", "a\revent: job\r\ndata: <b>\n\nretry: 1")
    assert said == (
        "event: lost\ndata: a\ndata: event: job\ndata: data: <b>\ndata: \ndata: retry: 1\n\n"
    )
    assert sse("end", "") == "event: end\ndata: \n\n"


async def test_a_stream_that_fails_has_not_ended_whatever_the_error() -> None:
    def stream() -> Generator[int]:
        yield 1
        raise LookupError("a defect")

    items = Streams().read(stream)
    assert await anext(items) == 1
    with pytest.raises(LookupError, match="a defect"):
        await anext(items)


async def test_so_many_streams_are_open_and_no_more() -> None:
    go_on = threading.Event()

    def stream() -> Generator[int]:
        yield 1
        go_on.wait(30)

    streams = Streams(most=1)
    first = streams.read(stream)
    assert await anext(first) == 1
    with pytest.raises(ResourceExhausted) as raised:
        await anext(streams.read(stream))
    assert raised.value.reason == "TOO_MANY_STREAMS"
    go_on.set()
    assert [item async for item in first] == []
    second = streams.read(stream)
    assert await anext(second) == 1
    assert [item async for item in second] == []


async def test_a_stream_that_gets_no_thread_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def stream() -> Generator[int]:
        yield 1

    streams = Streams(most=1)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError):
            await anext(streams.read(stream))
    assert [item async for item in streams.read(stream)] == [1]


def test_the_past_is_what_comes_until_the_end_an_error_or_something_new() -> None:
    go_on = threading.Event()

    def fails() -> Iterator[int]:
        yield 1
        raise LookupError("a defect")

    def goes_on() -> Iterator[int]:
        yield from (1, 2)
        assert go_on.wait(30)
        yield 3

    assert list(past(iter([1, 2]), lambda _: False)) == [1, 2]
    with pytest.raises(LookupError, match="a defect"):
        list(past(fails(), lambda _: False))
    assert list(past(iter([1, 2, 3]), lambda item: item == 2)) == [1, 2]
    assert list(past(goes_on(), lambda _: False)) == [1, 2]
    go_on.set()
