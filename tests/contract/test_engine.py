"""What serving relies on, of the fake engine and of the real vLLM alike."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from serving_svc.adapters.model import LoadedAdapter
from serving_svc.generation.model import (
    Chunk,
    EngineDied,
    EngineRequest,
    FinishReason,
    Sampling,
    TokenIds,
)
from tailorbird.errors import AdapterRefused, TailorbirdError, Unavailable
from tests.integration.serving.world import PROMPT, make_base, train_adapter
from tests.unit.serving_svc.fakes import FakeEngine, stage, version

SLOTS = 2
HOST_MEMORY = 4
STEP_TOKENS = 256

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # vLLM's own, when it is imported.
    pytest.mark.filterwarnings("default"),
]


class Sink:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.tokens = 0
        self.chunks: list[Chunk] = []
        self.error: TailorbirdError | None = None
        self.heard = asyncio.Event()

    def count(self, tokens: int) -> None:
        self.tokens += tokens

    def put(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.heard.set()

    def fail(self, error: TailorbirdError) -> None:
        self.error = error
        self.heard.set()

    def text(self, index: int = 0) -> str:
        return "".join(chunk.text for chunk in self.chunks if chunk.index == index)

    async def ended(self, completions: int = 1) -> Sink:
        while self.error is None and self.finished < completions:
            self.heard.clear()
            await self.heard.wait()
        return self

    @property
    def finished(self) -> int:
        return sum(chunk.finish_reason is not None for chunk in self.chunks)


@dataclass
class Case:
    """An engine, and folders with adapters it can load."""

    engine: Any
    adapters: list[Path]
    numbers: Any

    def adapter(self, which: int = 0, path: Path | None = None) -> LoadedAdapter:
        number = next(self.numbers)
        return LoadedAdapter(number, f"adapter-{number}", path or self.adapters[which])

    async def start(self, sink: Sink, adapter: LoadedAdapter | None = None, **sampling: Any) -> Any:
        final_only = sampling.pop("final_only", False)
        max_tokens = sampling.pop("max_tokens", 8)
        request = EngineRequest(
            PROMPT,
            Sampling(**({"temperature": 0.0, "ignore_eos": True} | sampling)),
            max_tokens,
            "acme",
            adapter,
            final_only,
        )
        return await self.engine.start(request, sink)

    async def answer(self, adapter: LoadedAdapter | None = None, **sampling: Any) -> Sink:
        sink = Sink()
        await self.start(sink, adapter, **sampling)
        return await sink.ended(sampling.get("n", 1))

    def kill(self) -> None:
        if isinstance(self.engine, FakeEngine):
            self.engine.die()
            return
        for one in engine_processes():
            os.kill(one.pid, signal.SIGKILL)


async def real_engine(base: Path) -> Any:
    for name, value in (
        ("VLLM_LOGGING_LEVEL", "ERROR"),
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        ("OMP_NUM_THREADS", "1"),
    ):
        os.environ.setdefault(name, value)
    from serving_svc.engine.processes import EngineConfig
    from serving_svc.engine.vllm_engine import VllmEngine

    return await VllmEngine.build(
        EngineConfig(
            model=base,
            dtype="float32",
            max_model_len=None,
            adapter_slots=SLOTS,
            max_cpu_loras=HOST_MEMORY,
            max_lora_rank=8,
            lora_modules=["q_proj", "v_proj", "down_proj"],
            max_running=16,
            max_step_tokens=STEP_TOKENS,
            gpu_memory_utilization=0.9,
            tensor_parallel_size=1,
            enforce_eager=None,
        )
    )


@contextmanager
def vllm_left_as_it_was() -> Iterator[None]:
    """Undo what an engine does to the process that starts it, for the tests that come after."""
    from vllm.platforms import current_platform

    platform, before = type(current_platform), dict(os.environ)
    wrapper = platform.__dict__["get_punica_wrapper"]
    try:
        yield
    finally:
        platform.get_punica_wrapper = wrapper
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["fake", "vllm"])
async def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Case]:
    folder = tmp_path_factory.mktemp("engine")
    numbers = iter(range(1, 1000))
    if request.param == "fake":
        yield Case(FakeEngine(HOST_MEMORY), [stage(folder, version(n)) for n in (1, 2)], numbers)
        return
    make_base(folder / "base")
    paths = []
    for seed in (1, 2):
        (folder / f"adapter-{seed}").mkdir()
        train_adapter(folder / "base", folder / f"adapter-{seed}", seed, scale=0.5)
        paths.append(folder / f"adapter-{seed}")
    with vllm_left_as_it_was():
        engine = await real_engine(folder / "base")
        case = Case(engine, paths, numbers)
        yield case
        await engine.shutdown()
        del engine
        case.engine = None
        # What vLLM leaves to the collector warns of itself here, and not in somebody else's test.
        gc.collect()


def engine_processes() -> list[psutil.Process]:
    """Return the children of this process that are vLLM's, and theirs."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if "resource_tracker" not in " ".join(one.cmdline())]


