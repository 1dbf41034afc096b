"""A bound on how long a stream waits for a reader who takes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tailorbird.errors import Aborted


class PatientWriter:
    """Writes a stream's messages; Aborted if one waits for its reader over `patience` seconds.

    gRPC pauses a write while the reader's window is full, and would for ever. One timer a stream
    watches all its writes: it is set anew only when it rings, never for a message.

        async with PatientWriter(context.write, 60.0) as writer:
            await writer.write(message)
    """

    def __init__(self, write: Callable[[Any], Awaitable[None]], patience: float) -> None:
        self._write = write
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> PatientWriter:
        await self._scope.__aenter__()
        self._timer = self._loop.call_later(self._patience, self._look)
        return self

    async def __aexit__(self, *raised: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
        try:
            await self._scope.__aexit__(*raised)
        except TimeoutError as error:
            raise Aborted(
                f"nothing of the stream was read for {self._patience:g} seconds",
                reason="READER_STALLED",
                patience_seconds=f"{self._patience:g}",
            ) from error

    async def write(self, message: Any) -> None:
        """Send one message, when the reader has room for it."""
        self._waiting_since = self._loop.time()
        await self._write(message)
        self._waiting_since = None

    def _look(self) -> None:
        since, now = self._waiting_since, self._loop.time()
        if since is None:
            since = now
        if now - since >= self._patience:
            self._scope.reschedule(now)
            return
        self._timer = self._loop.call_at(since + self._patience, self._look)
