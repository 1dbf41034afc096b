"""What a scrape sees, from its own thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving_svc.generation import state as module
from serving_svc.generation.state import PresentState
from tests.unit.serving_svc.adapters.published import ADAPTER, OTHER, version
from tests.unit.serving_svc.generation.serving import Serving, request


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    opened = await Serving(tmp_path, slots=1).open(version(1), version(2))
    yield opened
    await opened.close()


async def test_what_runs_and_waits_is_seen_from_another_thread(serving: Serving) -> None:
    state = PresentState(serving, serving.warmer, "base", 1, lambda: (0.5, 16, 64))
    serving.engine.may_step.clear()
    tasks = [
        asyncio.create_task(serving.generations.generate(request(version=version(number))))
        for number in (1, 2)
    ]
    while not (serving.engine.inside and serving.scheduler.waiting):  # noqa: ASYNC110
        await asyncio.sleep(0)
    seen = await asyncio.to_thread(state.snapshot)
    assert (seen.running, seen.waiting, seen.slots) == (1, 1, 1)
    assert seen.running_adapters == seen.waiting_adapters == [str(ADAPTER)]
    assert seen.loaded == [(str(ADAPTER), False)]
    assert not seen.kept
    assert (seen.kv_usage, seen.block_size, seen.blocks) == (0.5, 16, 64)
    await serving.end()
    await asyncio.gather(*tasks, return_exceptions=True)
    # Without an engine nothing is loaded, and nobody waits for it.
    seen = await asyncio.to_thread(state.snapshot)
    assert (seen.running, seen.waiting, seen.slots) == (0, 0, 1)
    assert not [*seen.running_adapters, *seen.waiting_adapters, *seen.loaded]
    assert seen.kv_usage is None


async def test_a_loop_that_does_not_answer_shows_what_was_seen_last(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    state = PresentState(serving, serving.warmer, "base", 1, lambda: (0.5, 16, 64))
    # Called on the loop itself, which cannot answer meanwhile.
    assert state.snapshot().slots == 1
    assert state.snapshot().blocks is None


async def test_what_is_in_host_memory_only_is_told_apart(tmp_path: Path) -> None:
    serving = await Serving(tmp_path, slots=1, kept=1).open(version(1), version(2, OTHER))
    state = PresentState(serving, serving.warmer, "base", 1, lambda: (0.5, 16, 64))
    for name in (version(1), version(2, OTHER)):
        await serving.warmer.warm(name)
    seen = await asyncio.to_thread(state.snapshot)
    assert (seen.loaded, seen.kept) == ([(str(OTHER), False)], [str(ADAPTER)])
    await serving.close()
