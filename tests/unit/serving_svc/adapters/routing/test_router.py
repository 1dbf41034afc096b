"""Which route is in effect: what the gate lets through, and at what cost of looks at the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from serving_svc.adapters.routing import Resolved
from serving_svc.adapters.routing.absent import AbsentAdapters, retry_seconds
from tailorbird.errors import (
    AdapterRefused,
    FailedPrecondition,
    NotFound,
    StoreUnavailable,
    Unavailable,
)
from tailorbird.names import AdapterName
from tests.unit.serving_svc.adapters.routed import (
    ADAPTER,
    Clock,
    Parts,
    manifest,
    refused,
    route,
    split,
    turns,
    version,
)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    await parts.close()


async def test_the_newest_route_answers(parts: Parts) -> None:
    await parts.route(1, 2)
    assert await parts.router.resolve(ADAPTER) == Resolved(version(2), 2)
    assert parts.router.effective_generation(ADAPTER) == 2
    assert parts.gate.asked == [version(2)]


async def test_what_is_known_costs_no_look(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    parts.store.count()
    for _ in range(50):
        assert await parts.generation() == 1
    assert parts.store.count() == Counter()


async def test_a_poll_costs_one_read_an_adapter(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    parts.store.count()
    await parts.look()
    assert parts.store.count() == Counter(get=1)


async def test_without_a_version_the_adapter_is_not_there(parts: Parts) -> None:
    with pytest.raises(NotFound) as caught:
        await parts.router.resolve(ADAPTER)
    assert caught.value.reason == "ADAPTER_NOT_FOUND"
    assert parts.router.effective_generation(ADAPTER) == 0


async def test_without_a_route_the_state_is_wrong(parts: Parts) -> None:
    await parts.publish(1)
    with pytest.raises(FailedPrecondition) as caught:
        await parts.router.resolve(ADAPTER)
    assert caught.value.reason == "ADAPTER_NOT_ROUTED"


@pytest.mark.parametrize("published", [True, False])
async def test_asking_again_for_what_has_no_route_costs_no_look_for_a_while(
    parts: Parts, published: bool
) -> None:
    if published:
        await parts.publish(1)
    for _ in range(3):
        with pytest.raises((NotFound, FailedPrecondition)):
            await parts.router.resolve(ADAPTER)
    assert parts.store.count()["list"] == 2
    await parts.look()
    assert parts.store.count() == Counter()
    await parts.route(1)
    parts.clock.now += 2.0
    assert await parts.generation() == 1


async def test_a_promotion_ends_what_was_remembered_of_an_absent_adapter(parts: Parts) -> None:
    with pytest.raises(NotFound):
        await parts.router.resolve(ADAPTER)
    await parts.route(1)
    parts.router.adopt(ADAPTER, route(1, 1))
    assert await parts.generation() == 1
    parts.router.forget(ADAPTER)
    assert await parts.generation() == 1


async def test_a_scan_of_names_takes_bounded_memory() -> None:
    clock = Clock()
    absent = AbsentAdapters(clock, max_adapters=3)
    names = [AdapterName("acme", f"a{number}") for number in range(5)]
    for name in names:
        absent.unrouted(name, lambda: NotFound("x"), 1.0)
    for name in names[:2]:
        absent.check(name, 0)
    for name in names[2:]:
        with pytest.raises(NotFound):
            absent.check(name, 0)
    absent.unrouted(names[0], lambda: NotFound("x"), 1.0)
    absent.check(names[2], 0)


async def test_the_walk_goes_back_to_a_version_that_passes(parts: Parts) -> None:
    await parts.route(1, 2, 3)
    parts.gate.errors = {version(3): refused(), version(2): NotFound(version(2))}
    assert await parts.generation() == 1
    assert parts.gate.asked == [version(3), version(2), version(1)]


async def test_a_version_that_was_refused_is_asked_once_in_a_walk_of_one_listing(
    parts: Parts,
) -> None:
    await parts.route(1, 2)
    for generation in range(3, 40):
        await parts.registry.append_route(ADAPTER, route(generation, 2))
    parts.gate.errors = {version(2): refused()}
    parts.store.count()
    assert await parts.generation() == 1
    assert parts.gate.asked == [version(2), version(1)]
    assert parts.store.count()["list"] == 2


async def test_when_all_are_refused_the_newest_reason_is_told(parts: Parts) -> None:
    await parts.route(1, 2)
    parts.gate.errors = {version(2): refused("PROBE_MISMATCH"), version(1): refused()}
    with pytest.raises(AdapterRefused) as caught:
        await parts.router.resolve(ADAPTER)
    assert caught.value.reason == "PROBE_MISMATCH"


async def test_asking_again_for_what_is_refused_costs_no_look_until_there_is_a_newer_route(
    parts: Parts,
) -> None:
    await parts.route(1, 2)
    parts.gate.errors = {version(2): refused(), version(1): refused()}
    with pytest.raises(AdapterRefused) as first:
        await parts.router.resolve(ADAPTER)
    parts.store.count()
    parts.clock.now += 250
    for _ in range(5):
        with pytest.raises(AdapterRefused) as again:
            await parts.router.resolve(ADAPTER)
        assert again.value is not first.value
    assert parts.store.count() == Counter()
    await parts.look()
    assert parts.store.count() == Counter(get=1)
    await parts.route(3)
    with pytest.raises(AdapterRefused):
        await parts.router.resolve(ADAPTER)
    await parts.look()
    assert await parts.generation() == 3


async def test_a_refused_adapter_without_traffic_is_not_polled(parts: Parts) -> None:
    await parts.route(1)
    parts.gate.errors = {version(1): refused()}
    with pytest.raises(AdapterRefused):
        await parts.router.resolve(ADAPTER)
    parts.store.count()
    parts.clock.now += 301
    await parts.look()
    assert parts.store.count() == Counter()


async def test_what_is_refused_for_now_is_tried_again_with_back_off(parts: Parts) -> None:
    await parts.route(1)
    parts.gate.errors = {version(1): refused("OUT_OF_MEMORY", retryable=True)}
    for wait in (1.0, 2.0, 4.0):
        parts.gate.asked.clear()
        for passed in (0.0, wait - 0.1):
            parts.clock.now += passed
            with pytest.raises(AdapterRefused) as caught:
                await parts.router.resolve(ADAPTER)
            assert caught.value.retryable
        assert parts.gate.asked == [version(1)]
        parts.clock.now += 0.1
    parts.gate.errors.clear()
    assert await parts.generation() == 1


def test_the_back_off_is_bounded() -> None:
    assert [retry_seconds(failures) for failures in (1, 2, 9, 10, 10_000)] == [1, 2, 256, 300, 300]


async def test_a_store_that_is_down_does_not_walk_back(parts: Parts) -> None:
    await parts.route(1, 2)
    parts.gate.errors = {version(2): StoreUnavailable("down")}
    with pytest.raises(StoreUnavailable):
        await parts.router.resolve(ADAPTER)
    parts.gate.errors.clear()
    assert await parts.generation() == 2


async def test_a_refused_new_version_is_tried_once(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.gate.errors = {version(2): refused()}
    for _ in range(3):
        await parts.look()
        parts.clock.now += 50
    assert await parts.generation() == 1
    assert parts.gate.asked == [version(1), version(2)]
    await parts.route(3)
    await parts.look()
    assert await parts.generation() == 3


async def test_a_new_version_that_is_refused_for_now_is_tried_again_later(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.gate.errors = {version(2): refused(retryable=True)}
    for _ in range(2):
        await parts.look()
    assert parts.gate.asked == [version(1), version(2)]
    parts.gate.errors.clear()
    parts.clock.now += 1.0
    await parts.look()
    assert await parts.generation() == 2
    parts.clock.now += 1000
    parts.gate.asked.clear()
    await parts.look()
    assert parts.gate.asked == []


async def test_a_new_version_that_cannot_be_fetched_yet_is_tried_again(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.gate.errors = {version(2): StoreUnavailable("down")}
    await parts.look()
    assert await parts.generation() == 1
    parts.gate.errors.clear()
    await parts.look()
    assert await parts.generation() == 2


async def test_a_bug_in_a_look_does_not_end_what_is_in_effect(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.gate.errors = {version(2): ZeroDivisionError()}
    await parts.look()
    assert await parts.generation() == 1


async def test_the_old_version_answers_until_the_new_one_is_loaded(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    opened = parts.gate.close(version(2))
    parts.router.poll()
    await parts.gate.entered[version(2)].wait()
    assert await parts.generation() == 1
    assert parts.gate.retired == []
    opened.set()
    await parts.settled()
    assert await parts.generation() == 2
    assert (parts.gate.retired, parts.flips()) == ([version(1)], 1)


async def test_a_new_version_takes_the_slot_of_the_one_it_replaces(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.publish(2, 3)
    await parts.registry.append_route(ADAPTER, route(2, versions=split(v1=9, v2=1)))
    await parts.look()
    await parts.registry.append_route(ADAPTER, route(3, versions=split(v2=1, v3=1)))
    await parts.look()
    assert await parts.generation() == 3
    assert parts.gate.replaced == [None, None, None, version(1), version(1)]


async def test_an_adopted_route_is_in_effect_at_once(parts: Parts) -> None:
    await parts.route(1, 2)
    await parts.generation()
    newer = route(3, 1, "rollback")
    await parts.registry.append_route(ADAPTER, newer)
    parts.router.adopt(ADAPTER, newer)
    assert await parts.router.resolve(ADAPTER) == Resolved(version(1), 3)
    await parts.look()
    assert await parts.router.resolve(ADAPTER) == Resolved(version(1), 3)
    assert parts.gate.asked == [version(2)]


async def test_the_same_versions_again_are_no_flip(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(1)
    await parts.look()
    assert await parts.generation() == 2
    assert (parts.flips(), parts.gate.retired) == (0, [])


async def test_a_forgotten_adapter_is_looked_up_anew(parts: Parts) -> None:
    await parts.route(1, 2)
    await parts.generation()
    parts.gate.errors = {version(2): refused()}
    parts.router.forget(ADAPTER)
    assert await parts.generation() == 1


async def test_what_replaced_a_refused_route_is_not_forgotten_with_it(parts: Parts) -> None:
    await parts.route(1, 2)
    await parts.generation()
    parts.gate.errors = {version(2): refused()}
    parts.router.forget(ADAPTER, 2)
    await parts.generation()
    parts.store.count()
    parts.router.forget(ADAPTER, 2)
    assert await parts.generation() == 1
    assert parts.store.count() == Counter()


async def test_every_version_of_a_route_must_pass(parts: Parts) -> None:
    await parts.route(1)
    await parts.publish(2, 3)
    await parts.registry.append_route(ADAPTER, route(2, versions=split(v1=1, v2=90, v3=9)))
    parts.gate.errors = {version(3): refused()}
    assert await parts.generation() == 1
    parts.gate.errors.clear()
    parts.router.forget(ADAPTER)
    parts.gate.asked.clear()
    assert await parts.generation() == 2
    # The heaviest last: it is the last to leave its slot.
    assert parts.gate.asked == [version(1), version(3), version(2)]
    keys = [f"key-{number}" for number in range(100)]
    first = [await parts.router.resolve(ADAPTER, key) for key in keys]
    assert {answer.version for answer in first} >= {version(2), version(3)}
    assert first == [await parts.router.resolve(ADAPTER, key) for key in keys]


async def test_only_versions_that_lost_their_share_are_retired(parts: Parts) -> None:
    await parts.publish(1, 2, 3)
    await parts.registry.append_route(ADAPTER, route(1, versions=split(v1=1, v2=1)))
    await parts.generation()
    await parts.registry.append_route(ADAPTER, route(2, versions=split(v2=1, v3=1)))
    await parts.look()
    assert await parts.generation() == 2
    assert parts.gate.retired == [version(1)]


async def test_a_replica_200_generations_behind_catches_up_in_one_look(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.publish(2)
    for generation in range(2, 202):
        await parts.registry.append_route(ADAPTER, route(generation, 2))
    parts.store.count()
    await parts.look()
    assert await parts.generation() == 201
    assert parts.store.count()["get"] < 25
    assert parts.gate.asked == [version(1), version(2)]


async def test_after_a_pause_a_listing_finds_the_head_where_old_routes_were_collected(
    parts: Parts,
) -> None:
    await parts.route(1, 2, 3, 4)
    parts.router.adopt(ADAPTER, route(1, 1))
    parts.clock.now += 301
    await parts.store.delete(f"{ADAPTER}/routes/{2:012d}.json")
    await parts.generation()
    await parts.settled()
    assert await parts.generation() == 4


async def test_an_adapter_without_traffic_is_not_polled(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    parts.clock.now += 301
    parts.store.count()
    await parts.look()
    assert parts.store.count() == Counter()


async def test_a_demanded_generation_is_looked_for_at_once(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    assert await parts.generation() == 1
    assert await parts.generation(min_generation=2) == 2
    assert await parts.generation(min_generation=1) == 2


async def test_a_look_that_read_before_the_demanded_route_was_written_is_not_the_last(
    parts: Parts,
) -> None:
    await parts.route(1)
    await parts.generation()
    read = parts.store.hang(r"get .*/routes/0+2\.json", after=True)
    parts.router.poll()
    await read.entered.wait()
    parts.store.rules.clear()
    await parts.route(2)
    asked = asyncio.create_task(parts.generation(min_generation=2))
    await turns()
    read.open.set()
    assert await asked == 2


async def test_a_demanded_generation_that_is_not_written_is_unavailable(parts: Parts) -> None:
    await parts.route(1)
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await parts.router.resolve(ADAPTER, min_generation=5)
        assert caught.value.reason == "ROUTE_GENERATION_NOT_REACHED"
        assert caught.value.retry_after == 2.0
    assert await parts.generation() == 1


async def test_a_demanded_generation_that_is_refused_says_so(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.gate.errors = {version(2): refused("PROBE_MISMATCH")}
    for generation in (2, 2):
        with pytest.raises(AdapterRefused) as caught:
            await parts.router.resolve(ADAPTER, min_generation=generation)
        assert caught.value.reason == "PROBE_MISMATCH"
    assert await parts.generation() == 1


async def test_a_demanded_generation_is_looked_for_where_there_was_none(parts: Parts) -> None:
    with pytest.raises(NotFound):
        await parts.router.resolve(ADAPTER)
    await parts.route(1)
    with pytest.raises(NotFound):
        await parts.router.resolve(ADAPTER)
    assert await parts.generation(min_generation=1) == 1


async def test_a_demanded_generation_is_looked_for_where_all_were_refused(parts: Parts) -> None:
    await parts.route(1)
    parts.gate.errors = {version(1): refused()}
    with pytest.raises(AdapterRefused):
        await parts.router.resolve(ADAPTER)
    await parts.route(2)
    with pytest.raises(AdapterRefused):
        await parts.router.resolve(ADAPTER, min_generation=1)
    assert await parts.generation(min_generation=2) == 2


Remove = Callable[[Parts, int], Awaitable[None]]


async def vanish(parts: Parts, number: int) -> None:
    await parts.store.delete(f"{version(number)}/manifest.json")


async def bury(parts: Parts, number: int) -> None:
    await parts.registry.bury(version(number), "somebody")


@pytest.mark.parametrize("remove", [vanish, bury])
async def test_a_version_that_is_gone_is_walked_back_from_when_cold(
    parts: Parts, remove: Remove
) -> None:
    await parts.route(1, 2)
    await remove(parts, 2)
    assert await parts.generation() == 1
    assert parts.gate.asked == [version(1)]


@pytest.mark.parametrize("remove", [vanish, bury])
async def test_a_version_that_is_gone_is_walked_back_from_when_warm(
    parts: Parts, remove: Remove
) -> None:
    await parts.route(1, 2)
    await parts.generation()
    await remove(parts, 2)
    for _ in range(10):
        await parts.look()
    assert await parts.router.resolve(ADAPTER) == Resolved(version(1), 1)
    assert parts.gate.retired == [version(2)]


async def test_an_effective_version_below_the_head_is_looked_at_each_time(parts: Parts) -> None:
    # Who deletes cannot know of it: the head is refused only here.
    await parts.route(1, 2, 3)
    parts.gate.errors = {version(3): refused()}
    assert await parts.generation() == 2
    await bury(parts, 2)
    await parts.look()
    assert await parts.generation() == 1


async def test_without_anything_left_to_walk_back_to_the_adapter_is_refused(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await bury(parts, 1)
    for _ in range(10):
        await parts.look()
    with pytest.raises(AdapterRefused) as caught:
        await parts.router.resolve(ADAPTER)
    assert caught.value.reason == "VERSION_DELETED"
    assert parts.gate.retired == [version(1)]
    parts.store.count()
    with pytest.raises(AdapterRefused):
        await parts.router.resolve(ADAPTER)
    assert parts.store.count() == Counter()


async def test_a_walk_back_that_fails_is_tried_again_at_the_next_look(parts: Parts) -> None:
    await parts.route(1, 2)
    await parts.generation()
    await bury(parts, 2)
    parts.gate.errors = {version(1): StoreUnavailable("down")}
    parts.router.deleted(version(2))
    await parts.settled()
    assert await parts.generation() == 2
    parts.gate.errors.clear()
    await parts.look()
    assert await parts.generation() == 1


async def test_a_vanished_version_that_comes_back_is_served_again(parts: Parts) -> None:
    await parts.route(1)
    await vanish(parts, 1)
    with pytest.raises(AdapterRefused):
        await parts.router.resolve(ADAPTER)
    await parts.registry.publish(version(1), manifest(version(1)))
    parts.clock.now += 1.0
    assert await parts.generation() == 1


async def test_a_store_that_is_down_makes_nothing_vanish(parts: Parts) -> None:
    await parts.route(1, 2)
    await parts.generation()
    parts.store.fail("manifest|tombstone")
    for _ in range(20):
        await parts.look()
    assert await parts.generation() == 2


async def test_a_version_deleted_here_is_walked_back_from_at_once(parts: Parts) -> None:
    await parts.route(1, 2)
    await parts.generation()
    await bury(parts, 2)
    parts.router.deleted(version(2))
    await parts.settled()
    assert await parts.generation() == 1
    with pytest.raises(NotFound):
        parts.router.named(version(2))


async def test_a_named_version_is_served_until_it_is_seen_deleted(parts: Parts) -> None:
    await parts.publish(1, 2)
    for number in (1, 2):
        assert parts.router.named(version(number)) == Resolved(version(number), 0)
    await parts.settled()
    await bury(parts, 1)
    parts.store.count()
    assert parts.router.named(version(1)) == Resolved(version(1), 0)
    assert parts.store.count() == Counter()
    await parts.look()
    assert parts.store.count() == Counter(get=2)
    with pytest.raises(NotFound) as caught:
        parts.router.named(version(1))
    assert caught.value.reason == "VERSION_DELETED"
    assert parts.gate.dropped == [version(1)]
    await parts.look()
    assert parts.store.count() == Counter(get=1)
    assert parts.router.named(version(2)) == Resolved(version(2), 0)


async def test_named_versions_are_looked_at_only_while_they_have_traffic(parts: Parts) -> None:
    await parts.publish(1)
    parts.router.named(version(1))
    await parts.settled()
    parts.clock.now += 301
    parts.store.count()
    await parts.look()
    assert parts.store.count() == Counter()
    assert not parts.router._named._named


async def test_a_version_deleted_long_ago_is_found_out_by_its_first_request(parts: Parts) -> None:
    await parts.publish(1)
    await bury(parts, 1)
    # What is on disk is served without a wait for the store.
    parts.router.named(version(1))
    await parts.settled()
    with pytest.raises(NotFound):
        parts.router.named(version(1))
    assert parts.gate.retired == [version(1)]


async def test_names_of_nothing_cost_one_look_and_may_be_published_later(parts: Parts) -> None:
    parts.router.named(version(1))
    await parts.settled()
    assert parts.store.count() == Counter(get=2)
    assert not parts.router._named._named
    await parts.look()
    assert parts.store.count() == Counter()
    await parts.publish(1)
    parts.router.named(version(1))
    await parts.settled()
    await parts.look()
    parts.router.named(version(1))
    assert list(parts.router._named._named) == [version(1)]


async def test_names_of_nothing_do_not_bring_a_deleted_version_back(parts: Parts) -> None:
    parts.router._named._max_versions = 3
    await parts.publish(1)
    await bury(parts, 1)
    parts.router.named(version(1))
    await parts.settled()
    for number in range(2, 9):
        parts.router.named(version(number))
    with pytest.raises(NotFound):
        parts.router.named(version(1))


async def test_deleted_versions_are_remembered_in_bounded_memory(parts: Parts) -> None:
    parts.router._named._max_versions = 3
    for number in range(6):
        parts.router.deleted(version(number))
    assert list(parts.router._named._deleted) == [version(3), version(4), version(5)]
    parts.gate.retired.clear()
    parts.router.deleted(version(5))
    assert not parts.gate.retired


async def test_looks_at_named_versions_are_bounded_while_the_store_hangs(parts: Parts) -> None:
    parts.router._named._max_versions = 3
    hanging = parts.store.hang("tombstone")
    for number in range(6):
        parts.router.named(version(number))
    assert len(parts.router._named._checks) == 3
    hanging.open.set()
    await parts.settled()


async def test_a_version_with_a_huge_manifest_or_tombstone_is_there_or_deleted(
    parts: Parts,
) -> None:
    await parts.route(1)
    await parts.registry.append_route(ADAPTER, route(2, 2))
    await parts.store.real.put(f"{version(2)}/manifest.json", b" " * (2**20 + 1))
    parts.gate.errors[version(2)] = refused("MANIFEST_INVALID")
    assert await parts.generation() == 1
    await parts.store.real.put(f"{version(1)}/tombstone.json", b" " * (2**20 + 1))
    parts.router.named(version(1))
    await parts.settled()
    with pytest.raises(NotFound):
        parts.router.named(version(1))


async def test_a_store_that_is_down_deletes_no_named_version(parts: Parts) -> None:
    await parts.publish(1)
    parts.router.named(version(1))
    parts.store.fail()
    await parts.look()
    assert parts.router.named(version(1)) == Resolved(version(1), 0)


async def test_nothing_is_looked_at_once_the_router_is_closed(parts: Parts) -> None:
    await parts.route(1)
    parts.gate.errors = {version(1): refused()}
    with pytest.raises(AdapterRefused):
        await parts.generation()
    await parts.router.close()
    parts.router.poll()
    parts.router.named(version(1))
    assert not parts.router._looks._tasks
    assert not parts.router._named._checks._tasks


async def test_a_scan_of_version_names_takes_bounded_memory(parts: Parts) -> None:
    parts.router._named._max_versions = 3
    for number in range(6):
        parts.router.named(version(number))
    assert list(parts.router._named._named) == [version(3), version(4), version(5)]
