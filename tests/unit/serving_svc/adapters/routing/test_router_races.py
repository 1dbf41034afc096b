"""A promotion, a poll, a refusal and a first request at the same time, ending in any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving_svc.adapters.routing import Resolved
from tailorbird.errors import AdapterRefused, NotFound, Unavailable
from tests.unit.serving_svc.adapters.routed import (
    ADAPTER,
    Parts,
    refused,
    route,
    turns,
    version,
)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    await parts.close()


def ask(parts: Parts) -> asyncio.Task[int]:
    return asyncio.create_task(parts.generation())


async def promote(parts: Parts, generation: int, number: int) -> None:
    """Do what Promote does on this replica."""
    await parts.publish(number)
    promoted = route(generation, number, "promote")
    await parts.registry.append_route(ADAPTER, promoted)
    parts.router.adopt(ADAPTER, promoted)


async def test_two_first_requests_look_once(parts: Parts) -> None:
    await parts.route(1)
    parts.store.count()
    assert await asyncio.gather(*(parts.generation() for _ in range(5))) == [1] * 5
    assert parts.gate.asked == [version(1)]
    assert parts.store.count()["list"] == 1


async def test_the_first_requester_may_go_and_the_others_are_answered(parts: Parts) -> None:
    await parts.route(1)
    opened = parts.gate.close(version(1))
    first, second = ask(parts), ask(parts)
    await parts.gate.entered[version(1)].wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    opened.set()
    assert await second == 1
    assert parts.gate.asked == [version(1)]


async def test_all_requesters_may_go_and_the_look_goes_on(parts: Parts) -> None:
    await parts.route(1)
    opened = parts.gate.close(version(1))
    only = ask(parts)
    await parts.gate.entered[version(1)].wait()
    only.cancel()
    await asyncio.gather(only, return_exceptions=True)
    opened.set()
    await parts.settled()
    assert parts.router.effective_generation(ADAPTER) == 1


async def test_a_promotion_during_the_first_look_stays(parts: Parts) -> None:
    await parts.route(1)
    opened = parts.gate.close(version(1))
    asked = ask(parts)
    await parts.gate.entered[version(1)].wait()
    await promote(parts, 2, 2)
    assert await parts.generation() == 2
    opened.set()
    assert await asked == 2
    await parts.settled()
    assert await parts.generation() == 2
    assert (parts.flips(), parts.gate.retired) == (0, [])
    known = parts.router._known.get(ADAPTER)
    assert known is not None
    assert (known.head.generation, known.settled) == (2, 2)


async def test_a_first_look_that_found_a_newer_route_than_a_promotion_counts(parts: Parts) -> None:
    await parts.route(1, 2)
    opened = parts.gate.close(version(2))
    asked = ask(parts)
    await parts.gate.entered[version(2)].wait()
    parts.router.adopt(ADAPTER, route(1, 1))
    opened.set()
    await asked
    await parts.settled()
    assert await parts.generation() == 2
    assert parts.gate.retired == [version(1)]


async def test_a_promotion_during_a_first_look_that_finds_no_route_stays(parts: Parts) -> None:
    await parts.publish(1)
    listed = parts.store.hang(r"list .*/versions", after=False)
    asked = ask(parts)
    await listed.entered.wait()
    await promote(parts, 1, 1)
    listed.open.set()
    assert await asked == 1
    # Nothing is remembered of its absence, which would outlive the known route.
    parts.router.forget(ADAPTER)
    assert await parts.generation() == 1


async def test_a_promotion_during_a_first_look_that_is_refused_stays(parts: Parts) -> None:
    await parts.route(1)
    parts.gate.errors = {version(1): refused()}
    opened = parts.gate.close(version(1))
    asked = ask(parts)
    await parts.gate.entered[version(1)].wait()
    await promote(parts, 2, 2)
    opened.set()
    assert await asked == 2
    parts.router.forget(ADAPTER)
    assert await parts.generation() == 2


async def test_a_promotion_during_a_first_look_that_fails_stays(parts: Parts) -> None:
    await parts.route(1)
    listed = parts.store.fail("list")
    listed.open.clear()
    asked = ask(parts)
    await listed.entered.wait()
    await promote(parts, 2, 2)
    listed.open.set()
    assert await asked == 2


async def test_a_promotion_during_a_look_at_an_older_route_stays(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    opened = parts.gate.close(version(2))
    parts.router.poll()
    await parts.gate.entered[version(2)].wait()
    await promote(parts, 3, 3)
    opened.set()
    await parts.settled()
    assert await parts.router.resolve(ADAPTER) == Resolved(version(3), 3)
    assert parts.gate.retired == [version(1)]
    assert parts.flips() == 1
    known = parts.router._known.get(ADAPTER)
    assert known is not None
    assert (known.head.generation, known.settled) == (3, 3)


async def test_a_promotion_while_the_head_is_refused_stays(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.gate.errors = {version(2): refused()}
    opened = parts.gate.close(version(2))
    parts.router.poll()
    await parts.gate.entered[version(2)].wait()
    await promote(parts, 3, 3)
    opened.set()
    await parts.settled()
    assert await parts.generation() == 3
    known = parts.router._known.get(ADAPTER)
    assert known is not None
    assert (known.settled, known.refusal) == (3, None)


async def test_a_look_that_read_before_a_promotion_lowers_nothing(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    read = parts.store.hang(r"get .*/routes/0+2\.json", after=True)
    parts.router.poll()
    await read.entered.wait()
    await promote(parts, 2, 2)
    read.open.set()
    await parts.settled()
    assert await parts.generation() == 2
    known = parts.router._known.get(ADAPTER)
    assert known is not None
    assert known.head.generation == 2


async def test_a_promotion_during_a_walk_back_from_what_is_gone_stays(parts: Parts) -> None:
    await parts.route(1, 2)
    await parts.generation()
    await parts.registry.bury(version(2), "somebody")
    opened = parts.gate.close(version(1))
    parts.router.deleted(version(2))
    await parts.gate.entered[version(1)].wait()
    await promote(parts, 3, 3)
    opened.set()
    await parts.settled()
    assert await parts.generation() == 3


async def test_a_promotion_while_nothing_is_left_to_serve_stays(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.registry.bury(version(1), "somebody")
    listed = parts.store.hang("list", after=False)
    parts.router.deleted(version(1))
    await listed.entered.wait()
    await promote(parts, 2, 2)
    listed.open.set()
    await parts.settled()
    assert await parts.generation() == 2
    assert parts.gate.retired == [version(1)] * 2


async def test_a_look_at_a_forgotten_route_answers_nobody(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    read = parts.store.hang(r"get .*/routes/0+2\.json", after=True)
    parts.router.poll()
    await read.entered.wait()
    parts.gate.errors = {version(1): refused()}
    parts.router.forget(ADAPTER)
    asked = ask(parts)
    await turns()
    assert not asked.done()
    read.open.set()
    with pytest.raises(AdapterRefused):
        await asked


async def test_a_look_that_ends_after_its_route_was_forgotten_flips_nothing(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    opened = parts.gate.close(version(2))
    parts.router.poll()
    await parts.gate.entered[version(2)].wait()
    parts.router.forget(ADAPTER)
    opened.set()
    await parts.settled()
    assert (parts.flips(), parts.gate.retired) == (0, [])
    assert parts.router.effective_generation(ADAPTER) == 0
    assert await parts.router._saved.load(ADAPTER) is None


async def test_a_walk_back_that_ends_after_a_forgotten_route_was_adopted_anew_drops_nothing(
    parts: Parts,
) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.registry.bury(version(1), "somebody")
    listed = parts.store.hang("list", after=False)
    parts.router.deleted(version(1))
    await listed.entered.wait()
    parts.router.forget(ADAPTER)
    await promote(parts, 2, 2)
    listed.open.set()
    await parts.settled()
    assert await parts.generation() == 2


async def test_closing_ends_a_look_before_it_flips(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    await parts.route(2)
    parts.gate.close(version(2))
    parts.router.poll()
    await parts.gate.entered[version(2)].wait()
    await parts.router.close()
    assert not parts.router._looks._tasks
    assert await parts.generation() == 1
    parts.clock.now += 10
    await parts.generation()
    parts.router.poll()
    assert not parts.router._looks._tasks


async def test_closing_ends_a_look_at_a_named_version(parts: Parts) -> None:
    await parts.publish(1)
    parts.router.named(version(1))
    read = parts.store.hang("tombstone")
    parts.router.poll()
    await read.entered.wait()
    await parts.router.close()
    assert not parts.router._named._checks._tasks


async def test_a_look_that_begins_after_its_route_was_forgotten_does_nothing(parts: Parts) -> None:
    await parts.route(1)
    await parts.generation()
    parts.router.poll()
    look = parts.router._looks._tasks[ADAPTER]
    parts.router.forget(ADAPTER)
    parts.store.count()
    await look
    assert not parts.store.calls


async def test_who_waits_while_the_router_closes_is_told_so(parts: Parts) -> None:
    await parts.route(1)
    parts.gate.close(version(1))
    asked = ask(parts)
    await parts.gate.entered[version(1)].wait()
    await parts.router.close()
    for waiting in (asked, ask(parts)):
        with pytest.raises(Unavailable) as caught:
            await waiting
        assert caught.value.reason == "SHUTTING_DOWN"


async def test_a_requester_that_is_cancelled_is_not_told_that_the_server_stops(
    parts: Parts,
) -> None:
    await parts.route(1)
    parts.gate.close(version(1))
    asked = ask(parts)
    await parts.gate.entered[version(1)].wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_a_version_deleted_while_it_is_checked_is_retired_once(parts: Parts) -> None:
    await parts.publish(1)
    parts.router.named(version(1))
    read = parts.store.hang("tombstone", after=True)
    parts.router.poll()
    await read.entered.wait()
    parts.router.deleted(version(1))
    read.open.set()
    await parts.settled()
    with pytest.raises(NotFound):
        parts.router.named(version(1))
    assert parts.gate.retired == [version(1)]
