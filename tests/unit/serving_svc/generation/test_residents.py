"""What this replica holds of a tenant's versions, shown and pinned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving_svc.adapters.paging import Page
from serving_svc.generation.residents import Residents
from tailorbird.errors import AdapterRefused, FailedPrecondition, NotFound, Unavailable
from tailorbird.names import TenantName
from tests.unit.serving_svc.adapters.published import NEEDED_BYTES, OTHER, version
from tests.unit.serving_svc.generation.serving import Serving

ACME = TenantName("acme")


@pytest.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    opened = await Serving(tmp_path).open(version(1), version(2), version(1, OTHER))
    yield opened
    await opened.close()


@pytest.fixture
def residents(serving: Serving) -> Residents:
    return Residents(serving, serving.routes, serving.warmer, serving.disk, serving.world.refusals)


def page(size: int = 10, token: str = "") -> Page:
    return Page.parse(str(ACME), size, token)


async def test_a_version_is_warmed_and_pinned_and_unpinned(
    serving: Serving, residents: Residents
) -> None:
    found = await residents.warm_version(version(1), None)
    assert (found.tier, found.pinned, found.leases) == ("engine", False, 1)
    assert 0 < found.size <= NEEDED_BYTES + 10_000
    assert (await residents.warm_version(version(1), True)).pinned
    assert (await residents.warm_version(version(1), None)).pinned
    with pytest.raises(FailedPrecondition):
        await residents.warm_version(version(2), True)
    assert not (await residents.warm_version(version(1), False)).pinned
    assert serving.scheduler.pinned() == frozenset()
    serving.check_nothing_is_held()


async def test_a_deleted_version_is_not_warmed_from_its_slot(
    serving: Serving, residents: Residents
) -> None:
    await residents.warm_version(version(1), True)
    serving.warmer.drop(version(1))
    serving.routes.deleted[version(1)] = NotFound(version(1), reason="VERSION_DELETED")
    for pin in (None, True, False):
        with pytest.raises(NotFound) as caught:
            await residents.warm_version(version(1), pin)
        assert caught.value.reason == "VERSION_DELETED"
    assert serving.scheduler.pinned() == frozenset()


async def test_a_tenant_sees_its_own(serving: Serving, residents: Residents) -> None:
    for name in (version(1), version(1, OTHER)):
        await residents.warm_version(name, None)
    async with serving.disk.hold(version(2)):
        pass
    serving.world.refusals.record(version(3), AdapterRefused("no", reason="X"))
    found, token = await residents.list_residency(ACME, page())
    assert token == ""
    assert [(one.version, one.tier) for one in found] == [
        (version(1), "engine"),
        (version(2), "disk"),
        (version(3), None),
    ]
    assert found[2].refusal is not None
    assert found[0].refusal is None
    assert [one.leases for one in found] == [0, 0, 0]


async def test_pages_follow_each_other(serving: Serving, residents: Residents) -> None:
    for number in (1, 2):
        await residents.warm_version(version(number), None)
    found, token = await residents.list_residency(ACME, page(1))
    assert [one.version for one in found] == [version(1)]
    found, token = await residents.list_residency(ACME, page(1, token))
    assert ([one.version for one in found], token) == ([version(2)], "")


async def test_while_the_engine_restarts_the_disk_is_shown(
    serving: Serving, residents: Residents
) -> None:
    await residents.warm_version(version(1), None)
    await serving.end()
    found, _ = await residents.list_residency(ACME, page())
    assert [(one.version, one.tier) for one in found] == [(version(1), "disk")]
    with pytest.raises(Unavailable):
        await residents.warm_version(version(1), None)


async def test_what_is_kept_in_host_memory_is_in_the_engine(tmp_path: Path) -> None:
    serving = await Serving(tmp_path, slots=1, kept=1).open(version(1), version(2))
    residents = Residents(
        serving, serving.routes, serving.warmer, serving.disk, serving.world.refusals
    )
    for number in (1, 2):
        await residents.warm_version(version(number), None)
    found, _ = await residents.list_residency(ACME, page())
    assert [one.tier for one in found] == ["engine", "engine"]
    assert serving.residency.kept() == [version(1)]
    await serving.close()
