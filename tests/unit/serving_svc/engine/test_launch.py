"""An engine that has ended is let go of, though what a start leaves is never collected."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving_svc.engine import vllm_engine
from serving_svc.engine.launch import engine_starter
from tailorbird.errors import FailedPrecondition, Unavailable


class Engine:
    def __init__(self) -> None:
        # As vLLM's: only the collector ends it.
        self.itself = self
        self.error: Exception | None = None
        self.ended = False

    async def check(self) -> None:
        if self.error is not None:
            raise self.error

    async def shutdown(self) -> None:
        self.ended = True


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    given: list[Any] = []

    async def build(config: object) -> Any:
        if isinstance(given[0], Exception):
            raise given.pop(0)
        return given.pop(0)

    monkeypatch.setattr(vllm_engine.VllmEngine, "build", build)
    yield given
    gc.unfreeze()


def starter() -> Any:
    base = SimpleNamespace(path=Path("base"), name="base")
    plan = SimpleNamespace(
        adapter_slots=1,
        max_cpu_loras=1,
        max_lora_rank=8,
        max_running=1,
        max_step_tokens=None,
        tensor_parallel_size=1,
    )
    return engine_starter(
        cast("Any", base),
        cast("Any", plan),
        [],
        dtype="float32",
        max_model_len=None,
        gpu_memory_utilization=0.9,
        enforce_eager=None,
        tool_call_parser=None,
    )


async def test_an_engine_that_ended_is_collected_when_others_start(engines: list[Any]) -> None:
    start = starter()
    engines += [Engine(), Engine()]
    first = await start()
    assert gc.get_freeze_count()
    alive = weakref.ref(first)
    del first
    await start()
    assert alive() is None


async def test_an_engine_that_fails_its_check_is_ended(engines: list[Any]) -> None:
    engine = Engine()
    engine.error = Unavailable("no")
    engines.append(engine)
    with pytest.raises(Unavailable):
        await starter()()
    assert engine.ended


async def test_what_vllm_raises_says_that_the_base_cannot_be_used(engines: list[Any]) -> None:
    engines.append(ValueError("x" * 10_000))
    with pytest.raises(FailedPrecondition) as caught:
        await starter()()
    assert caught.value.reason == "BASE_UNUSABLE"
    assert len(caught.value.message) < 1000
