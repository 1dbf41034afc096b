"""What the engine puts, what the reader gets, and when the request lets go."""

from __future__ import annotations

import asyncio

import pytest

from serving_svc.generation.model import Chunk, FinishReason, Usage
from serving_svc.generation.stream import Pace, Stream
from tailorbird.errors import Unavailable


class Held:
    """What a request holds: the tokens it was charged for, and how often it let go."""

    def __init__(self) -> None:
        self.charged = 0
        self.released = 0

    def charge(self, tokens: int) -> None:
        self.charged += tokens

    def release(self) -> None:
        self.released += 1

    def stream(self, pace: Pace | None = None, completions: int = 1) -> Stream:
        return Stream(pace or Pace(), 3, completions, self.charge, self.release)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def crowd(streams: int, clock: Clock | None = None) -> Pace:
    pace = Pace(clock or Clock())
    for _ in range(streams):
        pace.joined()
    return pace


async def taken(stream: Stream) -> list[Chunk]:
    chunks = []
    while (chunk := await stream.next()) is not None:
        chunks.append(chunk)
    return chunks


async def is_waiting(task: asyncio.Task[Chunk | None]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


def step(stream: Stream, text: str, finish: FinishReason | None = None, index: int = 0) -> None:
    stream.count(1)
    stream.put(Chunk(text, finish, index=index))


async def test_text_comes_in_order_and_ends_with_the_usage() -> None:
    held = Held()
    stream = held.stream()
    reading = asyncio.create_task(taken(stream))
    for text in "abc":
        step(stream, text)
        await asyncio.sleep(0)
    step(stream, "", FinishReason.STOP)
    chunks = await reading
    assert "".join(chunk.text for chunk in chunks) == "abc"
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert chunks[-1].usage == Usage(3, 4)
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert held.charged == 4


async def test_what_comes_while_the_reader_is_away_is_one_chunk() -> None:
    stream = Held().stream()
    for text in "abc":
        step(stream, text)
    chunk = await stream.next()
    assert chunk is not None
    assert chunk.text == "abc"


async def test_the_first_text_is_not_held_back_among_many_streams() -> None:
    stream = Held().stream(crowd(100))
    step(stream, "a")
    chunk = await stream.next()
    assert chunk is not None
    assert chunk.text == "a"


async def test_later_text_waits_for_its_time_among_many_streams() -> None:
    clock = Clock()
    stream = Held().stream(crowd(31, clock))
    step(stream, "a")
    await stream.next()
    reading = asyncio.create_task(stream.next())
    for text in "bc":
        clock.now += 0.006
        step(stream, text)
        assert await is_waiting(reading)
    clock.now += 0.006
    step(stream, "d")
    chunk = await reading
    assert chunk is not None
    assert chunk.text == "bcd"


async def test_steps_that_take_long_are_a_message_each() -> None:
    clock = Clock()
    stream = Held().stream(crowd(31, clock))
    for text in "abc":
        clock.now += 0.02
        step(stream, text)
        chunk = await stream.next()
        assert chunk is not None
        assert chunk.text == text


async def test_a_few_streams_get_each_step_as_it_comes() -> None:
    stream = Held().stream(crowd(11))
    for text in "ab":
        step(stream, text)
        chunk = await stream.next()
        assert chunk is not None
        assert chunk.text == text


async def test_the_end_is_never_held_back() -> None:
    stream = Held().stream(crowd(100))
    step(stream, "a")
    await stream.next()
    step(stream, "b", FinishReason.LENGTH)
    chunk = await stream.next()
    assert chunk is not None
    assert (chunk.text, chunk.finish_reason) == ("b", FinishReason.LENGTH)
    assert await stream.next() is None


async def test_a_step_without_text_is_no_message() -> None:
    stream = Held().stream()
    reading = asyncio.create_task(stream.next())
    step(stream, "")
    assert await is_waiting(reading)
    step(stream, "é")
    chunk = await reading
    assert chunk is not None
    assert chunk.text == "é"


async def test_it_lets_go_when_the_engine_has_ended_not_when_the_reader_has() -> None:
    held = Held()
    stream = held.stream()
    step(stream, "a")
    assert held.released == 0
    step(stream, "b", FinishReason.STOP)
    assert held.released == 1
    await taken(stream)
    stream.release()
    assert held.released == 1


async def test_an_error_comes_after_the_text_before_it_and_lets_go() -> None:
    held = Held()
    stream = held.stream()
    step(stream, "a")
    stream.fail(Unavailable("gone"))
    assert held.released == 1
    chunk = await stream.next()
    assert chunk is not None
    assert chunk.text == "a"
    with pytest.raises(Unavailable, match="gone"):
        await stream.next()


async def test_an_error_wakes_the_reader() -> None:
    stream = Held().stream()
    reading = asyncio.create_task(stream.next())
    assert await is_waiting(reading)
    stream.fail(Unavailable("gone"))
    with pytest.raises(Unavailable, match="gone"):
        await reading


async def test_after_its_end_nothing_is_taken() -> None:
    held = Held()
    stream = held.stream()
    step(stream, "a", FinishReason.STOP)
    stream.put(Chunk("late"))
    stream.fail(Unavailable("late"))
    assert [chunk.text for chunk in await taken(stream)] == ["a"]
    assert held.released == 1


async def test_each_completion_keeps_its_text_and_the_last_to_end_has_the_usage() -> None:
    held = Held()
    stream = held.stream(completions=2)
    for text in "ab":
        step(stream, text, index=0)
        step(stream, text.upper(), index=1)
    step(stream, "", FinishReason.STOP, index=1)
    assert held.released == 0
    step(stream, "c", FinishReason.LENGTH, index=0)
    assert held.released == 1
    chunks = await taken(stream)
    texts = {index: "".join(c.text for c in chunks if c.index == index) for index in (0, 1)}
    assert texts == {0: "abc", 1: "AB"}
    assert {c.index: c.finish_reason for c in chunks if c.finish_reason} == {
        0: FinishReason.LENGTH,
        1: FinishReason.STOP,
    }
    assert [chunk.usage for chunk in chunks if chunk.usage] == [Usage(3, 6)]
    assert chunks[-1].usage is not None


async def test_tokens_and_logprobs_are_merged_with_their_text() -> None:
    stream = Held().stream()
    stream.put(Chunk("a", token_ids=[1]))
    stream.put(Chunk("b", FinishReason.STOP, token_ids=[2, 3]))
    chunk = await stream.next()
    assert chunk is not None
    assert list(chunk.token_ids) == [1, 2, 3]


async def test_a_cancelled_wait_loses_nothing() -> None:
    stream = Held().stream()
    reading = asyncio.create_task(stream.next())
    assert await is_waiting(reading)
    reading.cancel()
    await asyncio.wait({reading})
    step(stream, "a", FinishReason.STOP)
    assert [chunk.text for chunk in await taken(stream)] == ["a"]


async def test_the_pace_falls_when_streams_end() -> None:
    pace = crowd(12)
    assert pace.seconds == 0
    stream = Held().stream(pace)
    assert pace.seconds == pytest.approx(0.0052)
    step(stream, "", FinishReason.STOP)
    assert pace.seconds == 0


def test_the_pace_is_bounded() -> None:
    assert crowd(1000).seconds == 0.025


async def test_a_reader_who_is_away_finds_one_chunk_a_completion() -> None:
    stream = Held().stream(completions=2)
    for text in "abc":
        step(stream, text, index=0)
        step(stream, text.upper(), index=1)
    found = [await stream.next() for _ in range(2)]
    assert [chunk.text for chunk in found if chunk is not None] == ["abc", "ABC"]
    assert await is_waiting(asyncio.create_task(stream.next()))


async def test_among_many_streams_all_completions_come_when_their_time_has() -> None:
    clock = Clock()
    stream = Held().stream(crowd(100, clock), completions=2)
    for index in (0, 1):
        step(stream, "a", index=index)
    for _ in range(2):
        await stream.next()
    reading = asyncio.create_task(stream.next())
    for text in "bc":
        for index in (0, 1):
            step(stream, text, index=index)
        assert await is_waiting(reading)
    clock.now += 0.026
    for index in (0, 1):
        step(stream, "d", index=index)
    found = [await reading, await stream.next()]
    assert [chunk.text for chunk in found if chunk is not None] == ["bcd", "bcd"]
