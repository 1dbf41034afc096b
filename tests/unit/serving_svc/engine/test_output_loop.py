"""Outputs on their way to the sinks: what one request's may do to others is nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving_svc.engine.collectors import ChunkCollector
from serving_svc.engine.output_loop import OutputLoop
from serving_svc.generation.model import Chunk, FinishReason, Sampling
from tailorbird.errors import TailorbirdError


class Sink:
    def __init__(self, did: list[str]) -> None:
        self.did = did
        self.chunks: list[Chunk] = []
        self.error: TailorbirdError | None = None

    def count(self, tokens: int) -> None:
        self.did.append(f"counted {tokens}")

    def put(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)

    def fail(self, error: TailorbirdError) -> None:
        self.did.append("failed")
        self.error = error


def completion(finish: str | None = None, index: int = 0, **more: Any) -> Any:
    told = {"text": "a", "token_ids": [1], "logprobs": None} | more
    return SimpleNamespace(finish_reason=finish, index=index, **told)


def output(*completions: Any, finished: bool = False) -> Any:
    return SimpleNamespace(outputs=list(completions), finished=finished)


class Case:
    """A collector, and what it did in order."""

    def __init__(self, **sampling: Any) -> None:
        self.did: list[str] = []
        self.sink = Sink(self.did)
        self.collector = ChunkCollector(
            self.sink,
            Sampling(**sampling),
            lambda: self.did.append("ended"),
            lambda: self.did.append("abandoned"),
        )


async def test_it_has_ended_before_its_last_chunk_is_told() -> None:
    case = Case()
    case.collector.put(output(completion()))
    assert case.did == []
    case.collector.put(output(completion("length"), finished=True))
    assert case.did == ["ended"]
    assert [chunk.finish_reason for chunk in case.sink.chunks] == [None, FinishReason.LENGTH]
    case.collector.put(output(completion()))
    assert len(case.sink.chunks) == 2


async def test_an_engine_that_ends_a_request_by_itself_fails_it() -> None:
    case = Case()
    case.collector.put(output(completion("error"), finished=True))
    assert case.did == ["ended", "failed"]


async def test_one_completion_that_fails_ends_its_siblings_before_the_slot_is_let_go() -> None:
    case = Case(n=3)
    case.collector.put(output(completion("error", index=1)))
    # vLLM is in the midst of it: only now may it be told to end the others.
    assert case.did == []
    case.collector.put(output(completion(index=2)))
    await asyncio.sleep(0)
    assert case.did == ["abandoned", "failed"]
    assert case.sink.chunks == []
    assert case.sink.error is not None
    assert case.sink.error.reason == "ENGINE_STOPPED"


async def test_an_output_that_cannot_be_read_fails_its_request_alone() -> None:
    case = Case(logprobs=1)
    case.collector.put(output(completion(logprobs=[])))
    await asyncio.sleep(0)
    assert case.did == ["abandoned", "failed"]


class Llm:
    """What the loop needs of vLLM; `may_process` holds a step back."""

    def __init__(self) -> None:
        self.outputs: asyncio.Queue[Any] = asyncio.Queue()
        self.processed: asyncio.Queue[None] = asyncio.Queue()
        self.errors: list[Exception] = []
        self.aborted: list[str] = []
        self.reqs_to_abort: list[str] = []
        self.output_handler: Any = None
        self.engine_core = self.output_processor = self

    async def get_output_async(self) -> Any:
        found = await self.outputs.get()
        if isinstance(found, Exception):
            raise found
        return found

    def process_outputs(self, piece: Any, *_: Any, **__: Any) -> Any:
        self.processed.put_nowait(None)
        return SimpleNamespace(reqs_to_abort=self.reqs_to_abort)

    async def abort_requests_async(self, ids: list[str]) -> None:
        self.aborted += ids

    def propagate_error(self, error: Exception) -> None:
        self.errors.append(error)

    async def step(self, *request_ids: str) -> None:
        step = [SimpleNamespace(request_id=of, new_token_ids=[1]) for of in request_ids]
        self.outputs.put_nowait(
            SimpleNamespace(
                outputs=step or [SimpleNamespace(request_id="none", new_token_ids=[])],
                scheduler_stats=None,
                timestamp=0.0,
                weight_version=None,
            )
        )
        await self.processed.get()


@pytest.fixture
def llm() -> Llm:
    return Llm()


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
async def loop(llm: Llm, now: list[float]) -> AsyncIterator[OutputLoop]:
    made = OutputLoop(cast("Any", llm), lambda: now[0])
    yield made
    await made.close()


def counting(did: list[int]) -> Any:
    count: Callable[[int], None] = did.append
    return SimpleNamespace(count=count, put=None)


async def test_silence_is_counted_while_something_is_inside(
    loop: OutputLoop, llm: Llm, now: list[float]
) -> None:
    now[0] += 50
    assert loop.silent_seconds == 0
    loop.add("a", counting([]))
    assert loop.silent_seconds == 0
    now[0] += 5
    loop.add("b", counting([]))
    assert loop.silent_seconds == 5
    await llm.step()
    assert loop.silent_seconds == 0
    now[0] += 5
    for request_id in "ab":
        loop.forget(request_id)
    assert loop.silent_seconds == 0


async def test_quiet_is_counted_whoever_comes_and_goes(
    loop: OutputLoop, llm: Llm, now: list[float]
) -> None:
    for _ in range(3):
        loop.add("a", counting([]))
        now[0] += 10
        loop.forget("a")
    assert (loop.silent_seconds, loop.quiet_seconds) == (0, 30)
    await llm.step()
    assert loop.quiet_seconds == 0


async def test_tokens_are_counted_for_who_is_inside(loop: OutputLoop, llm: Llm) -> None:
    counted: list[int] = []
    loop.add("a", counting(counted))
    await llm.step("a", "b")
    loop.forget("a")
    await llm.step("a")
    assert counted == [1]


async def test_what_ended_by_a_stop_string_is_ended_in_the_engine(
    loop: OutputLoop, llm: Llm
) -> None:
    llm.reqs_to_abort = ["a"]
    await llm.step("a")
    assert llm.aborted == ["a"]


async def test_the_end_of_outputs_is_told_to_all(loop: OutputLoop, llm: Llm) -> None:
    error = OSError("pipe")
    llm.outputs.put_nowait(error)
    await loop.died()
    assert llm.errors == [error]
    assert llm.output_handler.done()
