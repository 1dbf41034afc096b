from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving_svc.adapters.adapter_cache import AdapterCache
from serving_svc.adapters.router import Router
from serving_svc.adapters.service import Adapters
from serving_svc.generation.model import (
    Chunk,
    EngineDied,
    GenerationRequest,
    ModelLimits,
    Sampling,
    TokenIds,
)
from serving_svc.generation.service import Generations
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import FailedPrecondition, InvalidArgument, NotFound
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry, RouteConflict
from tests.unit.serving_svc.fakes import (
    ADAPTER,
    FakeEngine,
    FakeFetcher,
    manifest,
    new_cache,
    new_metrics,
    refused,
    route,
    version,
)


class Parts:
    """Serving's use cases around a fake engine."""

    def __init__(self, folder: Path) -> None:
        (folder / "cache").mkdir()
        self.registry = AdapterRegistry(open_store((folder / "store").as_uri()))
        self.engine = FakeEngine()
        self.fetcher = FakeFetcher(folder / "cache")
        self.cache: AdapterCache = new_cache(self.engine, self.fetcher)
        self.metrics: ServingMetrics = new_metrics()
        self.router = Router(self.registry, self.cache.warm, self.cache.retire, self.metrics, 100)
        self.generations = Generations(
            self.engine, self.router, self.cache, self.metrics, ModelLimits(16, 100)
        )
        self.adapters = Adapters(self.registry, self.router, self.cache)

    async def publish(self, *numbers: int) -> None:
        for number in numbers:
            await self.registry.publish(version(number), manifest(version(number)))

    def requests(self, outcome: str) -> float:
        return float(self.metrics.requests.labels("acme", outcome)._value.get())


@pytest.fixture
async def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path)


def ask(
    adapter: AdapterName | None = ADAPTER,
    pinned: VersionName | None = None,
    max_tokens: int | None = None,
) -> GenerationRequest:
    sampling = Sampling(max_tokens=max_tokens)
    return GenerationRequest(TenantName("acme"), adapter, pinned, TokenIds((5, 6, 7)), sampling)


async def test_the_base_answers_without_an_adapter(parts: Parts) -> None:
    answer = await parts.generations.generate(ask(adapter=None))
    assert (answer.text, answer.version, answer.route_generation) == ("ab", None, 0)
    assert parts.engine.answered_by == [None]
    assert parts.requests("ok") == 1
    assert parts.metrics.tokens.labels("acme", "completion")._value.get() == 2


async def test_the_first_chunk_says_who_answers_and_the_last_how_it_ended(parts: Parts) -> None:
    await parts.registry.append_route(ADAPTER, route(1, 1))
    chunks = [chunk async for chunk in parts.generations.stream(ask())]
    assert (chunks[0].version, chunks[0].route_generation) == (version(1), 1)
    assert [chunk.finish_reason is not None for chunk in chunks] == [False, False, True]
    assert chunks[-1].usage is not None


async def test_a_pinned_version_needs_no_route(parts: Parts) -> None:
    answer = await parts.generations.generate(ask(pinned=version(3)))
    assert (answer.version, answer.route_generation) == (version(3), 0)


async def test_a_closed_stream_ends_the_generation_and_its_lease(parts: Parts) -> None:
    stream = parts.generations.stream(ask(pinned=version(1)))
    await anext(stream)
    assert not parts.engine.closed.is_set()
    await stream.aclose()
    assert parts.engine.closed.is_set()
    assert parts.requests("cancelled") == 1
    # Both slots are free to be taken: no lease is left.
    async with parts.cache.lease(version(2)), parts.cache.lease(version(3)):
        pass


async def test_a_slow_reader_of_the_last_chunk_holds_no_lease(parts: Parts) -> None:
    stream = parts.generations.stream(ask(pinned=version(1)))
    while (await anext(stream)).finish_reason is None:
        pass
    async with parts.cache.lease(version(2)), parts.cache.lease(version(3)):
        pass
    await stream.aclose()