async def test_the_engine_is_one_process(case: Case) -> None:
    # On a CPU vLLM 0.32 would make it two, which wait for each other twice a step, spinning.
    assert len(engine_processes()) == (0 if isinstance(case.engine, FakeEngine) else 1)


async def test_every_token_is_counted_and_the_last_chunk_says_why(case: Case) -> None:
    sink = await case.answer()
    assert sink.tokens == 8
    assert [chunk.finish_reason for chunk in sink.chunks[:-1]] == [None] * (len(sink.chunks) - 1)
    assert sink.chunks[-1].finish_reason is FinishReason.LENGTH


async def test_several_completions_end_each_for_itself(case: Case) -> None:
    sink = await case.answer(n=3, temperature=1.0)
    assert sink.tokens == 24
    assert {chunk.index for chunk in sink.chunks} == {0, 1, 2}
    assert sink.finished == 3


async def test_a_whole_answer_comes_at_once(case: Case) -> None:
    sink = await case.answer(n=2, final_only=True, temperature=1.0)
    assert [chunk.index for chunk in sink.chunks] == [0, 1]
    assert sink.finished == 2
    assert (await case.answer(final_only=True)).text() == (await case.answer()).text()


async def test_token_ids_come_when_they_are_asked_for(case: Case) -> None:
    asked = await case.answer(return_token_ids=True)
    assert sum(len(chunk.token_ids) for chunk in asked.chunks) == 8
    unasked = await case.answer()
    assert not any(chunk.token_ids for chunk in unasked.chunks)


async def test_after_an_abort_the_sink_hears_nothing(case: Case) -> None:
    sink = Sink()
    handle = await case.start(sink, max_tokens=1000, n=2, temperature=1.0)
    await sink.heard.wait()
    handle.abort()
    heard = len(sink.chunks)
    handle.abort()
    # Another request goes the whole way after it.
    await case.answer()
    assert len(sink.chunks) == heard
    assert sink.error is None


async def test_adapters_answer_as_themselves_side_by_side(case: Case) -> None:
    adapters = [case.adapter(which) for which in (0, 1)]
    alone = []
    for adapter in adapters:
        await case.engine.add_adapter(adapter)
        alone.append((await case.answer(adapter)).text())
    base = (await case.answer()).text()
    assert len({base, *alone}) == 3
    together = await asyncio.gather(
        *(case.answer(adapter) for adapter in (None, *adapters) for _ in range(3))
    )
    assert [sink.text() for sink in together] == [text for text in (base, *alone) for _ in range(3)]
    for adapter in adapters:
        await case.engine.remove_adapter(adapter)


