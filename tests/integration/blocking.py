"""A client for asyncio, called as its twin for threads is: so that one test holds for both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any


class Blocking:
    """Runs each of a client's calls to its end, and each step of what it yields."""

    def __init__(self, runner: asyncio.Runner, client: Any) -> None:
        self._runner = runner
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            result = method(*arguments, **options)
            if inspect.iscoroutine(result):
                return self._runner.run(result)
            return self._steps(result)

        return call

    def _steps(self, items: AsyncGenerator[Any]) -> Generator[Any]:
        async def step() -> Any:
            return await anext(items, None)

        try:
            while (item := self._runner.run(step())) is not None:
                yield item
        finally:
            self._runner.run(items.aclose())


@contextmanager
def blocking(client: Callable[[], Any]) -> Iterator[Blocking]:
    """Open a client in a loop of its own."""

    async def opened() -> Any:
        return client()

    with asyncio.Runner() as runner:
        twin = Blocking(runner, runner.run(opened()))
        yield twin
        twin.close()