async def test_an_engine_that_dies_ends_the_stream_with_an_error(parts: Parts) -> None:
    parts.engine.chunks = [Chunk("a")]
    parts.engine.generate_error = EngineDied("dead")
    with pytest.raises(EngineDied):
        await parts.generations.generate(ask(adapter=None))
    assert parts.requests("ENGINE_DIED") == 1


@pytest.mark.parametrize(("context", "max_tokens"), [(3, None), (16, 14)])
async def test_what_does_not_fit_never_reaches_the_engine(
    parts: Parts, context: int, max_tokens: int | None
) -> None:
    generations = Generations(
        parts.engine, parts.router, parts.cache, parts.metrics, ModelLimits(context, 100)
    )
    with pytest.raises(InvalidArgument):
        await generations.generate(ask(adapter=None, max_tokens=max_tokens))
    assert not parts.engine.answered_by


async def test_a_routed_version_that_no_longer_passes_gives_way_to_the_one_before(
    parts: Parts,
) -> None:
    await parts.registry.append_route(ADAPTER, route(1, 1))
    await parts.registry.append_route(ADAPTER, route(2, 2))
    assert (await parts.generations.generate(ask())).version == version(2)
    # Out of the engine and off the disk, and broken when it is fetched anew.
    parts.cache._refused[version(2)] = refused()
    assert (await parts.generations.generate(ask())).version == version(1)


async def test_promote_writes_the_next_route_and_flips(parts: Parts) -> None:
    await parts.publish(1, 2)
    assert (await parts.adapters.promote(version(1), "ann")).generation == 1
    assert (await parts.adapters.promote(version(2), "ann")).generation == 2
    assert (await parts.adapters.promote(version(2), "bob")).actor == "ann"
    assert (await parts.generations.generate(ask())).version == version(2)
    state = await parts.adapters.get_adapter(ADAPTER)
    assert (state.effective_generation, state.refusals) == (2, {})


async def test_promote_writes_nothing_when_the_gate_refuses(parts: Parts) -> None:
    parts.fetcher.errors[version(1)] = refused("NOT_FINITE")
    with pytest.raises(FailedPrecondition) as caught:
        await parts.adapters.promote(version(1), "ann")
    assert caught.value.reason == "NOT_FINITE"
    assert await parts.registry.head(ADAPTER) is None


async def test_promote_yields_to_somebody_who_was_faster(parts: Parts) -> None:
    await parts.publish(1)
    parts.fetcher.may_stage.clear()
    slow = asyncio.create_task(parts.adapters.promote(version(1), "ann"))
    await parts.fetcher.staging.wait()
    await parts.registry.append_route(ADAPTER, route(1, 2))
    parts.fetcher.may_stage.set()
    with pytest.raises(RouteConflict):
        await slow


async def test_rollback_goes_to_the_version_before_or_to_the_one_named(parts: Parts) -> None:
    with pytest.raises(NotFound):
        await parts.adapters.rollback(ADAPTER, None, "ann")
    await parts.publish(1, 2, 3)
    await parts.adapters.promote(version(1), "ann")
    with pytest.raises(FailedPrecondition) as caught:
        await parts.adapters.rollback(ADAPTER, None, "ann")
    assert caught.value.reason == "NO_PREVIOUS_VERSION"
    await parts.adapters.promote(version(2), "ann")
    await parts.adapters.promote(version(3), "ann")
    back = await parts.adapters.rollback(ADAPTER, None, "ann")
    assert (back.generation, back.version, back.reason) == (4, version(2).version, "rollback")
    assert (await parts.adapters.rollback(ADAPTER, version(1), "ann")).generation == 5
    with pytest.raises(InvalidArgument) as wrong:
        other = version(1, AdapterName("acme", "other"))
        await parts.adapters.rollback(ADAPTER, other, "ann")
    assert wrong.value.field == "to_version"
