"""The load: runs a plan's streams against one client and writes down when text arrived."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from typing import Protocol

from bench.serving.plan import Answer, Ask, CellResult, Group, Plan
from bench.serving.process_tree import tree_cpu_seconds

_AFTER_FAILURE_SECONDS = 0.05


class RequestFailed(Exception):
    """A request was refused, or its stream ended before its end."""


class Client(Protocol):
    """A way to one server. Used from one event loop."""

    async def ask(self, ask: Ask, answer: Answer) -> None:
        """Send a request; append to `answer.times` at each text, set `answer.tokens` at the end.

        Raises RequestFailed.
        """

    async def close(self) -> None:
        """End what is open."""


async def run_plan(plan: Plan, client: Client) -> CellResult:
    """Run every group of `plan` at once; TimeoutError when it takes too long."""
    answers: list[Answer] = []
    pid = plan.server_pid or os.getpid()
    gc.collect()
    # A pause of the collector in here would be counted as one of the server's.
    gc.disable()
    try:
        before = tree_cpu_seconds(pid)
        async with asyncio.timeout(plan.limit_seconds), asyncio.TaskGroup() as tasks:
            for group in plan.groups:
                for stream in group.streams:
                    tasks.create_task(_run_stream(group, stream, client, answers))
        return CellResult(tree_cpu_seconds(pid) - before, tuple(answers))
    except TimeoutError as error:
        ended = sum(bool(answer.end) for answer in answers)
        raise TimeoutError(
            f"the cell took more than {plan.limit_seconds:g} s; {ended} of the {len(answers)} "
            "requests sent had ended"
        ) from error
    finally:
        gc.enable()


async def _run_stream(
    group: Group, asks: tuple[Ask, ...], client: Client, answers: list[Answer]
) -> None:
    until = time.perf_counter() + group.repeat_seconds
    await asyncio.sleep(group.delay)
    while True:
        for number, ask in enumerate(asks):
            answer = Answer(group.name)
            answers.append(answer)
            answer.start = time.perf_counter()
            try:
                await client.ask(ask, answer)
            except RequestFailed as error:
                answer.error = str(error) or "failed"
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
            answer.end = time.perf_counter()
            if group.repeat_seconds and answer.end > until:
                return
            if group.pause and (group.repeat_seconds or number + 1 < len(asks)):
                await asyncio.sleep(group.pause)
        if not group.repeat_seconds:
            return
