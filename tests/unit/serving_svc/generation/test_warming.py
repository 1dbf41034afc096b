"""Warm-ups: they hold a slot, outlive no life of the engine, and leave nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving_svc.adapters.model import LoadedAdapter, StagedAdapter
from serving_svc.generation import warming as module
from tailorbird.errors import (
    AdapterRefused,
    FailedPrecondition,
    NotFound,
    StoreUnavailable,
    Unavailable,
)
from tests.unit.serving_svc.adapters.published import version
from tests.unit.serving_svc.fakes import PROBES, stage
from tests.unit.serving_svc.generation.serving import Serving, request

IMPORTED = version(9)


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    opened = await Serving(tmp_path).open(*map(version, (1, 2, 3)))
    yield opened
    await opened.close()


@pytest.fixture
def staged(tmp_path: Path) -> StagedAdapter:
    return StagedAdapter(IMPORTED, stage(tmp_path, IMPORTED), 7, PROBES)


async def test_what_is_held_stays_in_the_engine(serving: Serving) -> None:
    async with serving.warmer.hold(version(1)):
        assert serving.scheduler.leases(version(1)) == 1
        for number in (2, 3):
            await serving.generations.generate(request(version=version(number)))
        assert serving.residency.holds(version(1))
    serving.check_nothing_is_held()


async def test_cancelled_anywhere_a_warm_up_leaves_nothing(serving: Serving) -> None:
    assert await serving.cancelled_everywhere(lambda: serving.warmer.warm(version(1))) >= 2


async def test_a_version_that_is_not_there_is_not_held(serving: Serving) -> None:
    with pytest.raises(NotFound):
        await serving.warmer.warm(version(8))
    serving.check_nothing_is_held()


async def test_a_hold_does_not_reach_into_the_next_life(serving: Serving) -> None:
    async with serving.warmer.hold(version(1)):
        await serving.end()
        with pytest.raises(Unavailable):
            await serving.warmer.warm(version(1))
        serving.begin()
        await serving.warmer.warm(version(1))
    serving.check_nothing_is_held()
    assert serving.residency.versions() == [version(1)]


async def test_what_is_pinned_comes_back_and_stays(serving: Serving) -> None:
    await serving.warmer.warm(version(1))
    serving.warmer.pin(version(1))
    await serving.end()
    serving.begin()
    await serving.warmer.restore([version(2)], 2)
    assert set(serving.residency.versions()) == {version(1), version(2)}
    assert serving.scheduler.pinned() == {version(1)}
    assert serving.warmer.is_pinned(version(1))
    for number in (2, 3):
        await serving.generations.generate(request(version=version(number)))
    assert serving.residency.holds(version(1))
    serving.check_nothing_is_held()


async def test_a_pin_that_is_refused_is_none(serving: Serving) -> None:
    serving.warmer.pin(version(1))
    with pytest.raises(FailedPrecondition):
        serving.warmer.pin(version(2))
    assert not serving.warmer.is_pinned(version(2))


async def test_while_the_engine_restarts_a_version_may_be_unpinned_and_retired(
    serving: Serving,
) -> None:
    await serving.warmer.warm(version(1))
    serving.warmer.pin(version(1))
    await serving.end()
    serving.warmer.unpin(version(1))
    serving.warmer.retire(version(1))
    serving.begin()
    await serving.warmer.restore([], 2)
    assert not serving.warmer.is_pinned(version(1))
    assert serving.residency.versions() == []


async def test_what_cannot_be_restored_keeps_nothing_else_out(serving: Serving) -> None:
    await serving.warmer.restore([version(8), version(2)], 2)
    assert serving.residency.versions() == [version(2)]


async def test_no_more_is_restored_than_there_are_slots(serving: Serving) -> None:
    await serving.warmer.warm(version(3))
    serving.warmer.pin(version(3))
    await serving.end()
    serving.begin()
    await serving.warmer.restore([version(1), version(1), version(2)], 2)
    assert set(serving.residency.versions()) == {version(3), version(1)}
    assert len(serving.engine.ids) == 2


async def test_restoring_does_not_wait_for_ever(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RESTORE_SECONDS", 0.05)
    serving.world.store.hangs.add("get")
    await serving.warmer.restore([version(1)], 2)
    serving.world.store.hangs.clear()
    serving.check_nothing_is_held()


async def test_an_import_is_in_the_engine_inside_the_block_only(
    serving: Serving, staged: StagedAdapter
) -> None:
    async with serving.warmer.scratch(staged) as loaded:
        assert serving.engine.loaded == {loaded.engine_id: loaded}
        assert serving.scheduler.leases(IMPORTED) == 1
    assert not serving.engine.loaded
    assert serving.scheduler.slots_used == 0
    serving.check_nothing_is_held()


async def scratched(serving: Serving, staged: StagedAdapter) -> LoadedAdapter:
    async with serving.warmer.scratch(staged) as loaded:
        await asyncio.sleep(0)
        return loaded


async def test_cancelled_anywhere_an_import_leaves_the_engine(
    serving: Serving, staged: StagedAdapter
) -> None:
    assert await serving.cancelled_everywhere(lambda: scratched(serving, staged)) >= 3
    assert not serving.engine.loaded
    assert serving.scheduler.slots_used == 0
    # Another, under the same name, is loaded from where it lies.
    elsewhere = replace(staged, path=stage(staged.path, IMPORTED))
    assert (await scratched(serving, elsewhere)).path == elsewhere.path


async def test_an_import_the_engine_refuses_leaves_it(
    serving: Serving, staged: StagedAdapter
) -> None:
    with pytest.raises(AdapterRefused):
        await scratched(serving, replace(staged, path=staged.path / "none"))
    assert not serving.engine.loaded
    assert serving.scheduler.slots_used == 0


async def test_an_import_may_end_after_the_engine(serving: Serving, staged: StagedAdapter) -> None:
    async with serving.warmer.scratch(staged):
        await serving.end()
        serving.begin()
    serving.check_nothing_is_held()
    assert serving.scheduler.slots_used == 0


async def test_an_import_may_end_as_the_engine_does(
    serving: Serving, staged: StagedAdapter
) -> None:
    async with serving.warmer.scratch(staged):
        # Its unloading is cancelled before it has begun.
        asyncio.get_running_loop().call_soon(serving.scheduler.close, Unavailable("restarting"))
    await serving.end()
    assert not serving.engine.inside


async def test_a_deleted_version_gives_up_its_pin_its_slot_and_its_files(serving: Serving) -> None:
    for number in (1, 2):
        await serving.warmer.warm(version(number))
    serving.warmer.pin(version(1))
    await serving.generations.generate(request(version=version(1)))
    serving.warmer.drop(version(1))
    assert not serving.warmer.is_pinned(version(1))
    await serving.warmer.warm(version(3))
    # It was used last and leaves first all the same.
    assert set(serving.residency.versions()) == {version(2), version(3)}
    assert version(1) not in {held.version for held in serving.disk.versions()}


async def test_a_deleted_version_leaves_host_memory(tmp_path: Path) -> None:
    serving = await Serving(tmp_path, slots=1, kept=2).open(*map(version, (1, 2)))
    for number in (1, 2):
        await serving.warmer.warm(version(number))
    serving.warmer.drop(version(1))
    assert serving.residency.kept() == []
    await serving.close()


async def test_a_request_for_what_is_kept_asks_neither_store_nor_engine(tmp_path: Path) -> None:
    serving = await Serving(tmp_path, slots=1, kept=1).open(*map(version, (1, 2)))
    for number in (1, 2):
        await serving.generations.generate(request(version=version(number)))
    added = len(serving.engine.ids)
    serving.world.store.errors["get"] = StoreUnavailable("down")
    answer = await serving.generations.generate(request(version=version(1)))
    assert answer.version == version(1)
    assert len(serving.engine.ids) == added
    assert serving.residency.kept() == [version(2)]
    await serving.close()


async def test_no_slot_waits_while_the_files_of_what_is_kept_are_fetched(tmp_path: Path) -> None:
    serving = await Serving(tmp_path, slots=1, kept=1).open(*map(version, (1, 2)))
    for number in (1, 2):
        await serving.warmer.warm(version(number))
    # They left the disk for others' meanwhile.
    serving.disk.forget(version(1))
    store = serving.world.store
    store.hangs.add("get")
    waiting = asyncio.create_task(serving.generations.generate(request(version=version(1))))
    await store.hanging.wait()
    async with asyncio.timeout(10):
        await serving.generations.generate(request(version=version(2)))
    waiting.cancel()
    await asyncio.wait({waiting})
    assert serving.residency.versions() == [version(2)]
    await serving.close()
