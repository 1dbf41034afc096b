"""What vLLM's own bookkeeping holds after requests that end badly: nothing. Its processes are fake.

The real ones are in tests/contract/test_engine.py; they do not fail when a test wants it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.engine.output_processor import OutputProcessor

from serving_svc.adapters.model import LoadedAdapter
from serving_svc.engine.vllm_engine import VllmEngine
from serving_svc.generation.model import Chunk, EngineDied, EngineRequest, Sampling
from tailorbird.errors import InvalidArgument, TailorbirdError, Unavailable
from tests.unit.serving_svc.adapters.cancelling import CancelledAt
from tests.unit.serving_svc.engine.test_tools import PLAIN, tokenizer


class Core:
    """The other end of the pipe: what was sent, in order, and outputs as the test says."""

    def __init__(self) -> None:
        self.resources = SimpleNamespace(engine_dead=False)
        self.outputs: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[tuple[str, Any]] = []
        self.errors: list[Exception | None] = []

    async def get_output_async(self) -> Any:
        return await self.outputs.get()

    async def add_request_async(self, request: Any) -> None:
        await asyncio.sleep(0)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.sent.append(("add", request.request_id))

    async def abort_requests_async(self, ids: list[str]) -> None:
        self.sent.append(("abort", list(ids)))

    @property
    def inside(self) -> set[str]:
        added = {of for what, of in self.sent if what == "add"}
        return added - {of for what, ids in self.sent if what == "abort" for of in ids}

    def step(self, request_id: str, finish: FinishReason | None = None) -> None:
        output = EngineCoreOutput(request_id, [3], finish_reason=finish)
        self.outputs.put_nowait(EngineCoreOutputs(outputs=[output]))


class Inputs:
    assign_request_id = staticmethod(InputProcessor.assign_request_id)

    def process_inputs(self, request_id: str, prompt: Any, parameters: Any, **_: Any) -> Any:
        return EngineCoreRequest(
            request_id, prompt["prompt_token_ids"], None, parameters, None, 0.0, None, None, None
        )


class Llm:
    def __init__(self) -> None:
        self.tokenizer = tokenizer(PLAIN)
        self.engine_core = Core()
        self.output_processor = OutputProcessor(self.tokenizer, log_stats=False)
        self.input_processor = Inputs()
        self.model_config = SimpleNamespace(max_model_len=64, get_vocab_size=lambda: 256)
        self.output_handler: Any = None

    def get_tokenizer(self) -> Any:
        return self.tokenizer

    @property
    def errored(self) -> bool:
        return bool(self.engine_core.resources.engine_dead)


class Sink:
    """When it fails, a task lets go of the adapter, as the scheduler's would."""

    def __init__(self, core: Core) -> None:
        self.core = core
        self.chunks: list[Chunk] = []
        self.error: TailorbirdError | None = None
        self.unloading: asyncio.Task[None] | None = None
        self.sent_before: list[tuple[str, Any]] = []
        self.heard = asyncio.Event()

    def count(self, tokens: int) -> None: ...

    def put(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.heard.set()

    def fail(self, error: TailorbirdError) -> None:
        self.error = error
        self.unloading = asyncio.create_task(self._unload())

    async def _unload(self) -> None:
        self.sent_before = list(self.core.sent)
        self.heard.set()


class Case:
    def __init__(self) -> None:
        self.llm = Llm()
        self.core = self.llm.engine_core
        self.engine = VllmEngine(cast("Any", self.llm), None)
        self.sink = Sink(self.core)

    async def start(self, n: int = 1, adapter: LoadedAdapter | None = None, **more: Any) -> Any:
        sampling = Sampling(**({"n": n, "temperature": 1.0} | more))
        request = EngineRequest([1, 2], sampling, 8, "acme", adapter)
        return await self.engine.start(request, self.sink)

    async def check_nothing_is_held(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        processor = self.llm.output_processor
        assert not processor.request_states
        assert not processor.parent_requests
        assert not processor.external_req_ids
        assert not self.engine._loop._collectors
        assert not self.engine._aborts
        assert not self.core.inside


@pytest.fixture
async def case() -> AsyncIterator[Case]:
    made = Case()
    yield made
    await made.engine._loop.close()
    made.engine._tokenizer.close()


def added(case: Case) -> list[str]:
    return [of for what, of in case.core.sent if what == "add"]


@pytest.mark.parametrize("n", [1, 3])
async def test_an_abort_is_heard_on_both_sides(case: Case, n: int) -> None:
    handle = await case.start(n)
    case.core.step(added(case)[0])
    await case.sink.heard.wait()
    handle.abort()
    handle.abort()
    await case.check_nothing_is_held()
    assert [what for what, _ in case.core.sent] == ["add"] * n + ["abort"]


async def test_siblings_of_a_completion_that_failed_are_ended(case: Case) -> None:
    handle = await case.start(3)
    first, second, third = added(case)
    case.core.step(first, FinishReason.LENGTH)
    # As when a grammar rejects what was generated.
    case.core.step(second, FinishReason.ERROR)
    while not case.sink.sent_before:
        case.sink.heard.clear()
        await case.sink.heard.wait()
    what, ids = case.sink.sent_before[-1]
    assert what == "abort"
    assert third in ids
    handle.abort()
    await case.check_nothing_is_held()


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("error", "told"), [(EngineDeadError(), EngineDied), (OSError("pipe"), OSError)]
)
async def test_a_request_that_cannot_be_sent_is_forgotten(
    case: Case, n: int, error: Exception, told: type[Exception]
) -> None:
    case.core.errors = [None] * (n - 1) + [error]
    with pytest.raises(told):
        await case.start(n)
    await case.check_nothing_is_held()


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_cancelled_while_it_is_sent_a_request_is_forgotten(case: Case, at: int) -> None:
    task = asyncio.create_task(CancelledAt(case.start(3), at).run())
    await asyncio.wait({task})
    assert task.cancelled()
    await case.check_nothing_is_held()


async def test_a_request_that_cannot_be_noted_is_forgotten(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = case.llm.output_processor
    add = processor.add_request

    def failing(request: Any, prompt: Any, parent: Any, index: int, queue: Any) -> None:
        if index == 1:
            raise MemoryError
        add(request, prompt, parent, index, queue)

    monkeypatch.setattr(processor, "add_request", failing)
    with pytest.raises(MemoryError):
        await case.start(3)
    await case.check_nothing_is_held()


async def test_what_vllm_refuses_is_the_callers_error(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusing(*_: Any, **__: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(case.llm.input_processor, "process_inputs", refusing)
    with pytest.raises(InvalidArgument):
        await case.start()
    await case.check_nothing_is_held()


async def test_an_adapter_of_an_earlier_life_is_not_asked_for(case: Case, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        await case.start(adapter=LoadedAdapter(7, "adapter-7", tmp_path))
    assert caught.value.reason == "ADAPTER_NOT_LOADED"
    with pytest.raises(Unavailable):
        await case.engine.prompt_logprobs([1, 2], LoadedAdapter(7, "adapter-7", tmp_path))
    assert not case.core.sent
    await case.check_nothing_is_held()


async def test_a_dead_engine_takes_nothing(case: Case) -> None:
    case.core.resources.engine_dead = True
    with pytest.raises(Unavailable) as caught:
        await case.start()
    assert caught.value.reason == "ENGINE_RESTARTING"
    await case.check_nothing_is_held()


async def test_scoring_that_is_cancelled_is_forgotten(case: Case) -> None:
    task = asyncio.create_task(case.engine.prompt_logprobs([1, 2], None))
    while not case.core.sent:  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    await case.check_nothing_is_held()
