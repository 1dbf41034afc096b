"""Recording: who may, what is stored, once, and what is left when something fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import LocalStore
from prometheus_client import CollectorRegistry

from serving_svc.feedback import service
from serving_svc.feedback.quota import DailyQuota
from serving_svc.feedback.redaction import Redactor
from serving_svc.feedback.service import Feedback, FeedbackRecorder
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StoreUnavailable,
)
from tailorbird.feedback import Answer, FeedbackRecord, FeedbackStore, Turn
from tailorbird.names import FeedbackName, VersionName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry, Tombstone
from tailorbird.routes import Route, RoutedVersion
from tests.unit.tailorbird.feedback_values import ADAPTER, NOON, VERSION
from tests.unit.trainer_svc.values import put_version

GIVEN = Feedback(
    VERSION,
    Answer(content="On its way to jane.roe@web.de."),
    "billing",
    route_generation=4,
    messages=(Turn(role="user", content="Where is it?"),),
    correction=Answer(content="Tomorrow."),
    rating="bad",
    labels={"channel": "chat"},
    request_id="one",
)


class FailingStore(ObstoreStore):
    """Fails to create, before or after it has."""

    fails = ""

    def __init__(self, backend: LocalStore) -> None:
        super().__init__(backend)
        self.gets: list[str] = []

    async def get(self, key: str, max_bytes: int | None = None) -> bytes:
        self.gets.append(key)
        return await super().get(key, max_bytes)

    async def create(self, key: str, data: bytes) -> None:
        if self.fails == "before":
            raise StoreUnavailable("down")
        await super().create(key, data)
        if self.fails == "after":
            raise StoreUnavailable("the reply was lost")


class World:
    """A recorder on a store in a folder, with a clock of its own."""

    def __init__(self, folder: Path, redactor: Redactor) -> None:
        self.store = FailingStore(LocalStore(folder, mkdir=True))
        self.registry = CollectorRegistry()
        self.redactor = redactor
        self.now = NOON
        self.metrics = ServingMetrics(self.registry)

    def recorder(self, **changes: Any) -> FeedbackRecorder:
        records = FeedbackStore(self.store)
        options: dict[str, Any] = {
            "redacting": self.redactor,
            "tenants": {"acme"},
            "max_record_bytes": 4096,
            "limit": 10,
            "clock": lambda: self.now,
        } | changes
        return FeedbackRecorder(
            records,
            AdapterRegistry(self.store),
            options.pop("redacting"),
            DailyQuota(records, options.pop("limit")),
            self.metrics.feedback,
            **options,
        )

    def counted(self, result: str) -> float | None:
        return self.registry.get_sample_value(
            "tailorbird_serving_feedback_total", {"result": result}
        )

    async def keys(self) -> list[str]:
        return [info.key async for info in self.store.objects("tenants/acme/feedback")]


@pytest.fixture
async def world(tmp_path: Path, redactor: Redactor) -> World:
    world = World(tmp_path / "store", redactor)
    await put_routed(world, VERSION)
    return world


async def put_routed(world: World, version: VersionName) -> None:
    """Publish a version, and route its adapter to it as GIVEN has it."""
    await put_version(world.store, str(version))
    route = Route(
        generation=GIVEN.route_generation,
        versions=(RoutedVersion(version=version.version),),
        reason="",
        actor="",
        create_time=NOON,
        nonce="",
    )
    await AdapterRegistry(world.store).append_route(version.adapter_name, route)


async def stored(world: World, record: FeedbackRecord) -> FeedbackRecord:
    return await FeedbackStore(world.store).get(FeedbackName.parse(record.name))


async def test_what_is_stored_is_what_was_given_without_personal_data(world: World) -> None:
    kept = await world.recorder().record(GIVEN)
    assert await stored(world, kept) == kept
    assert FeedbackName.parse(kept.name).adapter_name == ADAPTER
    assert FeedbackName.parse(kept.name).day == "20261123"
    assert kept == FeedbackRecord(
        name=kept.name,
        version=str(VERSION),
        route_generation=4,
        create_time=NOON,
        subject="billing",
        messages=GIVEN.messages,
        answer=Answer(content="On its way to <EMAIL>."),
        correction=GIVEN.correction,
        rating="bad",
        labels={"channel": "chat"},
        redactions={"email": 1},
    )
    assert world.counted("ok") == 1


async def test_nothing_is_kept_of_a_tenant_that_is_not_named(world: World) -> None:
    off: list[dict[str, Any]] = [
        {"tenants": {"globex"}},
        {"tenants": frozenset()},
        {"redacting": None},
    ]
    for changes in off:
        with pytest.raises(FailedPrecondition, match="TAILORBIRD_FEEDBACK_TENANTS") as caught:
            await world.recorder(**changes).record(GIVEN)
        assert caught.value.reason == "FEEDBACK_OFF"
    assert await world.keys() == []
    assert world.counted("FEEDBACK_OFF") == 3
    await world.recorder(tenants=None).record(GIVEN)


async def test_a_version_that_is_not_there_is_not_found(world: World) -> None:
    other = VersionName.parse(f"{ADAPTER}/versions/20260101T000000-job-2")
    with pytest.raises(NotFound) as caught:
        await world.recorder().record(replace(GIVEN, version=other))
    assert caught.value.reason == "VERSION_NOT_FOUND"
    tombstone = Tombstone(version=str(VERSION), delete_time=NOON, actor="a")
    await world.store.put(f"{VERSION}/tombstone.json", tombstone.model_dump_json().encode())
    with pytest.raises(NotFound) as caught:
        await world.recorder().record(GIVEN)
    assert caught.value.reason == "VERSION_DELETED"
    assert await world.keys() == []


async def test_a_route_that_there_never_was_is_refused(world: World) -> None:
    with pytest.raises(InvalidArgument, match="no route of generation 99") as caught:
        await world.recorder().record(replace(GIVEN, route_generation=99))
    assert caught.value.reason == "UNKNOWN_ROUTE_GENERATION"
    assert caught.value.field == "route_generation"
    assert await world.keys() == []
    await world.store.put(f"{ADAPTER}/routes/{99:012d}.json", b"of a later release")
    assert (await world.recorder().record(replace(GIVEN, route_generation=99))).name
    pinned = await world.recorder().record(replace(GIVEN, route_generation=0, request_id="two"))
    assert pinned.route_generation == 0


async def test_a_record_that_is_too_long_is_refused(world: World) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await world.recorder().record(replace(GIVEN, answer=Answer(content="é" * 2048)))
    assert caught.value.reason == "FEEDBACK_TOO_LARGE"
    assert caught.value.metadata["limit"] == "4096"
    assert await world.keys() == []
    size = len((await world.recorder().record(GIVEN)).model_dump_json())
    assert size < 4096


async def test_a_record_that_its_marks_make_too_long_to_be_read_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await world.recorder().record(GIVEN)
    size = len(kept.model_dump_json().encode())
    longer = replace(GIVEN, answer=Answer(content="On its way to a.b@web.de."), request_id="two")
    monkeypatch.setattr(service, "MAX_FEEDBACK_BYTES", size)
    await world.recorder().record(longer)
    monkeypatch.setattr(service, "MAX_FEEDBACK_BYTES", size - 1)
    with pytest.raises(InvalidArgument) as caught:
        await world.recorder().record(replace(longer, request_id="three"))
    assert caught.value.reason == "FEEDBACK_TOO_LARGE"
    assert caught.value.metadata["limit"] == str(size - 1)
    assert len(await world.keys()) == 2


async def test_the_same_request_is_one_record(world: World) -> None:
    recorder = world.recorder()
    first = await recorder.record(GIVEN)
    world.now += timedelta(hours=1)
    assert await recorder.record(replace(GIVEN, subject="support")) == first
    assert await world.recorder().record(GIVEN) == first
    assert len(await world.keys()) == 1
    with pytest.raises(AlreadyExists) as caught:
        await recorder.record(replace(GIVEN, rating="good"))
    assert caught.value.reason == "FEEDBACK_EXISTS"
    assert world.counted("FEEDBACK_EXISTS") == 1
    assert await stored(world, first) == first


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)),
        (datetime(2026, 11, 23, 0, 0, 1, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)),
        # The clock of the replica that is asked the second time goes behind.
        (datetime(2026, 11, 24, tzinfo=UTC), datetime(2026, 11, 23, 23, 51, tzinfo=UTC)),
    ],
)
async def test_midnight_makes_no_second_record(
    world: World, first: datetime, again: datetime
) -> None:
    world.now = first
    kept = await world.recorder().record(GIVEN)
    world.now = again
    assert await world.recorder().record(GIVEN) == kept
    assert len(await world.keys()) == 1


async def test_a_request_id_is_its_adapter_s_own_and_none_is_no_id(world: World) -> None:
    legal = VersionName.parse("tenants/acme/adapters/legal/versions/20260101T000000-job-1")
    await put_routed(world, legal)
    recorder = world.recorder()
    await recorder.record(GIVEN)
    await recorder.record(replace(GIVEN, version=legal))
    for _ in range(2):
        await recorder.record(replace(GIVEN, request_id=""))
    assert len(await world.keys()) == 4
    # Only what may be a repetition is looked for.
    assert len([key for key in world.store.gets if "/feedback/" in key]) == 4


async def test_two_replicas_at_once_make_one_record(world: World) -> None:
    replicas = [world.recorder() for _ in range(2)]
    found = await asyncio.gather(*(one.record(GIVEN) for one in replicas for _ in range(3)))
    assert len({record.name for record in found}) == 1
    assert len(await world.keys()) == 1


async def test_two_that_differ_under_one_request_id_at_once_are_one_and_an_error(
    world: World,
) -> None:
    ended = await asyncio.gather(
        world.recorder().record(GIVEN),
        world.recorder().record(replace(GIVEN, rating="good")),
        return_exceptions=True,
    )
    assert [isinstance(one, AlreadyExists) for one in ended].count(True) == 1
    assert [isinstance(one, FeedbackRecord) for one in ended].count(True) == 1
    assert len(await world.keys()) == 1


async def test_a_day_s_records_are_bounded_and_a_repetition_is_none(world: World) -> None:
    recorder = world.recorder(limit=2)
    first = await recorder.record(GIVEN)
    await recorder.record(replace(GIVEN, request_id="two"))
    with pytest.raises(ResourceExhausted) as caught:
        await recorder.record(replace(GIVEN, request_id="three"))
    assert caught.value.reason == "FEEDBACK_PER_DAY"
    assert await recorder.record(GIVEN) == first
    with pytest.raises(ResourceExhausted):
        await world.recorder(limit=2).record(replace(GIVEN, request_id="three"))
    world.now += timedelta(days=1)
    await recorder.record(replace(GIVEN, request_id="three"))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_store_that_fails_leaves_all_or_nothing(world: World, when: str) -> None:
    recorder = world.recorder(limit=1)
    world.store.fails = when
    with pytest.raises(StoreUnavailable):
        await recorder.record(GIVEN)
    world.store.fails = ""
    assert len(await world.keys()) == (1 if when == "after" else 0)
    kept = await recorder.record(GIVEN)
    assert await stored(world, kept) == kept
    assert len(await world.keys()) == 1
    assert world.counted("STORE_UNAVAILABLE") == 1


async def test_a_call_that_is_given_up_is_counted_so(world: World) -> None:
    held = asyncio.Event()

    class Slow:
        async def redacted(self, record: FeedbackRecord, tenant: str) -> FeedbackRecord:
            held.set()
            await asyncio.Event().wait()
            return record

    call = asyncio.create_task(world.recorder(redacting=Slow(), limit=1).record(GIVEN))
    await held.wait()
    call.cancel()
    await asyncio.wait({call})
    assert call.cancelled()
    assert world.counted("cancelled") == 1
    assert await world.keys() == []
