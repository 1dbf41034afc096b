from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serving_svc.adapters.adapter_cache import AdapterCache
from tailorbird.errors import AdapterRefused, ResourceExhausted, StoreUnavailable
from tests.unit.serving_svc.fakes import FakeEngine, FakeFetcher, new_cache, refused, version


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def fetcher(tmp_path: Path) -> FakeFetcher:
    return FakeFetcher(tmp_path)


@pytest.fixture
async def cache(engine: FakeEngine, fetcher: FakeFetcher) -> AdapterCache:
    return new_cache(engine, fetcher)


def resident(engine: FakeEngine) -> list[str]:
    return sorted(adapter.name.rpartition("/")[2][:15] for adapter in engine.loaded.values())


def times(*numbers: int) -> list[str]:
    return [version(number).version[:15] for number in numbers]


async def test_a_version_is_loaded_once_for_all_who_ask(
    cache: AdapterCache, engine: FakeEngine, fetcher: FakeFetcher
) -> None:
    fetcher.may_stage.clear()
    asked = [asyncio.create_task(cache.warm(version(1))) for _ in range(5)]
    await fetcher.staging.wait()
    fetcher.may_stage.set()
    await asyncio.gather(*asked)
    await cache.warm(version(1))
    assert fetcher.staged == [version(1)]
    assert engine.ids == [1]


async def test_the_least_recently_used_free_version_leaves(
    cache: AdapterCache, engine: FakeEngine
) -> None:
    for number in (1, 2, 1, 3):
        await cache.warm(version(number))
    assert resident(engine) == times(1, 3)


async def test_a_retired_version_leaves_first(cache: AdapterCache, engine: FakeEngine) -> None:
    await cache.warm(version(1))
    await cache.warm(version(2))
    cache.retire(version(2))
    await cache.warm(version(3))
    assert resident(engine) == times(1, 3)


async def test_a_held_version_stays(cache: AdapterCache, engine: FakeEngine) -> None:
    async with cache.lease(version(1)):
        for number in (2, 3, 4):
            await cache.warm(version(number))
        assert resident(engine) == times(1, 4)


async def test_one_more_than_the_slots_is_refused_until_a_lease_ends(
    cache: AdapterCache, engine: FakeEngine
) -> None:
    async with cache.lease(version(1)):
        async with cache.lease(version(2)):
            with pytest.raises(ResourceExhausted) as caught:
                await cache.warm(version(3))
            assert caught.value.reason == "ADAPTER_SLOTS_EXHAUSTED"
            assert caught.value.retry_after > 0
        await cache.warm(version(3))
    assert resident(engine) == times(1, 3)


async def test_a_version_being_loaded_takes_a_slot(cache: AdapterCache, engine: FakeEngine) -> None:
    await cache.warm(version(1))
    engine.adding.clear()
    engine.may_add.clear()
    async with cache.lease(version(1)):
        loading = asyncio.create_task(cache.warm(version(2)))
        await engine.adding.wait()
        with pytest.raises(ResourceExhausted):
            await cache.warm(version(3))
        engine.may_add.set()
        await loading


async def test_a_version_on_its_way_out_is_loaded_anew_under_a_new_id(
    cache: AdapterCache, engine: FakeEngine
) -> None:
    await cache.warm(version(1))
    await cache.warm(version(2))
    engine.may_remove.clear()
    coming = asyncio.create_task(cache.warm(version(3)))
    await engine.removing.wait()
    again = asyncio.create_task(cache.warm(version(1)))
    await asyncio.sleep(0)
    engine.may_remove.set()
    await asyncio.gather(coming, again)
    assert len(engine.loaded) == 2
    assert engine.ids == [1, 2, *sorted(engine.ids[2:])]
    assert len(set(engine.ids)) == len(engine.ids) == 4


