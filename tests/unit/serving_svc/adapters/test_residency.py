from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving_svc.adapters import residency as module
from serving_svc.adapters.disk import AdapterDisk
from serving_svc.adapters.model import LoadedAdapter, StagedAdapter
from serving_svc.adapters.residency import Residency
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import AdapterRefused, StoreUnavailable, Unavailable
from tailorbird.manifest import PROBES, ChatMessage, Probes, RenderedChat
from tests.unit.serving_svc.adapters.cancelling import CancelledAt
from tests.unit.serving_svc.adapters.engine import FakeEngine
from tests.unit.serving_svc.adapters.published import FILES, SEQUENCES, World, new_metrics, version

FIRST, LARGEST = (probe.token_ids for probe in SEQUENCES)


@pytest.fixture
async def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    await made.publish(version(1), version(2))
    return made


@pytest.fixture
async def disk(world: World) -> AsyncIterator[AdapterDisk]:
    opened = await world.open_disk()
    yield opened
    await opened.close()


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def metrics() -> ServingMetrics:
    return new_metrics()


@pytest.fixture
async def residency(
    world: World, disk: AdapterDisk, engine: FakeEngine, metrics: ServingMetrics
) -> Residency:
    return Residency(
        engine, disk, world.refusals, metrics, probe_floor=0.02, engine_ids=itertools.count(1)
    )


def holds(disk: AdapterDisk) -> int:
    return sum(held.holds for held in disk.versions())


def resident(metrics: ServingMetrics) -> float:
    return float(metrics.resident._value.get())


async def test_a_loaded_version_is_held_on_disk_until_it_leaves(
    residency: Residency, disk: AdapterDisk, engine: FakeEngine, metrics: ServingMetrics
) -> None:
    await residency.load(version(1))
    loaded = residency.loaded(version(1))
    assert engine.loaded == {1: loaded}
    assert loaded.name == f"{version(1)}#1"
    assert residency.versions() == [version(1)]
    assert (holds(disk), resident(metrics)) == (1, 1)
    # Once is enough.
    await residency.load(version(1))
    assert len(engine.added) == 1
    await residency.unload(version(1))
    assert (engine.loaded, residency.versions()) == ({}, [])
    assert (holds(disk), resident(metrics)) == (0, 0)
    with pytest.raises(Unavailable):
        residency.loaded(version(1))
    await residency.unload(version(1))


async def test_a_version_that_comes_back_has_a_new_id_and_one_probe(
    residency: Residency, engine: FakeEngine
) -> None:
    await residency.load(version(1))
    assert set(engine.probed) == {(tokens, of) for tokens in (FIRST, LARGEST) for of in (None, 1)}
    assert len(engine.probed) == 4
    engine.probed.clear()
    await residency.unload(version(1))
    await residency.load(version(1))
    assert [adapter.engine_id for adapter in engine.added] == [1, 2]
    assert set(engine.probed) == {(LARGEST, None), (LARGEST, 2)}
    engine.probed.clear()
    await residency.load(version(2))
    assert len(engine.probed) == 4


async def test_a_load_that_goes_wrong_later_is_seen_too(
    residency: Residency, engine: FakeEngine, world: World
) -> None:
    await residency.load(version(1))
    await residency.unload(version(1))
    engine.error = -1.0
    with pytest.raises(AdapterRefused) as caught:
        await residency.load(version(1))
    assert caught.value.reason == "PROBE_MISMATCH"
    assert not engine.loaded
    # It has served here: what went wrong is this load, and another may do.
    assert caught.value.retryable
    refusal = world.refusals.get(version(1))
    assert refusal is not None
    assert refusal.retryable
    engine.error = 0.0
    world.refusals._clock = lambda: refusal.retry_at  # type: ignore[assignment, return-value]
    await residency.load(version(1))
    assert world.store.calls["read"] == 3