async def test_what_is_added_while_all_slots_stream_crosses_nobody(case: Case) -> None:
    """vllm#47724: it takes a slot from those that stream, who take theirs back with a step."""
    adapters = [case.adapter(which % 2) for which in range(HOST_MEMORY)]
    streaming = adapters[:SLOTS]
    for adapter in streaming:
        await case.engine.add_adapter(adapter)
    alone = [(await case.answer(adapter, max_tokens=100)).text() for adapter in streaming]
    sinks = [Sink() for _ in streaming]
    for adapter, sink in zip(streaming, sinks, strict=True):
        await case.start(sink, adapter, max_tokens=100)
    for sink in sinks:
        await sink.heard.wait()
    for adapter in adapters[SLOTS:]:
        await case.engine.add_adapter(adapter)
    assert [(await sink.ended()).text() for sink in sinks] == alone
    # One after the other from host memory into a slot, with nothing asked of the engine for it.
    for adapter, text in [*zip(streaming, alone, strict=True)] * 2:
        for other in adapters[SLOTS:]:
            await case.answer(other)
        assert (await case.answer(adapter, max_tokens=100)).text() == text
    for adapter in adapters:
        await case.engine.remove_adapter(adapter)


async def test_an_adapter_that_cannot_be_loaded_is_refused_and_leaves_no_trace(
    case: Case, tmp_path: Path
) -> None:
    before = (await case.answer()).text()
    broken = case.adapter(path=tmp_path)
    with pytest.raises(AdapterRefused) as refused:
        await case.engine.add_adapter(broken)
    assert refused.value.reason == "LOAD_FAILED"
    await case.engine.remove_adapter(broken)
    assert (await case.answer()).text() == before


async def test_an_adapter_may_leave_at_once_after_its_request_was_aborted(case: Case) -> None:
    for _ in range(3):
        adapter = case.adapter()
        await case.engine.add_adapter(adapter)
        sink = Sink()
        handle = await case.start(sink, adapter, max_tokens=1000)
        await sink.heard.wait()
        handle.abort()
        await case.engine.remove_adapter(adapter)
    assert (await case.answer()).finished == 1


async def test_a_prompts_logprobs_are_one_fewer_than_its_tokens(case: Case) -> None:
    adapter = case.adapter()
    await case.engine.add_adapter(adapter)
    base, tuned = await asyncio.gather(
        *(case.engine.prompt_logprobs(PROMPT, one) for one in (None, adapter))
    )
    assert len(base) == len(tuned) == len(PROMPT) - 1
    assert all(value <= 0 for value in (*base, *tuned))
    assert base != tuned
    await case.engine.remove_adapter(adapter)


async def test_what_is_longer_than_a_step_is_scored_whole(case: Case) -> None:
    adapter, whole = case.adapter(), PROMPT * (2 * STEP_TOKENS // len(PROMPT))
    await case.engine.add_adapter(adapter)
    scores = await asyncio.gather(
        *(
            case.engine.prompt_logprobs(ids, one)
            for one in (None, adapter)
            for ids in (whole, whole[: STEP_TOKENS // 2])
        )
    )
    for long, short in (scores[:2], scores[2:]):
        assert len(long) == len(whole) - 1
        assert long[: len(short)] == pytest.approx(short, abs=1e-3)
    await case.engine.remove_adapter(adapter)


async def test_scoring_may_be_cancelled(case: Case) -> None:
    scoring = asyncio.create_task(case.engine.prompt_logprobs(PROMPT, None))
    await asyncio.sleep(0)
    scoring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scoring
    assert (await case.answer()).finished == 1


async def test_token_ids_are_passed_on_as_they_are(case: Case) -> None:
    assert tuple(await case.engine.encode(TokenIds(PROMPT), "acme")) == PROMPT


async def test_a_dead_engine_ends_what_is_inside_and_takes_nothing_more(case: Case) -> None:
    sinks = [Sink() for _ in range(3)]
    for sink in sinks:
        await case.start(sink, max_tokens=1000)
    await sinks[0].heard.wait()
    case.kill()
    for sink in sinks:
        assert isinstance((await sink.ended()).error, EngineDied)
    await asyncio.wait_for(case.engine.died(), 30)
    with pytest.raises(Unavailable):
        await case.start(Sink())
