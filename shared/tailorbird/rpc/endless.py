"""Calls that do not end by themselves: a stop ends them, instead of waiting for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tailorbird.errors import Unavailable


class EndlessCalls:
    """The watches open on a server; whoever watches goes on at the next one."""

    def __init__(self) -> None:
        self._scopes: set[asyncio.Timeout] = set()
        self._ended = False

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Run a call until `end`, which interrupts it even in a write that nobody reads.

        Raises Unavailable (SHUTTING_DOWN) then, and at once if the end has come before.
        """
        if self._ended:
            raise _shutting_down()
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scopes.add(scope)
                yield
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise _shutting_down() from error
        finally:
            self._scopes.discard(scope)

    def end(self) -> None:
        """End every call that is open, and every later one."""
        self._ended = True
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)


def _shutting_down() -> Unavailable:
    return Unavailable("this server is shutting down", reason="SHUTTING_DOWN")