async def test_a_cancelled_waiter_leaves_no_lease_and_the_load_goes_on(
    cache: AdapterCache, engine: FakeEngine, fetcher: FakeFetcher
) -> None:
    fetcher.may_stage.clear()
    first = asyncio.create_task(cache.warm(version(1)))
    second = asyncio.create_task(cache.warm(version(1)))
    await fetcher.staging.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    fetcher.may_stage.set()
    await second
    assert fetcher.staged == [version(1)]
    # Free to leave: no lease was left behind.
    await cache.warm(version(2))
    await cache.warm(version(3))
    assert resident(engine) == times(2, 3)


async def test_a_load_that_everybody_left_ends_and_may_leave(
    cache: AdapterCache, engine: FakeEngine, fetcher: FakeFetcher
) -> None:
    fetcher.may_stage.clear()
    waiter = asyncio.create_task(cache.warm(version(1)))
    await fetcher.staging.wait()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    fetcher.may_stage.set()
    await cache.warm(version(1))
    assert fetcher.staged == [version(1)]
    await cache.warm(version(2))
    await cache.warm(version(3))
    assert resident(engine) == times(2, 3)


async def test_a_failed_add_is_removed_and_its_slot_is_free(
    cache: AdapterCache, engine: FakeEngine, fetcher: FakeFetcher
) -> None:
    engine.add_error = refused("LOAD_FAILED")
    with pytest.raises(AdapterRefused) as caught:
        await cache.warm(version(1))
    assert caught.value.reason == "LOAD_FAILED"
    assert not engine.loaded
    engine.add_error = None
    async with cache.lease(version(2)), cache.lease(version(3)):
        assert resident(engine) == times(2, 3)
    assert [path.name.partition("-")[2] for path in fetcher.folder.iterdir()] == [
        version(2).version,
        version(3).version,
    ] or len(list(fetcher.folder.iterdir())) == 2


async def test_probes_that_differ_refuse_for_good(
    cache: AdapterCache, engine: FakeEngine, fetcher: FakeFetcher
) -> None:
    engine.adapter_logprob = -1.5
    for _ in range(2):
        with pytest.raises(AdapterRefused) as caught:
            await cache.warm(version(1))
        assert caught.value.reason == "PROBE_MISMATCH"
    assert fetcher.staged == [version(1)]
    assert not engine.loaded
    assert not list(fetcher.folder.iterdir())
    told = cache.refusals(version(1).adapter_name)
    assert [(name, refusal.reason) for name, refusal in told.items()] == [
        (version(1), "PROBE_MISMATCH")
    ]


async def test_a_store_that_is_down_refuses_nothing(
    cache: AdapterCache, fetcher: FakeFetcher
) -> None:
    fetcher.errors[version(1)] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await cache.warm(version(1))
    fetcher.errors.clear()
    await cache.warm(version(1))
    assert not cache.refusals(version(1).adapter_name)


async def test_an_evicted_version_comes_back_from_disk_under_a_new_id(
    cache: AdapterCache, engine: FakeEngine, fetcher: FakeFetcher
) -> None:
    for number in (1, 2, 3, 1):
        await cache.warm(version(number))
    assert fetcher.staged == [version(1), version(2), version(3)]
    assert engine.ids == [1, 2, 3, 4]


async def test_the_disk_keeps_what_is_in_the_engine_and_little_more(
    engine: FakeEngine, fetcher: FakeFetcher
) -> None:
    cache = new_cache(engine, fetcher, max_disk_bytes=2 * fetcher.size)
    engine.may_remove.clear()
    await cache.warm(version(1))
    await cache.warm(version(2))
    coming = asyncio.create_task(cache.warm(version(3)))
    await engine.removing.wait()
    # Not before the engine has let go of it.
    assert len(list(fetcher.folder.iterdir())) == 3
    engine.may_remove.set()
    await coming
    left = {path.name.partition("-")[2] for path in fetcher.folder.iterdir()}
    assert left == {version(2).version, version(3).version}
    await cache.warm(version(1))
    assert len(set(engine.paths)) == 4
