"""What vLLM's outputs of one request become: chunks for a sink, or the scores of a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from vllm.outputs import RequestOutput
from vllm.v1.engine.exceptions import EngineDeadError

from serving_svc.engine.sampling import token_logprobs
from serving_svc.generation.model import (
    Chunk,
    EngineDied,
    FinishReason,
    Sampling,
    Sink,
    TokenLogprobs,
)
from tailorbird.errors import TailorbirdError, Unavailable

_log = structlog.get_logger(__name__)

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def died_inside() -> EngineDied:
    """Return the error of a request that was inside when the engine died."""
    return EngineDied("the engine died with this request inside")


class ChunkCollector:
    """Hands a request's outputs to its sink.

    `ended` is called once, before the last of them. `abandon` is called instead if the request
    fails with something of it left in the engine: it ends that, before the sink hears of it.
    """

    def __init__(
        self,
        sink: Sink,
        sampling: Sampling,
        ended: Callable[[], None],
        abandon: Callable[[], None],
    ) -> None:
        self._sink = sink
        self._with_ids = sampling.return_token_ids
        self._logprobs = sampling.logprobs
        self._ended = ended
        self._abandon = abandon
        self._closed = False
        self.count = sink.count

    def put(self, output: RequestOutput | Exception) -> None:
        """See output_loop.Collector."""
        if self._closed:
            return
        if isinstance(output, Exception):
            self._fail(_cause(output))
            return
        try:
            chunks = [self._chunk(completion) for completion in output.outputs]
        except Unavailable as error:
            self._give_up(error, everything_ended=output.finished)
            return
        except Exception:
            # Raised from here it would end the output loop, and the engine with it for everybody.
            _log.exception("an output of the engine cannot be read")
            self._give_up(_stopped("unreadable"), everything_ended=False)
            return
        if output.finished:
            self._close()
        for chunk in chunks:
            self._sink.put(chunk)

    def close(self) -> None:
        """Pass nothing on any more."""
        self._close()

    def _chunk(self, completion: Any) -> Chunk:
        told = completion.finish_reason
        if told is not None and told not in _FINISH:
            raise _stopped(told)
        finish = None if told is None else _FINISH[told]
        ids: Sequence[int] = completion.token_ids if self._with_ids else ()
        logprobs: Sequence[TokenLogprobs] = ()
        if self._logprobs is not None:
            logprobs = token_logprobs(completion.token_ids, completion.logprobs, self._logprobs)
        return Chunk(completion.text, finish, ids, completion.index, logprobs)

    def _fail(self, error: TailorbirdError) -> None:
        self._close()
        self._sink.fail(error)

    def _give_up(self, error: TailorbirdError, *, everything_ended: bool) -> None:
        """Fail, of several completions also those that run on with the adapter in use."""
        if everything_ended:
            self._fail(error)
            return
        self._closed = True
        # Later: vLLM is in the midst of the request's output.
        asyncio.get_running_loop().call_soon(self._end_and_fail, error)

    def _end_and_fail(self, error: TailorbirdError) -> None:
        self._abandon()
        self._sink.fail(error)

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._ended()


class ScoreCollector:
    """Waits for a prompt's logprobs; `ended` is called once."""

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self.found: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def count(self, tokens: int) -> None:
        """See output_loop.Collector: nobody is charged for a probe."""

    def put(self, output: RequestOutput | Exception) -> None:
        """See output_loop.Collector."""
        self._ended()
        if self.found.done():
            return
        if isinstance(output, Exception):
            self.found.set_exception(_cause(output))
        elif output.prompt_logprobs is None:
            self.found.set_exception(_stopped("no logprobs"))
        else:
            self.found.set_result(list(output.prompt_logprobs))


def _cause(error: Exception) -> TailorbirdError:
    if isinstance(error, EngineDeadError):
        died = died_inside()
    else:
        died = EngineDied("the engine's outputs cannot be read")
    died.__cause__ = error
    return died


def _stopped(told: str) -> Unavailable:
    return Unavailable(f"the engine ended the generation: {told}", reason="ENGINE_STOPPED")
