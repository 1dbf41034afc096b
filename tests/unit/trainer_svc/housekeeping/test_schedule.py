"""When a trainer collects, and what it does when it cannot."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from tailorbird.errors import StoreUnavailable
from tests.unit.trainer_svc.housekeeping.world import RULES, World, version_of
from trainer_svc.housekeeping import schedule
from trainer_svc.housekeeping.model import OF_A_ROUND, Kind
from trainer_svc.housekeeping.schedule import ROUND, Schedule
from trainer_svc.jobs.database import DatabaseUnavailable
from trainer_svc.metrics import TrainerMetrics

HOUR = timedelta(hours=1)
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def trainer(world: World, registry: CollectorRegistry) -> Schedule:
    return Schedule(world.stores, RULES, TrainerMetrics(registry), HOUR)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[datetime]:
    """The database's clock: what it shows is the last of these."""
    shown = [datetime.now(UTC)]

    async def store_time(_: object) -> datetime:
        return shown[-1]

    monkeypatch.setattr(schedule, "store_time", store_time)
    return shown


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"tailorbird_trainer_{name}_total", labels)


async def test_what_is_collected_is_counted(
    world: World, trainer: Schedule, registry: CollectorRegistry
) -> None:
    await world.put(f"{version_of('ghost')}/adapter_model.safetensors")
    assert value(registry, "collections", outcome="done") == 0
    for kind in OF_A_ROUND:
        assert value(registry, "collected", kind=kind) == 0
    found = await trainer.look()
    assert found is not None
    assert not found.dry_run
    assert found.removed[Kind.UNCOMMITTED_VERSIONS].things == 1
    assert value(registry, "collections", outcome="done") == 1
    assert value(registry, "collected", kind="uncommitted_versions") == 1
    assert value(registry, "collected_bytes", kind="uncommitted_versions") == 10


async def test_of_several_trainers_one_collects_in_each_interval(
    world: World, trainer: Schedule, clock: list[datetime]
) -> None:
    other = Schedule(world.stores, RULES, TrainerMetrics(CollectorRegistry()), HOUR)
    assert await trainer.look() is not None
    assert await other.look() is None
    clock.append(clock[0] + 0.99 * HOUR)
    assert await trainer.look() is None
    clock.append(clock[0] + HOUR)
    assert await other.look() is not None
    assert await trainer.look() is None


@pytest.mark.parametrize("stored", [b"{", b"{}", b'{"begin_time": "tomorrow"}', b"x" * 5000])
async def test_a_round_that_cannot_be_read_is_none(
    world: World, trainer: Schedule, stored: bytes
) -> None:
    await world.put(ROUND, stored)
    assert await trainer.look() is not None


async def test_a_round_begun_in_the_future_keeps_nobody(
    world: World, trainer: Schedule, clock: list[datetime]
) -> None:
    later = (clock[0] + timedelta(days=365)).isoformat()
    await world.put(ROUND, json.dumps({"begin_time": later}).encode())
    assert await trainer.look() is not None


async def test_every_trainer_keeps_its_own_caches(
    world: World, trainer: Schedule, registry: CollectorRegistry
) -> None:
    """Also one that does not collect this time; and it forgets the tenants that were erased."""
    await trainer.look()
    for tenant in ("acme", "globex"):
        (world.caches / tenant / "entry").mkdir(parents=True)
    await world.put("housekeeping/erased/acme.json", b"{}", days=0)
    assert await trainer.look() is None
    assert not (world.caches / "acme" / "entry").exists()
    assert (world.caches / "globex" / "entry").exists()
    assert value(registry, "collected", kind="local_caches") == 1


@pytest.mark.parametrize(
    "error", [DatabaseUnavailable("down"), StoreUnavailable("down"), RuntimeError("a bug")]
)
async def test_what_fails_is_counted_and_tried_again(
    world: World,
    trainer: Schedule,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    async def collect(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(schedule, "collect", collect)
        assert await trainer.look() is None
    assert value(registry, "collections", outcome="failed") == 1
    await world.objects.delete(ROUND)
    assert await trainer.look() is not None


async def test_a_round_that_passed_something_over_says_so(
    world: World,
    trainer: Schedule,
    registry: CollectorRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await world.put(f"{version_of('ghost')}/adapter_model.safetensors")

    async def delete(_: str) -> None:
        raise StoreUnavailable("down")

    monkeypatch.setattr(world.objects, "delete", delete)
    found = await trainer.look()
    assert found is not None
    assert found.failure_count == 1
    assert value(registry, "collections", outcome="partly") == 1


async def test_it_looks_several_times_in_an_interval_for_ever(
    trainer: Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    looked = asyncio.Event()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def look() -> None:
        if len(pauses) == 3:
            looked.set()
            await asyncio.Event().wait()

    monkeypatch.setattr("trainer_svc.housekeeping.schedule.asyncio.sleep", sleep)
    monkeypatch.setattr(trainer, "look", look)
    task = asyncio.ensure_future(trainer.run())
    await looked.wait()
    task.cancel()
    assert all(HOUR.total_seconds() / 8 <= pause <= HOUR.total_seconds() / 4 for pause in pauses)
