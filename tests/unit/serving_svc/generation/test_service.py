"""A request's whole way, and what it leaves behind wherever that ends: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from serving_svc.generation import service as module
from serving_svc.generation.model import (
    Chat,
    Chunk,
    EngineDied,
    FinishReason,
    GenerationRequest,
    Message,
    Structure,
    Tool,
    Usage,
)
from tailorbird.errors import (
    AdapterRefused,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TailorbirdError,
    Unavailable,
)
from tests.unit.serving_svc.adapters.published import ADAPTER, version
from tests.unit.serving_svc.generation.serving import Serving, request

LENGTH = FinishReason.LENGTH


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    opened = await Serving(tmp_path).open(version(1), version(2))
    yield opened
    await opened.close()


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[Serving]:
    opened = await Serving(tmp_path, slots=1).open(version(1), version(2))
    yield opened
    await opened.close()


def outcomes(serving: Serving) -> dict[str, float]:
    (family,) = serving.metrics.requests._counter.collect()
    return {
        sample.labels["outcome"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total")
    }


async def inside(serving: Serving, count: int = 1) -> None:
    while len(serving.engine.inside) < count:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_the_first_chunk_says_who_answers_and_the_last_has_the_usage(
    serving: Serving,
) -> None:
    chunks = [chunk async for chunk in serving.generations.stream(request())]
    assert (chunks[0].version, chunks[0].route_generation) == (version(1), 7)
    assert "".join(chunk.text for chunk in chunks) == "BBB"
    assert (chunks[-1].finish_reason, chunks[-1].usage) == (LENGTH, Usage(2, 3))
    assert outcomes(serving) == {"ok": 1}
    serving.check_nothing_is_held()


async def test_calls_are_read_from_an_answer_unless_the_request_reads_them_itself(
    serving: Serving,
) -> None:
    chat = Chat((Message("user", "Hi"),), (Tool("look"),))
    asked = replace(request(None), input=chat)
    await serving.generations.generate(asked)
    await serving.generations.generate(replace(asked, read_calls=False))
    assert [started.tools for started in serving.engine.started] == [(Tool("look"),), ()]


async def test_a_whole_answer_has_its_completions_in_order(serving: Serving) -> None:
    asked = request(None, sampling={"n": 3, "return_token_ids": True})
    answer = await serving.generations.generate(asked)
    assert [completion.text for completion in answer.completions] == ["bbb"] * 3
    assert [completion.token_ids for completion in answer.completions] == [(7, 7, 7)] * 3
    assert (answer.version, answer.usage) == (None, Usage(2, 9))
    assert serving.engine.started[0].final_only
    serving.check_nothing_is_held()


@pytest.mark.parametrize("asked", [request(None), request(), request(version=version(2))])
async def test_cancelled_anywhere_it_leaves_nothing(
    serving: Serving, asked: GenerationRequest
) -> None:
    counted = await serving.cancelled_everywhere(lambda: serving.generations.generate(asked))
    assert counted >= (2 if asked.adapter is None else 3)


async def test_cancelled_anywhere_while_its_slot_is_anothers_it_leaves_nothing(
    narrow: Serving,
) -> None:
    counted = await narrow.cancelled_everywhere(
        lambda: narrow.generations.generate(request(version=version(2))), before=request()
    )
    assert counted >= 3


@pytest.mark.parametrize(
    "error", [InvalidArgument("sampling", "no"), Unavailable("gone"), EngineDied("died"), OSError()]
)
async def test_a_start_that_fails_leaves_nothing(serving: Serving, error: Exception) -> None:
    serving.engine.start_error = error
    with pytest.raises(type(error)):
        await serving.generations.generate(request())
    serving.check_nothing_is_held()
    assert outcomes(serving) == {getattr(error, "reason", "INTERNAL"): 1}


async def test_whatever_fails_between_admission_and_start_leaves_nothing(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(module, "request_digest", fails)
    with pytest.raises(MemoryError):
        await serving.generations.generate(request())
    serving.check_nothing_is_held()


async def test_a_reader_who_leaves_ends_the_generation_before_its_slot_is_free(
    narrow: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    leave = narrow.scheduler.leave

    def leaving(ticket: object) -> None:
        left.append(len(narrow.engine.inside))
        leave(ticket)  # type: ignore[arg-type]

    monkeypatch.setattr(narrow.scheduler, "leave", leaving)
    async with aclosing(narrow.generations.stream(request())) as chunks:
        await anext(chunks)
        assert narrow.scheduler.leases(version(1)) == 1
        assert narrow.metrics.leases._value.get() == 1
    # An adapter that left with its request inside would end vLLM for everybody.
    assert left == [0]
    narrow.check_nothing_is_held()
    assert outcomes(narrow) == {"cancelled": 1}


async def test_a_reader_who_is_slow_keeps_no_slot(narrow: Serving) -> None:
    async with aclosing(narrow.generations.stream(request())) as chunks:
        await anext(chunks)
        await narrow.generations.generate(request(version=version(2)))
        assert [chunk.finish_reason async for chunk in chunks][-1] is LENGTH


async def test_who_waits_when_the_engine_ends_is_told_to_come_again(narrow: Serving) -> None:
    narrow.engine.may_step.clear()
    running = asyncio.create_task(narrow.generations.generate(request()))
    await inside(narrow)
    waiting = asyncio.create_task(narrow.generations.generate(request(version=version(2))))
    while not narrow.scheduler.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await narrow.end()
    with pytest.raises(EngineDied):
        await running
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.reason == "ENGINE_RESTARTING"
    assert narrow.metrics.leases._value.get() == 0
    with pytest.raises(Unavailable):
        await narrow.generations.generate(request())
    narrow.begin()
    await narrow.generations.generate(request())
    narrow.check_nothing_is_held()


async def dies_with(serving: Serving, text: str, *, reader_leaves: bool) -> None:
    serving.engine.may_step.clear()
    stream = serving.generations.stream(request(text=text, sampling={"max_tokens": 9}))
    first: asyncio.Task[Chunk] = asyncio.create_task(anext(stream))
    await inside(serving)
    if reader_leaves:
        serving.engine.may_step.set()
        await first
    await serving.end()
    if reader_leaves:
        await stream.aclose()
    else:
        with pytest.raises(EngineDied):
            await first
    serving.begin()


@pytest.mark.parametrize("reader_leaves", [False, True])
async def test_a_request_inside_at_two_deaths_is_refused(
    serving: Serving, *, reader_leaves: bool
) -> None:
    for _ in range(2):
        await dies_with(serving, "bad", reader_leaves=reader_leaves)
    with pytest.raises(FailedPrecondition) as caught:
        await serving.generations.generate(request(text="bad", sampling={"max_tokens": 9}))
    assert caught.value.reason == "REQUEST_SUSPECT"
    assert not serving.engine.started
    await serving.generations.generate(request(text="bat", sampling={"max_tokens": 9}))
    serving.check_nothing_is_held()


async def test_a_start_that_dies_twice_is_refused(serving: Serving) -> None:
    serving.engine.start_error = EngineDied("died")
    for _ in range(2):
        with pytest.raises(EngineDied):
            await serving.generations.generate(request())
    with pytest.raises(FailedPrecondition):
        await serving.generations.generate(request())


@pytest.mark.parametrize("error", [AdapterRefused("no", reason="X"), NotFound("gone")])
async def test_a_version_that_is_refused_late_is_walked_back_from_once(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, error: TailorbirdError
) -> None:
    real = serving.scheduler.admit

    async def admit(ticket: object) -> None:
        if ticket.version == version(1):  # type: ignore[attr-defined]
            raise error
        await real(ticket)  # type: ignore[arg-type]

    monkeypatch.setattr(serving.scheduler, "admit", admit)
    with pytest.raises(type(error)):
        await serving.generations.generate(request())
    assert serving.routes.forgotten == [(ADAPTER, 7)]
    serving.routes.walks_to = version(2)
    answer = await serving.generations.generate(request())
    assert answer.version == version(2)
    # Who names the version gets what he names or nothing.
    with pytest.raises(type(error)):
        await serving.generations.generate(request(version=version(1)))
    assert len(serving.routes.forgotten) == 2
    serving.check_nothing_is_held()


async def test_a_version_named_is_not_resolved_but_may_be_gone(serving: Serving) -> None:
    answer = await serving.generations.generate(request(version=version(2)))
    assert (answer.version, answer.route_generation) == (version(2), 0)
    assert not serving.routes.asked
    serving.routes.deleted[version(2)] = NotFound("deleted")
    with pytest.raises(NotFound):
        await serving.generations.generate(request(version=version(2)))


async def test_the_route_is_asked_as_the_caller_asks(serving: Serving) -> None:
    await serving.generations.generate(request(routing_key="k", min_route_generation=3))
    assert serving.routes.asked == [(ADAPTER, "k", 3)]


async def test_a_structure_reaches_the_engine_as_it_was_checked(serving: Serving) -> None:
    asked = request(None, sampling={"structure": Structure("regex", "a*")})
    await serving.generations.generate(asked)
    assert serving.engine.started[0].sampling.structure == Structure("regex", "checked")
    serving.structures.error = InvalidArgument("sampling.regex", "no")
    with pytest.raises(InvalidArgument):
        await serving.generations.generate(asked)
    serving.check_nothing_is_held()
