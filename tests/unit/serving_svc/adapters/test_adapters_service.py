"""Moving routes, deleting versions, and listings that cost their page."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from serving_svc.adapters.paging import Page
from serving_svc.adapters.routing import Resolved
from serving_svc.adapters.service import Adapters, Refusal
from tailorbird.errors import (
    AdapterRefused,
    DataCorrupt,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    StoreUnavailable,
)
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.registry import AdapterRegistry
from tailorbird.routes import Route, RouteConflict
from tests.unit.serving_svc.adapters import routed
from tests.unit.serving_svc.adapters.routed import (
    ADAPTER,
    manifest,
    refused,
    route,
    split,
    turns,
    version,
)

TENANT = TenantName("acme")


@dataclass(frozen=True)
class NotServed:
    reason: str = "NOT_FINITE"
    message: str = "it is broken"
    retryable: bool = False
    retry_at: datetime | None = None


class Refusals:
    def __init__(self) -> None:
        self.refused: dict[VersionName, NotServed] = {}

    def get(self, version: VersionName) -> NotServed | None:
        return self.refused.get(version)

    def of(self, adapter: AdapterName) -> Mapping[VersionName, Refusal]:
        return {
            name: refusal for name, refusal in self.refused.items() if name.adapter_name == adapter
        }


class Parts(routed.Parts):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.refusals = Refusals()
        self.adapters = Adapters(self.registry, self.router, self.gate, self.refusals, slots=4)
        self.elsewhere = Adapters(
            AdapterRegistry(self.store.real), self.new_router(), routed.Gate(), Refusals(), slots=4
        )
        """Another replica, on the same store when it works."""

    async def head(self) -> Route | None:
        return await AdapterRegistry(self.store.real).head(ADAPTER)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    await parts.close()


def page(size: int, token: str = "", of: str = "tenants/acme/adapters") -> Page:
    return Page.parse(of, size, token)


async def test_a_promotion_is_in_effect_when_it_returns(parts: Parts) -> None:
    await parts.publish(1, 2)
    found = await parts.adapters.promote(version(1), "me")
    assert (found.generation, found.version, found.reason, found.actor) == (
        1, version(1).version, "promote", "me",
    )  # fmt: skip
    parts.store.fail()
    assert await parts.router.resolve(ADAPTER) == Resolved(version(1), 1)
    parts.store.heal()
    assert (await parts.adapters.promote(version(2), "me")).generation == 2
    parts.store.fail()
    assert await parts.router.resolve(ADAPTER) == Resolved(version(2), 2)
    assert not parts.gate.held


async def test_promoting_what_is_routed_writes_nothing(parts: Parts) -> None:
    await parts.route(1)
    assert await parts.adapters.promote(version(1), "me") == route(1, 1)
    assert await parts.head() == route(1, 1)


async def test_promoting_what_is_routed_and_was_refused_brings_it_into_effect(parts: Parts) -> None:
    await parts.route(1, 2)
    parts.gate.errors = {version(2): refused()}
    assert (await parts.router.resolve(ADAPTER)).generation == 1
    parts.gate.errors.clear()
    await parts.adapters.promote(version(2), "me")
    assert (await parts.router.resolve(ADAPTER)).generation == 2


async def test_a_refused_version_is_not_routed(parts: Parts) -> None:
    await parts.publish(1)
    parts.gate.errors = {version(1): refused("PROBE_MISMATCH")}
    with pytest.raises(AdapterRefused):
        await parts.adapters.promote(version(1), "me")
    assert await parts.head() is None


async def test_a_version_that_is_gone_from_the_store_is_not_routed(parts: Parts) -> None:
    with pytest.raises(NotFound) as caught:
        await parts.adapters.promote(version(1), "me")
    assert caught.value.reason == "VERSION_NOT_FOUND"
    await parts.publish(2)
    await parts.registry.bury(version(2), "me")
    with pytest.raises(NotFound) as caught:
        await parts.adapters.promote(version(2), "me")
    assert caught.value.reason == "VERSION_DELETED"
    assert await parts.head() is None


async def test_of_two_promotions_at_once_one_is_told_of_the_other(parts: Parts) -> None:
    await parts.publish(1, 2)
    opened = parts.gate.close(version(1))
    first = asyncio.create_task(parts.adapters.promote(version(1), "me"))
    await parts.gate.entered[version(1)].wait()
    await parts.elsewhere.promote(version(2), "somebody")
    opened.set()
    with pytest.raises(RouteConflict):
        await first


async def test_a_route_whose_reply_was_lost_can_be_set_again(parts: Parts) -> None:
    await parts.publish(1)
    parts.store.fail("create .*routes", after=True)
    with pytest.raises(StoreUnavailable):
        await parts.adapters.promote(version(1), "me")
    parts.store.heal()
    assert (await parts.adapters.promote(version(1), "me")).generation == 1
    assert (await parts.router.resolve(ADAPTER)).generation == 1


async def test_a_route_is_set_to_several_versions(parts: Parts) -> None:
    await parts.publish(1, 2, 3)
    weights = split(v1=70, v2=20, v3=10)
    found = await parts.adapters.set_route(ADAPTER, weights, 0, "me")
    assert (found.generation, found.reason, found.versions) == (
        1, "set", weights,
    )  # fmt: skip
    assert parts.gate.most_held == 3
    assert not parts.gate.held
    parts.store.fail()
    seen = {(await parts.router.resolve(ADAPTER, f"key-{n}")).version for n in range(200)}
    assert seen == {version(1), version(2), version(3)}
    parts.store.heal()
    assert await parts.adapters.set_route(ADAPTER, weights[::-1], 0, "other") == found
    assert await parts.head() == found


async def test_every_version_of_a_route_that_is_set_must_pass(parts: Parts) -> None:
    await parts.publish(1, 2)
    parts.gate.errors = {version(2): refused()}
    weights = split(v1=70, v2=20)
    with pytest.raises(AdapterRefused):
        await parts.adapters.set_route(ADAPTER, weights, 0, "me")
    parts.gate.errors.clear()
    await parts.registry.bury(version(2), "me")
    with pytest.raises(NotFound):
        await parts.adapters.set_route(ADAPTER, weights, 0, "me")
    assert await parts.head() is None


async def test_more_versions_than_slots_pass_one_after_the_other(parts: Parts) -> None:
    numbers = range(1, 17)
    await parts.publish(*numbers)
    parts.gate.slots = 4
    weights = split(**{f"v{number}": number for number in numbers})
    await parts.adapters.set_route(ADAPTER, weights, 0, "me")
    assert set(parts.gate.asked) == {version(number) for number in numbers}
    assert parts.gate.most_held == 3
    assert (await parts.router.resolve(ADAPTER)).generation == 1


async def test_slots_that_others_hold_do_not_stop_a_route(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_svc.adapters.routing.promotion._HOLD_MORE_SECONDS", 0.01)
    await parts.publish(1, 2)
    parts.gate.slots = 1
    await parts.adapters.set_route(ADAPTER, split(v1=1, v2=1), 0, "me")
    assert (await parts.router.resolve(ADAPTER)).generation == 1
    assert not parts.gate.held


async def test_a_generation_that_is_expected_must_be_the_newest(parts: Parts) -> None:
    await parts.route(1, 2)
    for wrong in (1, 3):
        with pytest.raises(RouteConflict):
            await parts.adapters.set_route(ADAPTER, split(v1=1), wrong, "me")
    assert not parts.gate.asked
    found = await parts.adapters.set_route(ADAPTER, split(v1=1), 2, "me")
    assert found.generation == 3


async def test_a_rollback_goes_to_what_was_routed_before(parts: Parts) -> None:
    await parts.route(1, 2, 2)
    found = await parts.adapters.rollback(ADAPTER, None, "me")
    assert (found.generation, found.version, found.reason) == (4, version(1).version, "rollback")
    found = await parts.adapters.rollback(ADAPTER, version(2), "me")
    assert (found.generation, found.version) == (5, version(2).version)


async def test_a_rollback_from_a_split_takes_back_the_split(parts: Parts) -> None:
    await parts.route(1)
    await parts.publish(2)
    await parts.adapters.set_route(ADAPTER, split(v1=90, v2=10), 0, "me")
    found = await parts.adapters.rollback(ADAPTER, None, "me")
    assert found.versions == split(v1=100)
    found = await parts.adapters.rollback(ADAPTER, None, "me")
    assert found.versions == split(v1=90, v2=10)


async def test_a_rollback_without_a_way_back_is_refused(parts: Parts) -> None:
    with pytest.raises(NotFound):
        await parts.adapters.rollback(ADAPTER, None, "me")
    await parts.publish(1)
    with pytest.raises(FailedPrecondition) as caught:
        await parts.adapters.rollback(ADAPTER, None, "me")
    assert caught.value.reason == "ADAPTER_NOT_ROUTED"
    await parts.route(1, 1)
    with pytest.raises(FailedPrecondition) as caught:
        await parts.adapters.rollback(ADAPTER, None, "me")
    assert caught.value.reason == "NO_PREVIOUS_VERSION"
    other = version(1, AdapterName("acme", "other"))
    with pytest.raises(InvalidArgument):
        await parts.adapters.rollback(ADAPTER, other, "me")


async def test_a_deleted_version_is_served_and_listed_no_more(parts: Parts) -> None:
    await parts.route(1)
    await parts.publish(2)
    parts.router.named(version(2))
    deleted = await parts.adapters.delete_version(version(2), "me")
    assert deleted.name == version(2)
    assert deleted.manifest == manifest(version(2))
    assert deleted.delete_time is not None
    assert await parts.adapters.delete_version(version(2), "other") == deleted
    assert await parts.adapters.get_version(version(2)) == deleted
    with pytest.raises(NotFound):
        parts.router.named(version(2))
    assert parts.gate.retired == [version(2)]
    found, token = await parts.adapters.list_versions(ADAPTER, page(9, of=f"{ADAPTER}/versions"))
    assert ([one.name for one in found], token) == ([version(1)], "")


async def test_a_routed_version_is_not_deleted(parts: Parts) -> None:
    await parts.route(1)
    await parts.publish(2)
    await parts.adapters.set_route(ADAPTER, split(v1=9, v2=1), 0, "me")
    for number in (1, 2):
        for adapters in (parts.adapters, parts.elsewhere):
            with pytest.raises(FailedPrecondition) as caught:
                await adapters.delete_version(version(number), "me")
            assert caught.value.reason == "VERSION_ROUTED"
        assert await parts.registry.tombstone(version(number)) is None


async def test_a_version_in_effect_below_a_refused_head_is_not_deleted(parts: Parts) -> None:
    await parts.route(1, 2)
    parts.gate.errors = {version(2): refused()}
    await parts.router.resolve(ADAPTER)
    with pytest.raises(FailedPrecondition) as caught:
        await parts.adapters.delete_version(version(1), "me")
    assert caught.value.reason == "VERSION_ROUTED"
    assert await parts.registry.tombstone(version(1)) is None


async def test_what_is_not_published_is_not_deleted(parts: Parts) -> None:
    with pytest.raises(NotFound):
        await parts.adapters.delete_version(version(1), "me")
    assert await parts.registry.tombstone(version(1)) is None


async def test_a_version_whose_manifest_is_broken_can_be_deleted(parts: Parts) -> None:
    await parts.store.create(f"{version(1)}/manifest.json", b"garbage")
    deleted = await parts.adapters.delete_version(version(1), "me")
    assert deleted.manifest is None
    assert deleted.delete_time is not None


async def test_a_deletion_whose_reply_was_lost_can_be_repeated(parts: Parts) -> None:
    await parts.publish(1)
    parts.store.fail("create .*tombstone", after=True)
    with pytest.raises(StoreUnavailable):
        await parts.adapters.delete_version(version(1), "me")
    parts.store.heal()
    assert (await parts.adapters.delete_version(version(1), "me")).delete_time is not None


async def test_a_route_written_during_a_deletion_is_told_to_who_deletes(parts: Parts) -> None:
    await parts.route(1)
    await parts.publish(2)
    burying = parts.store.hang("create .*tombstone")
    deleting = asyncio.create_task(parts.adapters.delete_version(version(2), "me"))
    await burying.entered.wait()
    await parts.elsewhere.promote(version(2), "somebody")
    burying.open.set()
    with pytest.raises(FailedPrecondition) as caught:
        await deleting
    assert caught.value.reason == "VERSION_ROUTED"
    # Wherever it is looked for, here or there, the route to it is walked back from.
    for router in parts._routers:
        router.forget(ADAPTER)
        assert (await router.resolve(ADAPTER)).version == version(1)


async def test_a_deletion_while_a_route_is_written_is_told_to_who_routes(parts: Parts) -> None:
    await parts.route(1)
    await parts.publish(2)
    await parts.router.resolve(ADAPTER)
    writing = parts.store.hang("create .*routes")
    promoting = asyncio.create_task(parts.adapters.promote(version(2), "me"))
    await writing.entered.wait()
    await parts.elsewhere.delete_version(version(2), "somebody")
    writing.open.set()
    with pytest.raises(NotFound) as caught:
        await promoting
    assert caught.value.reason == "VERSION_DELETED"
    assert (await parts.router.resolve(ADAPTER)).version == version(1)
    await parts.look()
    assert (await parts.router.resolve(ADAPTER)).version == version(1)
    assert (await parts.head()) != route(1, 1)


async def test_a_promotion_that_is_cancelled_holds_nothing(parts: Parts) -> None:
    await parts.publish(1)
    writing = parts.store.hang("create .*routes")
    promoting = asyncio.create_task(parts.adapters.promote(version(1), "me"))
    await writing.entered.wait()
    assert parts.gate.held == [version(1)]
    promoting.cancel()
    await asyncio.gather(promoting, return_exceptions=True)
    await turns()
    assert not parts.gate.held


async def many(parts: Parts, count: int) -> list[AdapterName]:
    names = [AdapterName("acme", f"a{number:03d}") for number in range(count)]
    for name in names:
        await parts.publish(1, adapter=name)
        await parts.registry.append_route(name, route(1, 1))
    return names


async def test_listing_adapters_costs_the_page(parts: Parts) -> None:
    names = await many(parts, 30)
    parts.store.count()
    found, token = await parts.adapters.list_adapters(TENANT, page(3))
    assert [state.name for state in found] == names[:3]
    assert parts.store.count() == Counter(folders=1, list=3, get=3)
    seen = [state.name for state in found]
    while token:
        found, token = await parts.adapters.list_adapters(TENANT, page(7, token))
        seen += [state.name for state in found]
    assert seen == names


async def test_a_page_is_filled_past_what_is_not_to_be_shown(parts: Parts) -> None:
    names = await many(parts, 6)
    for number in range(40):
        await parts.store.create(f"tenants/acme/adapters/a002-{number}/versions/x/y", b"")
    seen = []
    token = ""
    for expected in (4, 2):
        found, token = await parts.adapters.list_adapters(TENANT, page(4, token))
        assert len(found) == expected
        seen += [state.name for state in found]
    assert (seen, token) == (names, "")


async def test_a_page_of_very_many_that_are_not_shown_ends_early(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_svc.adapters.paging._EXTRA_LOOKS", 10)
    (name,) = await many(parts, 1)
    for number in range(30):
        await parts.store.create(f"tenants/acme/adapters/a-{number:02d}/versions/x/y", b"")
    found, token = await parts.adapters.list_adapters(TENANT, page(4))
    assert not found
    assert token
    while token:
        found, token = await parts.adapters.list_adapters(TENANT, page(4, token))
    assert [state.name for state in found] == [name]


async def test_an_adapter_without_a_route_shows_once_it_has_a_version(parts: Parts) -> None:
    await parts.store.create(f"{version(1)}/adapter_config.json", b"{}")
    with pytest.raises(NotFound):
        await parts.adapters.get_adapter(ADAPTER)
    assert await parts.adapters.list_adapters(TENANT, page(4)) == ([], "")
    await parts.publish(1)
    parts.refusals.refused[version(1)] = NotServed()
    state = await parts.adapters.get_adapter(ADAPTER)
    assert (state.name, state.route, state.effective_generation) == (ADAPTER, None, 0)
    assert state.refusals == {version(1): NotServed()}
    assert await parts.adapters.list_adapters(TENANT, page(4)) == ([state], "")
    await parts.route(1)
    await parts.router.resolve(ADAPTER)
    state = await parts.adapters.get_adapter(ADAPTER)
    assert (state.route, state.effective_generation) == (route(1, 1), 1)


async def test_listing_adapters_fails_as_the_store_does(parts: Parts) -> None:
    await many(parts, 3)
    parts.store.fail("list .*a001/routes")
    with pytest.raises(StoreUnavailable):
        await parts.adapters.list_adapters(TENANT, page(3))


async def test_listing_versions_reads_the_pages_manifests(parts: Parts) -> None:
    await parts.publish(*range(20))
    parts.store.count()
    found, token = await parts.adapters.list_versions(ADAPTER, page(3, of=f"{ADAPTER}/versions"))
    assert [one.name for one in found] == [version(19), version(18), version(17)]
    assert parts.store.count() == Counter(folders=1, get=6)
    found, token = await parts.adapters.list_versions(
        ADAPTER, page(17, token, f"{ADAPTER}/versions")
    )
    assert ([one.name for one in found], token) == ([version(n) for n in range(16, -1, -1)], "")


async def test_a_version_that_cannot_be_read_hides_no_other(parts: Parts) -> None:
    await parts.publish(1, 3)
    await parts.store.create(f"{version(2)}/manifest.json", b"garbage")
    await parts.store.create(f"{version(4)}/adapter_config.json", b"{}")
    parts.refusals.refused[version(3)] = NotServed()
    found, _ = await parts.adapters.list_versions(ADAPTER, page(9, of=f"{ADAPTER}/versions"))
    assert [(one.name, one.manifest is None, one.refusal) for one in found] == [
        (version(3), False, NotServed()),
        (version(2), True, None),
        (version(1), False, None),
    ]
    with pytest.raises(DataCorrupt):
        await parts.adapters.get_version(version(2))
    with pytest.raises(NotFound):
        await parts.adapters.get_version(version(4))


async def test_an_adapter_whose_versions_are_all_deleted_has_none_to_list(parts: Parts) -> None:
    listed = page(9, of=f"{ADAPTER}/versions")
    with pytest.raises(NotFound):
        await parts.adapters.list_versions(ADAPTER, listed)
    await parts.route(1)
    await parts.registry.bury(version(1), "me")
    assert await parts.adapters.list_versions(ADAPTER, listed) == ([], "")
