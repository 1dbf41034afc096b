"""Generation: resolve (which version answers), admit (its turn, its slot), stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from serving_svc.adapters.model import StagedAdapter
from serving_svc.adapters.routing import Resolved
from serving_svc.generation.life import Life, Lives
from serving_svc.generation.model import (
    Answer,
    Chat,
    Chunk,
    Completion,
    EngineDied,
    EngineRequest,
    GenerationRequest,
    Handle,
    ModelLimits,
    Sampling,
    Structure,
    Tool,
    room_for_answer,
)
from serving_svc.generation.poison import Poison, request_digest
from serving_svc.generation.scheduler import Ticket
from serving_svc.generation.stream import Pace, Stream
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import AdapterRefused, NotFound, TailorbirdError, Unavailable
from tailorbird.names import AdapterName, VersionName


class Routes(Protocol):
    """What generating needs of the router."""

    async def resolve(
        self, adapter: AdapterName, routing_key: str = "", min_generation: int = 0
    ) -> Resolved:
        """Return which version answers, and by which generation of the route."""

    def named(self, version: VersionName) -> Resolved:
        """Return who answers a request that names its version; NotFound if it was deleted."""

    def forget(self, adapter: AdapterName, generation: int = 0) -> None:
        """Find the adapter's route anew at the next request, if `generation` is in effect still."""


class Structures(Protocol):
    """What generating needs to trust a structure that a caller asks for."""

    async def check(self, structure: Structure, tenant: str) -> Structure:
        """Return it as the engine takes it; InvalidArgument if it cannot be used."""


class Disk(Protocol):
    """What generating needs of the tier on disk."""

    def hold(self, version: VersionName) -> AbstractAsyncContextManager[StagedAdapter]:
        """Bring a version to disk, checked, and keep it there inside the block."""


@dataclass(slots=True)
class _Run:
    """A request inside the engine, and who answers it."""

    stream: Stream
    handle: Handle
    digest: bytes
    version: VersionName | None
    generation: int

    @property
    def model(self) -> str:
        """What answers, as the metrics call it."""
        return _model(self.version)


