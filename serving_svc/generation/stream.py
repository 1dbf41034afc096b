"""Between the engine's output loop and the reader of one request.

What the engine puts here while the reader is away is merged. The engine's end with the request
lets go of what the request held, however slowly the reader takes the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from serving_svc.generation.model import Chunk, Usage
from tailorbird.errors import TailorbirdError

# Up to so many streams each step of the engine is a message of its own. With more, the messages
# themselves would slow the engine down: a stream then gets at most one in so many seconds, by how
# many there are.
_FEW_STREAMS = 12
_SECONDS_A_STREAM = 0.0004
_MAX_SECONDS = 0.025


class Pace:
    """How often a stream gets a message, by how many streams share the machine."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._streams = 0
        self.seconds = 0.0
        """Between two messages of one stream, at least."""

    def joined(self) -> None:
        """Count a stream that began."""
        self._set(self._streams + 1)

    def left(self) -> None:
        """Count a stream that ended."""
        self._set(self._streams - 1)

    def _set(self, streams: int) -> None:
        self._streams = streams
        crowded = streams > _FEW_STREAMS
        self.seconds = min(streams * _SECONDS_A_STREAM, _MAX_SECONDS) if crowded else 0.0


class Stream:
    """Sink of one request, and what its reader awaits.

    `charge` hears of every token, `release` once, when the engine has ended with the request.
    """

    def __init__(
        self,
        pace: Pace,
        prompt_tokens: int,
        completions: int,
        charge: Callable[[int], None],
        release: Callable[[], None],
    ) -> None:
        self._pace = pace
        self._prompt_tokens = prompt_tokens
        self._open = completions
        self._charge = charge
        self._release = release
        self._released = False
        self._tokens = 0
        # What the reader has not taken, one chunk for each completion that has grown.
        self._pending: dict[int, Chunk] = {}
        # When the next message may go; the first one at once.
        self._next_at = 0.0
        self.error: TailorbirdError | None = None
        """What ended it, if that was an error."""
        self._waiter: asyncio.Future[None] | None = None
        pace.joined()

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(self._prompt_tokens, self._tokens)

    def count(self, tokens: int) -> None:
        """See Sink."""
        self._tokens += tokens
        self._charge(tokens)

    def put(self, chunk: Chunk) -> None:
        """See Sink."""
        if self._released:
            return
        self._keep(chunk)
        if chunk.finish_reason is not None:
            self._open -= 1
            if not self._open:
                # The last in order of pending, which the reader takes last.
                list(self._pending.values())[-1].usage = self.usage
                self.release()
        elif not self._due():
            return
        self._wake()

    def fail(self, error: TailorbirdError) -> None:
        """See Sink."""
        if self._released:
            return
        self.error = error
        self.release()
        self._wake()

    def release(self) -> None:
        """Let go of what the request holds. Done before: nothing happens."""
        if not self._released:
            self._released = True
            self._pace.left()
            self._release()

    async def next(self) -> Chunk | None:
        """Return the next chunk, or None after the last; raises what the sink was failed with.

        One reader at a time.
        """
        while not self._pending or not (self._released or self._due()):
            if self._released:
                if self.error is not None:
                    raise self.error
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self._pending.pop(next(iter(self._pending)))
        if not self._pending:
            self._next_at = self._pace.clock() + self._pace.seconds
        return chunk

    def _due(self) -> bool:
        if self._pace.seconds and self._pace.clock() < self._next_at:
            return False
        # Part of a character, or what may become a stop string, is nothing to show yet.
        return any(
            chunk.text or chunk.token_ids or chunk.logprobs for chunk in self._pending.values()
        )

    def _keep(self, chunk: Chunk) -> None:
        last = self._pending.setdefault(chunk.index, chunk)
        if last is chunk:
            return
        last.text += chunk.text
        last.token_ids = (*last.token_ids, *chunk.token_ids)
        if chunk.logprobs:
            last.logprobs = (*last.logprobs, *chunk.logprobs)
        last.finish_reason = chunk.finish_reason
        last.tool_calls = chunk.tool_calls

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
