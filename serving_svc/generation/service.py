"""Generation: resolve (which version answers), lease (hold it in the engine), stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import Protocol

from serving_svc.adapters.adapter_cache import AdapterCache
from serving_svc.adapters.model import LoadedAdapter
from serving_svc.adapters.router import Router
from serving_svc.generation.model import (
    Answer,
    Chunk,
    GenerationRequest,
    Input,
    ModelLimits,
    Sampling,
    Usage,
    room_for_answer,
)
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import AdapterRefused, TailorbirdError, Unavailable
from tailorbird.names import VersionName


class Engine(Protocol):
    """What generating needs of the engine."""

    async def encode(self, prompt: Input) -> Sequence[int]:
        """Return the prompt's token ids; InvalidArgument if the chat cannot be rendered."""

    def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        max_tokens: int,
        tenant: str,
        adapter: LoadedAdapter | None,
    ) -> AsyncGenerator[Chunk]:
        """Yield text as it comes; the last chunk, and no other, has finish_reason and usage.

        What comes while the reader is away is merged into one chunk. Closing the iterator, or
        cancelling the task that iterates, ends the generation. No two tenants share cached state.
        Raises EngineDied, and Unavailable if the engine was dead before.
        """


class Generations:
    """The use cases of InferenceService."""

    def __init__(
        self,
        engine: Engine,
        router: Router,
        cache: AdapterCache,
        metrics: ServingMetrics,
        limits: ModelLimits,
    ) -> None:
        self._engine = engine
        self._router = router
        self._cache = cache
        self._metrics = metrics
        self._limits = limits

    async def generate(self, request: GenerationRequest) -> Answer:
        """Generate, and return the whole answer; raises what `stream` raises."""
        async with aclosing(self.stream(request)) as chunks:
            received = [chunk async for chunk in chunks]
        return Answer.of(received)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Generate, and yield text as it comes.

        The first chunk says who answers; the last has finish_reason and usage. Raises
        InvalidArgument, NotFound, FailedPrecondition, ResourceExhausted, Unavailable, EngineDied.
        """
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            token_ids = await self._engine.encode(request.input)
            max_tokens = room_for_answer(
                len(token_ids), request.sampling.max_tokens, self._limits.max_model_len
            )
            last: Chunk | None = None
            async with AsyncExitStack() as stack:
                version, generation, adapter = await self._lease(stack, request)
                chunks = self._engine.generate(
                    token_ids, request.sampling, max_tokens, request.tenant.tenant, adapter
                )
                await stack.enter_async_context(aclosing(chunks))
                first = True
                async for chunk in chunks:
                    if first:
                        first = False
                        chunk.version, chunk.route_generation = version, generation
                        self._count_first(started, version)
                    if chunk.finish_reason is not None:
                        last = chunk
                    else:
                        yield chunk
            # The lease ends with the engine's work, however slowly the reader takes the rest.
            if last is None or last.usage is None:
                raise Unavailable("the engine ended the generation early", reason="ENGINE_STOPPED")
            outcome = "ok"
            self._count_tokens(request, last.usage)
            yield last
        except TailorbirdError as error:
            outcome = error.reason
            raise
        except Exception:
            outcome = "INTERNAL"
            raise
        finally:
            self._metrics.requests.labels(request.tenant.tenant, outcome).inc()

    async def _lease(
        self, stack: AsyncExitStack, request: GenerationRequest
    ) -> tuple[VersionName | None, int, LoadedAdapter | None]:
        """Enter the lease into `stack`; return who answers, by which generation, with what."""
        if request.adapter is None:
            return None, 0, None
        lease = self._cache.lease
        if request.version is not None:
            return request.version, 0, await stack.enter_async_context(lease(request.version))
        route = await self._router.resolve(request.adapter)
        version = request.adapter.version(route.version)
        try:
            loaded = await stack.enter_async_context(lease(version))
        except AdapterRefused:
            # It had passed and left the engine; fetched again, it is no longer what it was.
            self._router.forget(request.adapter)
            route = await self._router.resolve(request.adapter)
            version = request.adapter.version(route.version)
            loaded = await stack.enter_async_context(lease(version))
        return version, route.generation, loaded

    def _count_first(self, started: float, version: VersionName | None) -> None:
        model = "base" if version is None else "adapter"
        self._metrics.first_token.labels(model).observe(time.perf_counter() - started)

    def _count_tokens(self, request: GenerationRequest, usage: Usage) -> None:
        tokens, tenant = self._metrics.tokens, request.tenant.tenant
        tokens.labels(tenant, "prompt").inc(usage.prompt_tokens)
        tokens.labels(tenant, "completion").inc(usage.completion_tokens)