class Generations:
    """The use cases of InferenceService."""

    def __init__(
        self,
        lives: Lives,
        routes: Routes,
        disk: Disk,
        structures: Structures,
        metrics: ServingMetrics,
        limits: ModelLimits,
    ) -> None:
        self._lives = lives
        self._routes = routes
        self._disk = disk
        self._structures = structures
        self._metrics = metrics
        self._limits = limits
        self._poison = Poison()
        self._pace = Pace()

    async def generate(self, request: GenerationRequest) -> Answer:
        """Generate, and return the whole answer; raises what `stream` raises."""
        chunks = [chunk async for chunk in self.stream(replace(request, final_only=True))]
        first, last = chunks[0], chunks[-1]
        if last.usage is None:
            raise ValueError("the generation has not ended")
        chunks.sort(key=lambda chunk: chunk.index)
        completions = tuple(map(_completion, chunks))
        return Answer(completions, last.usage, first.version, first.route_generation)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Generate, and yield text as it comes.

        The first chunk says who answers; the last one has the usage. Raises InvalidArgument,
        NotFound, FailedPrecondition, ResourceExhausted, Unavailable, EngineDied, DeadlineExceeded.
        """
        arrived = time.perf_counter()
        outcome = "cancelled"
        run: _Run | None = None
        messages, first_at = 0, arrived
        try:
            run = await self._begin(request)
            while (chunk := await run.stream.next()) is not None:
                if not messages:
                    chunk.version, chunk.route_generation = run.version, run.generation
                    first_at = time.perf_counter()
                    self._metrics.first_token.labels(run.model).observe(first_at - arrived)
                messages += 1
                if chunk.usage is not None:
                    outcome = "ok"
                yield chunk
        except TailorbirdError as error:
            outcome = error.reason
            raise
        except Exception:
            outcome = "INTERNAL"
            raise
        finally:
            if run is not None:
                run.handle.abort()
                run.stream.release()
                # Also if its reader left before it heard of it.
                if isinstance(run.stream.error, EngineDied):
                    self._poison.died_with(run.digest)
                self._metrics.messages.inc(messages)
                self._count_tokens(request, run, first_at)
            self._metrics.requests.labels(request.tenant.tenant, outcome).inc()

    async def _begin(self, request: GenerationRequest) -> _Run:
        life = self._lives.current()
        sampling = await self._checked(request)
        token_ids = await life.engine.encode(request.input, request.tenant.tenant)
        max_tokens = room_for_answer(
            len(token_ids), sampling.max_tokens, self._limits.max_model_len
        )
        version, generation, ticket = await self._admitted(
            life, request, len(token_ids), max_tokens
        )
        self._metrics.leases.inc(version is not None)
        stream = Stream(
            self._pace,
            len(token_ids),
            sampling.n,
            partial(life.scheduler.charge, ticket),
            partial(self._release, life, ticket),
        )
        digest = b""
        try:
            digest = request_digest(request.tenant.tenant, version, token_ids, sampling)
            self._poison.check(digest)
            adapter = None if version is None else life.residency.loaded(version)
            handle = await life.engine.start(
                EngineRequest(
                    token_ids,
                    sampling,
                    max_tokens,
                    request.tenant.tenant,
                    adapter,
                    request.final_only,
                    _tools_read(request),
                ),
                stream,
            )
        except BaseException as error:
            stream.release()
            if isinstance(error, EngineDied):
                self._poison.died_with(digest)
            raise
        return _Run(stream, handle, digest, version, generation)

    def _release(self, life: Life, ticket: Ticket) -> None:
        self._metrics.leases.dec(ticket.version is not None)
        life.scheduler.leave(ticket)

    async def _checked(self, request: GenerationRequest) -> Sampling:
        structure = request.sampling.structure
        if structure is None:
            return request.sampling
        checked = await self._structures.check(structure, request.tenant.tenant)
        return replace(request.sampling, structure=checked)

    async def _admitted(
        self, life: Life, request: GenerationRequest, prompt_tokens: int, max_tokens: int
    ) -> tuple[VersionName | None, int, Ticket]:
        """Wait for the request's turn; return who answers, by which generation, and its ticket."""
        ticket = Ticket(
            request.tenant.tenant,
            request.version,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens * request.sampling.n,
            priority=request.priority,
            deadline=request.deadline,
        )
        if request.version is not None:
            # It may have been deleted.
            self._routes.named(request.version)
        if request.adapter is None or request.version is not None:
            await self._admit(life, ticket)
            return request.version, 0, ticket
        found = await self._resolve(request, request.adapter)
        ticket = replace(ticket, version=found.version)
        try:
            await self._admit(life, ticket)
        except (AdapterRefused, NotFound):
            # It had passed and left this replica; fetched again, it is no longer what it was.
            self._routes.forget(request.adapter, found.generation)
            found = await self._resolve(request, request.adapter)
            ticket = replace(ticket, version=found.version)
            await self._admit(life, ticket)
        return found.version, found.generation, ticket

    async def _resolve(self, request: GenerationRequest, adapter: AdapterName) -> Resolved:
        return await self._routes.resolve(
            adapter, request.routing_key, request.min_route_generation
        )

    async def _admit(self, life: Life, ticket: Ticket) -> None:
        arrived = time.perf_counter()
        if ticket.version is None or life.residency.holds(ticket.version):
            await life.scheduler.admit(ticket)
        else:
            # On disk first: no slot waits for a download.
            async with self._disk.hold(ticket.version):
                await life.scheduler.admit(ticket)
        waited = time.perf_counter() - arrived
        self._metrics.queue_seconds.labels(_model(ticket.version)).observe(waited)

    def _count_tokens(self, request: GenerationRequest, run: _Run, first_at: float) -> None:
        tokens, tenant, usage = self._metrics.tokens, request.tenant.tenant, run.stream.usage
        tokens.labels(tenant, "prompt").inc(usage.prompt_tokens)
        tokens.labels(tenant, "completion").inc(usage.completion_tokens)
        if usage.completion_tokens > 1 and not request.final_only:
            each = (time.perf_counter() - first_at) / (usage.completion_tokens - 1)
            self._metrics.token_seconds.labels(run.model).observe(each)


def _tools_read(request: GenerationRequest) -> tuple[Tool, ...]:
    return request.input.tools if isinstance(request.input, Chat) and request.read_calls else ()


def _model(version: VersionName | None) -> str:
    return "base" if version is None else "adapter"


def _completion(chunk: Chunk) -> Completion:
    if chunk.finish_reason is None:
        raise Unavailable("the engine ended the generation early", reason="ENGINE_STOPPED")
    return Completion(
        chunk.text,
        chunk.finish_reason,
        tuple(chunk.token_ids),
        tuple(chunk.logprobs),
        tuple(chunk.tool_calls),
    )
