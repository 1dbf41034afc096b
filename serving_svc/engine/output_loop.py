"""One task per engine that reads what it generates and hands it to the requests' sinks.

It stands in the place of the loop that vLLM's AsyncLLM starts by itself: without a queue, a wake-up
and a generator for each request, and with what the scheduler and the watchdog must know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

_log = structlog.get_logger(__name__)

# A step of more requests than this is processed in pieces, with the loop free in between.
_OUTPUTS_AT_ONCE = 128


class Collector(Protocol):
    """Where vLLM puts the outputs of one request; what it calls a queue."""

    def put(self, output: RequestOutput | Exception) -> None:
        """Take an output, or the error that ended every request."""

    def count(self, tokens: int) -> None:
        """Take the number of tokens generated, shown or not."""


class OutputLoop:
    """Reads the outputs of the engine behind `llm` until it dies.

    `kv_cache_usage` is the share of the key-value cache in use, 0 to 1, as of the last step.
    """

    def __init__(self, llm: AsyncLLM, clock: Callable[[], float] = time.monotonic) -> None:
        self._core: Any = llm.engine_core
        self._processor: Any = llm.output_processor
        self._clock = clock
        self._collectors: dict[str, Collector] = {}
        self._last_sign = self._last_output = clock()
        self.kv_cache_usage = 0.0
        self._task = asyncio.create_task(self._run(), name="engine outputs")
        # vLLM starts none beside it, and takes the engine for dead when it is done.
        llm.output_handler = self._task

    def add(self, request_id: str, collector: Collector) -> None:
        """Count the tokens of an engine's request to `collector`."""
        if not self._collectors:
            # From here on the engine owes an output.
            self._last_sign = self._clock()
        self._collectors[request_id] = collector

    def forget(self, request_id: str) -> None:
        """Count its tokens no more: it has ended."""
        self._collectors.pop(request_id, None)

    @property
    def silent_seconds(self) -> float:
        """Seconds since the engine showed a sign of life while it has work; 0 without work."""
        return self._clock() - self._last_sign if self._collectors else 0.0

    @property
    def quiet_seconds(self) -> float:
        """Seconds since the engine's last output, or since the loop began."""
        return self._clock() - self._last_output

    async def died(self) -> None:
        """Return when no output will come any more."""
        await asyncio.wait({self._task})

    async def close(self) -> None:
        """End the loop; the collectors hear nothing of it."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while True:
                outputs = await self._core.get_output_async()
                self._last_sign = self._last_output = self._clock()
                await self._process(outputs)
        except Exception as error:
            _log.error("the engine's outputs ended", error=f"{type(error).__name__}: {error}")
            self._processor.propagate_error(error)

    async def _process(self, outputs: Any) -> None:
        batch = outputs.outputs
        if outputs.scheduler_stats is not None:
            self.kv_cache_usage = float(outputs.scheduler_stats.kv_cache_usage)
        for start in range(0, len(batch), _OUTPUTS_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            piece = batch[start : start + _OUTPUTS_AT_ONCE]
            for output in piece:
                collector = self._collectors.get(output.request_id)
                if collector is not None and output.new_token_ids:
                    collector.count(len(output.new_token_ids))
            done = self._processor.process_outputs(
                piece, outputs.timestamp, None, weight_version=outputs.weight_version
            )
            # They ended by a stop string, which only this side sees.
            if done.reqs_to_abort:
                await self._core.abort_requests_async(done.reqs_to_abort)
