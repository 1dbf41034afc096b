"""Between the engine's output loop and the reader of one request.

What the engine puts here while the reader is away is merged. The engine's end with the request
lets go of what the request held, however slowly the reader takes the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serving_svc.generation.model import Chunk, Usage
from tailorbird.errors import TailorbirdError

# Streams that share the machine up to which each step of the engine is a message of its own; with
# more, the messages themselves would slow the engine down.
_STREAMS_A_STEP = 12
_MAX_STEPS = 4


class Pace:
    """How many steps of the engine make a message, by how many streams share the machine."""

    def __init__(self) -> None:
        self._streams = 0
        self.steps = 1

    def joined(self) -> None:
        """Count a stream that began."""
        self._set(self._streams + 1)

    def left(self) -> None:
        """Count a stream that ended."""
        self._set(self._streams - 1)

    def _set(self, streams: int) -> None:
        self._streams = streams
        self.steps = min(1 + streams // (_STREAMS_A_STEP + 1), _MAX_STEPS)


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
        self._steps = 0
        self._first = True
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
        self._steps += 1
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
            self._steps = 0
        self._first = False
        return chunk

    def _due(self) -> bool:
        # A step of the engine puts a chunk for each completion that is open.
        if not self._first and self._steps < self._pace.steps * self._open:
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