@pytest.mark.parametrize("passed", [False, True])
async def test_noise_in_one_batch_refuses_nobody(
    residency: Residency, engine: FakeEngine, world: World, passed: bool
) -> None:
    if passed:
        await residency.load(version(1))
        await residency.unload(version(1))
        engine.probed.clear()
    # The floor of 0.02 passes, and up to twice that is near enough to look again.
    engine.error, engine.quiet_after = -0.03, 2 if passed else 4
    await residency.load(version(1))
    assert len(engine.probed) == (2 if passed else 4) + 4
    assert world.refusals.get(version(1)) is None


async def test_noise_that_stays_is_retryable_and_what_is_far_off_is_probed_once(
    residency: Residency, engine: FakeEngine
) -> None:
    engine.error = -0.03
    with pytest.raises(AdapterRefused) as caught:
        await residency.load(version(1))
    assert caught.value.retryable
    assert len(engine.probed) == 8
    engine.probed.clear()
    engine.error = 0.5
    with pytest.raises(AdapterRefused) as caught:
        await residency.load(version(2))
    assert not caught.value.retryable
    assert len(engine.probed) == 4


async def test_the_passed_versions_are_bounded(
    residency: Residency, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_PASSED", 1)
    for number in (1, 2, 1):
        await residency.load(version(number))
        await residency.unload(version(number))
    assert len(engine.probed) == 12


async def test_probes_that_differ_refuse_and_leave_nothing(
    residency: Residency,
    disk: AdapterDisk,
    engine: FakeEngine,
    world: World,
    metrics: ServingMetrics,
) -> None:
    engine.error = -0.5
    with pytest.raises(AdapterRefused) as caught:
        await residency.load(version(1))
    assert caught.value.reason == "PROBE_MISMATCH"
    with pytest.raises(AdapterRefused):
        await residency.load(version(1))
    assert len(engine.added) == 1
    assert not engine.loaded
    assert resident(metrics) == 0
    await disk.close()
    assert world.folders() == []


async def test_a_retryable_refusal_keeps_the_files_and_lapses(
    residency: Residency, disk: AdapterDisk, engine: FakeEngine, world: World
) -> None:
    engine.add_error = AdapterRefused("no memory", reason="LOAD_FAILED", retryable=True)
    with pytest.raises(AdapterRefused):
        await residency.load(version(1))
    assert not engine.loaded
    assert holds(disk) == 0
    refusal = world.refusals.get(version(1))
    assert refusal is not None
    assert refusal.retryable
    engine.add_error = None
    with pytest.raises(AdapterRefused):
        await residency.load(version(1))
    world.refusals._clock = lambda: refusal.retry_at  # type: ignore[assignment, return-value]
    await residency.load(version(1))
    assert world.store.calls["read"] == 3
    assert not world.refusals._adapters


async def test_a_refusal_of_the_disk_is_counted_once(
    residency: Residency, engine: FakeEngine, world: World
) -> None:
    await world.store.put(f"{version(1)}/manifest.json", b"{}")
    with pytest.raises(AdapterRefused):
        await residency.load(version(1))
    (record,) = world.refusals._adapters[version(1).adapter_name].values()
    assert record.tries == 1
    assert not engine.added


async def test_a_store_that_is_down_refuses_nothing(
    residency: Residency, world: World, metrics: ServingMetrics
) -> None:
    world.store.errors["objects"] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await residency.load(version(1))
    assert metrics.loads.labels("failed")._value.get() == 1
    world.store.errors.clear()
    await residency.load(version(1))
    assert metrics.loads.labels("ok")._value.get() == 1


async def test_a_probe_that_fails_ends_its_siblings_before_the_adapter_goes(
    residency: Residency, disk: AdapterDisk, engine: FakeEngine
) -> None:
    engine.probe_errors[FIRST] = Unavailable("stalled")
    # The others hang; the fake refuses to remove an adapter that is being probed.
    engine.may_probe.clear()
    with pytest.raises(Unavailable, match="stalled"):
        await residency.load(version(1))
    assert not engine.loaded
    assert not +engine.running
    assert holds(disk) == 0


async def test_the_death_of_the_engine_frees_everything(
    residency: Residency, disk: AdapterDisk, engine: FakeEngine
) -> None:
    await residency.load(version(1))
    engine.die()
    with pytest.raises(Unavailable) as caught:
        await residency.load(version(2))
    assert caught.value.reason == "ENGINE_DIED"
    await residency.unload(version(1))
    assert holds(disk) == 0


async def test_a_version_that_was_loading_at_two_deaths_is_left_alone(
    residency: Residency, disk: AdapterDisk, world: World
) -> None:
    waits = []
    for _ in range(2):
        engine = FakeEngine()
        life = Residency(
            engine,
            disk,
            world.refusals,
            new_metrics(),
            probe_floor=0.02,
            engine_ids=itertools.count(1),
        )
        engine.may_probe.clear()
        loading = asyncio.create_task(life.load(version(1)))
        await engine.adding.wait()
        engine.die()
        engine.may_probe.set()
        with pytest.raises(Unavailable):
            await loading
        refusal = world.refusals.get(version(1))
        assert refusal is not None
        assert refusal.retry_at is not None
        waits.append(refusal.retry_at - datetime.now(UTC))
        # A dead engine tells nothing of who comes after.
        with pytest.raises(Unavailable):
            await life.load(version(2))
        assert world.refusals.get(version(2)) is None
        world.refusals._clock = lambda at=refusal.retry_at: at  # type: ignore[misc]
    assert waits[0] < timedelta(seconds=2) < timedelta(minutes=4) < waits[1]
    assert holds(disk) == 0
    await residency.load(version(1))
    assert not world.refusals._adapters


async def test_close_lets_the_disk_have_everything_and_ends_loads(
    residency: Residency, disk: AdapterDisk, engine: FakeEngine, metrics: ServingMetrics
) -> None:
    await residency.load(version(1))
    engine.adding.clear()
    engine.may_add.clear()
    loading = asyncio.create_task(residency.load(version(2)))
    await engine.adding.wait()
    # So that the hold is released by the call, not by the garbage collector.
    residents = list(residency._residents.values())
    await residency.close()
    assert (len(residents), holds(disk)) == (1, 1)
    engine.may_add.set()
    with pytest.raises(Unavailable):
        await loading
    assert (holds(disk), resident(metrics), residency.versions()) == (0, 0, [])


async def test_a_load_cancelled_anywhere_leaves_the_engine_without_it(
    residency: Residency, disk: AdapterDisk, engine: FakeEngine
) -> None:
    for at in itertools.count(1):
        watched = CancelledAt(residency.load(version(1)), at)
        task = asyncio.create_task(watched.run())
        await asyncio.wait({task})
        if watched.suspensions < at:
            break
        # The last suspensions may come after the end of what they wait for.
        if task.cancelled():
            assert (engine.loaded, residency.versions(), holds(disk)) == ({}, [], 0)
        await residency.unload(version(1))
        # The first load through the whole, the next without what is known.
        residency._passed.clear()
        if at % 2:
            disk.forget(version(1))
    assert at > 3
    assert len(engine.loaded) == holds(disk) == 1


async def test_an_unload_cancelled_anywhere_goes_to_its_end(
    residency: Residency, disk: AdapterDisk, engine: FakeEngine
) -> None:
    for at in itertools.count(1):
        await residency.load(version(1))
        watched = CancelledAt(residency.unload(version(1)), at)
        task = asyncio.create_task(watched.run())
        await asyncio.wait({task})
        assert (engine.loaded, residency.versions(), holds(disk)) == ({}, [], 0)
        if watched.suspensions < at:
            break
        assert task.cancelled()
    assert at > 1


async def test_the_disk_keeps_a_version_until_the_engine_has_let_go(
    residency: Residency, disk: AdapterDisk, engine: FakeEngine
) -> None:
    await residency.load(version(1))
    engine.may_remove.clear()
    leaving = asyncio.create_task(residency.unload(version(1)))
    await engine.removing.wait()
    disk.forget(version(1))
    assert holds(disk) == 1
    engine.may_remove.set()
    await leaving
    assert not disk.versions()


async def test_a_scratch_folder_is_in_the_engine_for_a_block(
    residency: Residency, engine: FakeEngine, disk: AdapterDisk, tmp_path: Path
) -> None:
    async with disk.hold(version(1)) as version_staged:
        pass
    staged = StagedAdapter(version(2), tmp_path, 1, version_staged.probes)
    async with residency.scratch(staged) as adapter:
        assert engine.loaded == {adapter.engine_id: adapter}
    assert not engine.loaded
    engine.remove_error = Unavailable("once only")
    with pytest.raises(ZeroDivisionError):
        async with residency.scratch(staged):
            engine.remove_error = None
            raise ZeroDivisionError
    assert not engine.loaded
    for at in itertools.count(1):
        watched = CancelledAt(_scratch(residency, staged), at)
        task = asyncio.create_task(watched.run())
        with suppress(asyncio.CancelledError):
            await task
        assert not engine.loaded
        if watched.suspensions < at:
            break
    assert at > 2


async def _scratch(residency: Residency, staged: StagedAdapter) -> None:
    async with residency.scratch(staged):
        await asyncio.sleep(0)


@pytest.fixture
async def keeping(
    world: World, disk: AdapterDisk, engine: FakeEngine, metrics: ServingMetrics
) -> Residency:
    await world.publish(version(3))
    return Residency(
        engine,
        disk,
        world.refusals,
        metrics,
        probe_floor=0.02,
        engine_ids=itertools.count(1),
        most_kept=1,
    )


async def test_what_gives_its_slot_up_is_back_without_the_engine(
    keeping: Residency, engine: FakeEngine, disk: AdapterDisk, metrics: ServingMetrics
) -> None:
    await keeping.load(version(1))
    adapter = keeping.loaded(version(1))
    await keeping.unload(version(1))
    assert engine.loaded == {adapter.engine_id: adapter}
    assert (keeping.versions(), keeping.kept()) == ([], [version(1)])
    assert not keeping.holds(version(1))
    assert (holds(disk), resident(metrics)) == (0, 0)
    with pytest.raises(Unavailable):
        keeping.loaded(version(1))
    asked = len(engine.probed)
    await keeping.load(version(1))
    assert keeping.loaded(version(1)) is adapter
    assert (keeping.versions(), keeping.kept()) == ([version(1)], [])
    assert (holds(disk), resident(metrics), len(engine.probed)) == (1, 1, asked)


async def test_the_engine_holds_no_more_than_it_was_built_for(
    keeping: Residency, engine: FakeEngine
) -> None:
    for number in (1, 2, 3):
        await keeping.load(version(number))
        assert len(engine.loaded) <= 2
        await keeping.unload(version(number))
    # What comes next may be the one that would have left.
    assert keeping.kept() == [version(2), version(3)]
    await keeping.load(version(2))
    assert len(engine.added) == 3
    await keeping.load(version(1))
    assert (keeping.versions(), keeping.kept()) == ([version(2), version(1)], [version(3)])
    assert len(engine.loaded) == 3


async def test_who_comes_waits_until_there_is_room(keeping: Residency, engine: FakeEngine) -> None:
    for number in (1, 2):
        await keeping.load(version(number))
    for number in (1, 2):
        await keeping.unload(version(number))
    engine.may_remove.clear()
    loading = asyncio.create_task(keeping.load(version(3)))
    await engine.removing.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(engine.added) == 2
    engine.may_remove.set()
    await loading
    assert keeping.kept() == [version(2)]


async def test_who_come_together_push_out_one_each(
    keeping: Residency, engine: FakeEngine, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.publish(version(4), version(5))
    for number in (1, 2, 3):
        await keeping.load(version(number))
    for number in (1, 2, 3):
        await keeping.unload(version(number))
    one_at_a_time, remove = asyncio.Lock(), engine.remove_adapter

    async def remove_adapter(adapter: LoadedAdapter) -> None:
        async with one_at_a_time:
            await asyncio.sleep(0)
            await remove(adapter)

    monkeypatch.setattr(engine, "remove_adapter", remove_adapter)
    await asyncio.gather(keeping.load(version(4)), keeping.load(version(5)))
    assert keeping.kept() == [version(3)]
    assert len(engine.loaded) == 3


async def test_a_deleted_version_leaves_host_memory(
    keeping: Residency, engine: FakeEngine, disk: AdapterDisk
) -> None:
    await keeping.load(version(1))
    keeping.forget(version(1))
    assert keeping.loaded(version(1))
    await keeping.unload(version(1))
    assert not engine.loaded
    await keeping.load(version(1))
    await keeping.unload(version(1))
    assert keeping.kept() == [version(1)]
    engine.may_remove.clear()
    keeping.forget(version(1))
    assert keeping.kept() == []
    await engine.removing.wait()
    engine.may_remove.set()
    await asyncio.gather(*keeping._leaving)
    assert not engine.loaded


async def test_a_version_that_was_fetched_anew_is_loaded_anew(
    keeping: Residency, engine: FakeEngine, world: World, disk: AdapterDisk
) -> None:
    await keeping.load(version(1))
    before = keeping.loaded(version(1))
    await keeping.unload(version(1))
    kept = keeping._kept[version(1)]
    keeping._kept[version(1)] = replace(kept, path=kept.path / "elsewhere")
    await keeping.load(version(1))
    after = keeping.loaded(version(1))
    assert after.engine_id != before.engine_id
    await asyncio.gather(*keeping._leaving)
    assert list(engine.loaded) == [after.engine_id]


async def test_a_kept_version_whose_files_are_refused_or_gone_stays_kept(
    keeping: Residency, world: World, disk: AdapterDisk
) -> None:
    await keeping.load(version(1))
    await keeping.unload(version(1))
    disk.forget(version(1))
    world.store.hangs.add("get")
    loading = asyncio.create_task(keeping.load(version(1)))
    await world.store.hanging.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert keeping.kept() == [version(1)]


async def test_a_version_deleted_while_it_is_loaded_is_not_kept(
    keeping: Residency, engine: FakeEngine
) -> None:
    engine.may_add.clear()
    loading = asyncio.create_task(keeping.load(version(1)))
    await engine.adding.wait()
    keeping.forget(version(1))
    engine.may_add.set()
    await loading
    await keeping.unload(version(1))
    assert (engine.loaded, keeping.kept()) == ({}, [])
    engine.add_error = Unavailable("once only")
    engine.adding.clear()
    loading = asyncio.create_task(keeping.load(version(1)))
    await engine.adding.wait()
    keeping.forget(version(1))
    with pytest.raises(Unavailable):
        await loading
    assert not keeping._unwanted


async def test_who_waits_for_room_when_the_engine_dies_is_not_suspected(
    keeping: Residency, engine: FakeEngine, world: World, disk: AdapterDisk
) -> None:
    for number in (1, 2):
        await keeping.load(version(number))
    for number in (1, 2):
        await keeping.unload(version(number))
    engine.may_remove.clear()
    loading = asyncio.create_task(keeping.load(version(3)))
    await engine.removing.wait()
    engine.die()
    engine.may_remove.set()
    with pytest.raises(Unavailable) as caught:
        await loading
    assert caught.value.reason == "ENGINE_DIED"
    assert world.refusals.get(version(3)) is None
    assert len(engine.added) == 2
    assert holds(disk) == 0


@pytest.mark.parametrize("anew", [False, True])
async def test_taking_back_cancelled_anywhere_leaves_it_kept_or_gone(
    keeping: Residency, disk: AdapterDisk, engine: FakeEngine, anew: bool
) -> None:
    for at in itertools.count(1):
        await keeping.load(version(1))
        await keeping.unload(version(1))
        if anew:
            disk.forget(version(1))
        watched = CancelledAt(keeping.load(version(1)), at)
        task = asyncio.create_task(watched.run())
        await asyncio.wait({task})
        if keeping._leaving:
            await asyncio.wait(keeping._leaving)
        inside = [*keeping.versions(), *keeping.kept()]
        assert len(engine.loaded) == len(inside) <= 1
        assert holds(disk) == len(keeping.versions())
        await keeping.unload(version(1))
        if watched.suspensions < at:
            break
    assert at > (3 if anew else 0)


async def test_what_is_kept_may_leave_while_its_files_are_fetched(
    keeping: Residency, engine: FakeEngine, disk: AdapterDisk, world: World
) -> None:
    await keeping.load(version(1))
    await keeping.unload(version(1))
    disk.forget(version(1))
    world.store.called.clear()
    loading = asyncio.create_task(keeping.load(version(1)))
    await world.store.called.wait()
    keeping.forget(version(1))
    await loading
    assert list(engine.loaded) == [2]
    assert keeping.loaded(version(1)).engine_id == 2


async def test_nothing_is_taken_back_from_an_engine_that_died(
    keeping: Residency, engine: FakeEngine, disk: AdapterDisk
) -> None:
    await keeping.load(version(1))
    await keeping.unload(version(1))
    engine.die()
    for number in (2, 1):
        with pytest.raises(Unavailable) as caught:
            await keeping.load(version(number))
        assert caught.value.reason == "ENGINE_DIED"
    assert holds(disk) == 0


async def test_a_scratch_folder_comes_into_a_full_engine(
    keeping: Residency, engine: FakeEngine, disk: AdapterDisk, tmp_path: Path
) -> None:
    for number in (1, 2):
        await keeping.load(version(number))
    for number in (1, 2):
        await keeping.unload(version(number))
    async with disk.hold(version(1)) as version_staged:
        pass
    async with keeping.scratch(StagedAdapter(version(3), tmp_path, 1, version_staged.probes)):
        assert sorted(engine.loaded) == [2, 3]
    assert keeping.kept() == [version(2)]


async def test_a_version_whose_chats_render_otherwise_never_reaches_the_engine(
    disk: AdapterDisk, world: World, engine: FakeEngine, metrics: ServingMetrics
) -> None:
    chat = RenderedChat(messages=(ChatMessage(role="user", content="hello"),), token_ids=(9,))
    probes = Probes(sequences=SEQUENCES, chats=(chat,)).to_json()
    await world.publish(version(3), files={**FILES, PROBES: probes})
    residency = Residency(
        engine, disk, world.refusals, metrics, probe_floor=0.02, engine_ids=itertools.count(1)
    )
    with pytest.raises(AdapterRefused) as caught:
        await residency.load(version(3))
    assert (caught.value.reason, caught.value.retryable) == ("RENDERING_MISMATCH", False)
    assert (engine.added, engine.probed, holds(disk)) == ([], [], 0)
    refusal = world.refusals.get(version(3))
    assert refusal is not None
    assert refusal.reason == "RENDERING_MISMATCH"
    with pytest.raises(AdapterRefused):
        await residency.load(version(3))
    assert engine.rendered == [chat]


async def test_chats_are_rendered_once_in_a_life_of_the_engine(
    residency: Residency, world: World, engine: FakeEngine
) -> None:
    chat = RenderedChat(messages=(ChatMessage(role="user", content="hello"),), token_ids=(5,))
    probes = Probes(sequences=SEQUENCES, chats=(chat,)).to_json()
    await world.publish(version(3), files={**FILES, PROBES: probes})
    for _ in range(2):
        await residency.load(version(3))
        await residency.unload(version(3))
    assert engine.rendered == [chat]
