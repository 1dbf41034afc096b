from __future__ import annotations

import asyncio
import time

import pytest

from bench.serving.load import RequestFailed, run_plan
from bench.serving.plan import Answer, Ask, Group, Plan

_ASKS = tuple(Ask(f"t-{number}", True, f"prompt {number}", 4) for number in range(3))


class _Scripted:
    """Answers at once; fails for the tenants in `failing`; holds those in `held` for ever."""

    def __init__(self, failing: str = "", held: str = "") -> None:
        self.asked: list[Ask] = []
        self.at_once = self.most_at_once = 0
        self._failing, self._held = failing, held

    async def ask(self, ask: Ask, answer: Answer) -> None:
        self.asked.append(ask)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0)
            if ask.tenant == self._held:
                await asyncio.get_running_loop().create_future()
            if ask.tenant == self._failing:
                raise RequestFailed("refused")
            answer.times.append(time.perf_counter())
            answer.tokens = ask.max_tokens
        finally:
            self.at_once -= 1

    async def close(self) -> None:
        pass


def test_a_plan_survives_its_way_as_json() -> None:
    plan = Plan((Group("a", (_ASKS, _ASKS[:1]), 1.5, 0.5, 0.25),), 60.0, server_pid=7)

    assert Plan.from_json(plan.to_json()) == plan


async def test_streams_run_beside_each_other_and_requests_in_turn() -> None:
    client = _Scripted()

    result = await run_plan(Plan((Group("only", (_ASKS, _ASKS)),), 60.0), client)

    assert client.most_at_once == 2
    assert sorted(ask.tenant for ask in client.asked) == ["t-0", "t-0", "t-1", "t-1", "t-2", "t-2"]
    assert len(result.answers) == 6
    for answer in result.answers:
        assert answer.start <= answer.times[0] <= answer.end
        assert answer.tokens == 4


async def test_a_failed_request_is_kept_and_the_stream_goes_on() -> None:
    result = await run_plan(Plan((Group("only", (_ASKS,)),), 60.0), _Scripted(failing="t-1"))

    assert [answer.error for answer in result.answers] == ["", "refused", ""]


async def test_a_repeating_stream_ends_after_its_time() -> None:
    client, started = _Scripted(), time.perf_counter()
    group = Group("flood", (_ASKS[:1],), repeat_seconds=0.05)

    result = await run_plan(Plan((group,), 60.0), client)

    assert len(client.asked) > 1
    assert result.answers[-1].end - started >= 0.05


async def test_a_cell_that_hangs_is_an_error() -> None:
    with pytest.raises(TimeoutError, match=r"more than 0.05 s; 1 of the 2"):
        await run_plan(Plan((Group("only", (_ASKS,)),), 0.05), _Scripted(held="t-1"))
