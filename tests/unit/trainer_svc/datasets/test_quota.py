"""A tenant has no more stored than it may, whoever stores it and whatever fails meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import AlreadyExists, InvalidArgument, ResourceExhausted, StoreUnavailable
from tailorbird.names import DatasetName, TenantName
from tailorbird.object_store import ObstoreStore, open_store
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.quota import DatasetQuotas, Use
from trainer_svc.datasets.sources import DatasetSources
from trainer_svc.datasets.store import DatasetStore

LINE = b'{"prompt": "a", "completion": "b"}\n'
SIZE = len(LINE)
ACME = TenantName("acme")


def name(dataset: str, tenant: str = "acme") -> DatasetName:
    return DatasetName(tenant, dataset)


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


class Replica:
    """A trainer's datasets, with quotas; several may have one object store."""

    def __init__(
        self,
        store: Any,
        spool: Path,
        bytes_: Mapping[str, int] | None = None,
        records: Mapping[str, int] | None = None,
    ) -> None:
        self.store = store
        self.quotas = DatasetQuotas(store, bytes_ or {}, records or {})
        sources = DatasetSources({"acme": (f"{spool.parent.as_uri()}/in/",)}, open_store)
        self.datasets = DatasetStore(
            store, spool, 2**20, 2**16, sources=sources, quotas=self.quotas
        )

    async def upload(
        self, dataset: str, lines: int = 1, tenant: str = "acme", size: int | None = None
    ) -> Dataset:
        return await self.datasets.upload(name(dataset, tenant), size, chunks(LINE * lines))


@pytest.fixture
def store(tmp_path: Path) -> ObstoreStore:
    return open_store((tmp_path / "store").as_uri())


async def marks(store: ObstoreStore) -> list[str]:
    prefix = "tenants/acme/dataset_use/"
    return sorted([info.key.removeprefix(prefix) async for info in store.objects(prefix)])


async def stored(store: ObstoreStore) -> list[str]:
    return await store.folders("tenants/acme/datasets")


async def test_without_a_quota_nothing_is_counted(store: ObstoreStore, tmp_path: Path) -> None:
    replica = Replica(store, tmp_path / "spool", {"globex": 1}, {"globex": 1})
    await replica.upload("a", 9)
    assert await marks(store) == []


@pytest.mark.parametrize("tenant", ["acme", "*"])
async def test_what_is_over_the_limit_of_bytes_is_refused(
    store: ObstoreStore, tmp_path: Path, tenant: str
) -> None:
    replica = Replica(store, tmp_path / "spool", {tenant: 3 * SIZE, "other": 0})
    await replica.upload("a", 2)
    with pytest.raises(ResourceExhausted) as raised:
        await replica.upload("b", 2)
    assert raised.value.reason == "QUOTA_EXCEEDED"
    assert raised.value.metadata == {
        "quota": "dataset_bytes",
        "subject": "tenants/acme",
        "used": str(2 * SIZE),
        "asked": str(2 * SIZE),
        "limit": str(3 * SIZE),
    }
    assert raised.value.message.startswith(
        f"tenants/acme has {2 * SIZE} bytes of datasets and may have {3 * SIZE}: {2 * SIZE} more"
    )
    assert await stored(store) == ["a"]
    # What fits to the last byte does.
    await replica.upload("c", 1)
    assert await replica.quotas.use(ACME) == Use(3 * SIZE, 3)


async def test_what_is_over_the_limit_of_records_is_refused(
    store: ObstoreStore, tmp_path: Path
) -> None:
    replica = Replica(store, tmp_path / "spool", records={"*": 99, "acme": 3})
    await replica.upload("a", 2)
    with pytest.raises(ResourceExhausted) as raised:
        await replica.upload("b", 2)
    told = raised.value.metadata
    assert (told["quota"], told["used"], told["limit"]) == ("dataset_records", "2", "3")
    await replica.upload("c", 4, tenant="globex")


async def test_a_limit_of_nothing_refuses_everything(store: ObstoreStore, tmp_path: Path) -> None:
    replica = Replica(store, tmp_path / "spool", {"acme": 0})
    with pytest.raises(ResourceExhausted):
        await replica.upload("a")
    assert await marks(store) == []


async def test_another_tenants_datasets_count_for_it_alone(
    store: ObstoreStore, tmp_path: Path
) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": 2 * SIZE})
    await replica.upload("a", 2, tenant="globex")
    await replica.upload("a", 2)


async def test_a_deleted_dataset_makes_room(store: ObstoreStore, tmp_path: Path) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": 2 * SIZE})
    await replica.upload("a", 2)
    await replica.datasets.delete(name("a"))
    assert await marks(store) == []
    await replica.upload("b", 2)


async def test_what_is_stored_already_takes_no_room(store: ObstoreStore, tmp_path: Path) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": 2 * SIZE})
    made = await replica.upload("a", 2)
    assert await replica.upload("a", 2, size=2 * SIZE) == made
    with pytest.raises(AlreadyExists):
        await replica.upload("a", 1, size=SIZE)
    assert await replica.quotas.use(ACME) == Use(2 * SIZE, 2)


async def test_what_is_announced_is_refused_before_it_is_sent(
    store: ObstoreStore, tmp_path: Path
) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": 2 * SIZE})
    await replica.upload("a")

    asked_for: list[bytes] = []

    async def sent() -> AsyncIterator[bytes]:
        asked_for.append(LINE)
        yield LINE

    with pytest.raises(ResourceExhausted) as raised:
        await replica.datasets.upload(name("b"), 2 * SIZE, sent())
    assert asked_for == []
    told = raised.value.metadata
    assert (told["used"], told["asked"]) == (str(SIZE), str(2 * SIZE))


async def test_imports_count_as_uploads_do(store: ObstoreStore, tmp_path: Path) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": 2 * SIZE})
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data.jsonl").write_bytes(LINE * 3)
    uri = (tmp_path / "in" / "data.jsonl").as_uri()
    with pytest.raises(ResourceExhausted):
        await replica.datasets.import_uri(ACME, uri, "uri")
    assert await stored(store) == []


async def test_datasets_of_an_earlier_release_count(store: ObstoreStore, tmp_path: Path) -> None:
    before = Replica(store, tmp_path / "before")
    for number in range(20):
        await before.upload(f"old-{number}", 2)
    await store.put("tenants/acme/datasets/half/data-0.jsonl", b"no record says what it is")
    await store.put("tenants/acme/datasets/broken/meta.json", b"{")
    replica = Replica(store, tmp_path / "spool", {"*": 41 * SIZE})
    assert await replica.quotas.use(ACME) == Use(40 * SIZE, 40)
    assert len(await marks(store)) == 20
    with pytest.raises(ResourceExhausted):
        await replica.upload("new", 2)
    await replica.upload("new", 1)


async def test_counting_is_one_listing_and_what_is_missing_is_looked_for_now_and_then(
    store: ObstoreStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": 9 * SIZE})
    clock = [1000.0]
    monkeypatch.setattr("trainer_svc.datasets.quota.monotonic", lambda: clock[-1])
    await replica.upload("a")
    # A replica of an earlier release has one, too.
    await Replica(store, tmp_path / "before").upload("old", 2)
    listed: list[str] = []
    real = store.folders

    async def folders(prefix: str) -> list[str]:
        listed.append(prefix)
        return await real(prefix)

    monkeypatch.setattr(store, "folders", folders)
    assert await replica.quotas.use(ACME) == Use(SIZE, 1)
    assert listed == []
    clock.append(1000.0 + 601)
    assert await replica.quotas.use(ACME) == Use(3 * SIZE, 3)


async def test_an_upload_that_is_refused_or_fails_does_not_count(
    store: ObstoreStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": 2 * SIZE})
    with pytest.raises(InvalidArgument):
        await replica.datasets.upload(name("bad"), None, chunks(b"{}\n"))

    async def upload(*_: object) -> None:
        raise StoreUnavailable("as the test wants")

    with monkeypatch.context() as patch:
        patch.setattr(store, "upload", upload)
        with pytest.raises(StoreUnavailable):
            await replica.upload("a")
    assert await replica.quotas.use(ACME) == Use()


async def test_an_upload_that_is_given_up_does_not_count(
    store: ObstoreStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": 2 * SIZE})
    uploading = asyncio.Event()

    async def upload(*_: object) -> None:
        uploading.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(store, "upload", upload)
    task = asyncio.create_task(replica.upload("a"))
    await uploading.wait()
    assert await marks(store) == [f"a/{SIZE}-1"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await marks(store) == []


async def test_one_that_is_stored_although_its_upload_failed_counts(
    store: ObstoreStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(store, tmp_path / "spool", {"*": SIZE})
    create = store.create

    async def lost(key: str, data: bytes) -> None:
        await create(key, data)
        raise StoreUnavailable("the reply was lost")

    monkeypatch.setattr(store, "create", lost)
    with pytest.raises(StoreUnavailable):
        await replica.upload("a")
    assert await stored(store) == ["a"]
    with pytest.raises(ResourceExhausted):
        await replica.upload("b")


async def test_replicas_that_store_at_once_never_pass_the_limit(
    store: ObstoreStore, tmp_path: Path
) -> None:
    """What the limit has room for once, and many want: one gets it, or none."""
    for turn in range(10):
        quota = {"*": (turn + 1) * SIZE}
        replicas = [Replica(store, tmp_path / f"spool-{n}", quota) for n in range(4)]
        uploads = (replica.upload(f"{turn}-{number}") for number, replica in enumerate(replicas))
        results = await asyncio.gather(*uploads, return_exceptions=True)
        made = [each for each in results if isinstance(each, Dataset)]
        assert all(isinstance(each, Dataset | ResourceExhausted) for each in results)
        use = await replicas[0].quotas.use(ACME)
        assert use.records <= turn + 1
        if not made:
            await replicas[0].upload(f"{turn}-alone")


async def test_the_same_upload_at_two_replicas_counts_once(
    store: ObstoreStore, tmp_path: Path
) -> None:
    quota = {"*": 2 * SIZE}
    replicas = [Replica(store, tmp_path / f"spool-{n}", quota) for n in range(2)]
    made = await asyncio.gather(*(replica.upload("a", 2) for replica in replicas))
    assert made[0].sha256 == made[1].sha256
    assert await replicas[0].quotas.use(ACME) == Use(2 * SIZE, 2)


async def test_the_slower_of_two_with_other_content_does_not_count(
    store: ObstoreStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = {"*": 9 * SIZE}
    slow, fast = (Replica(store, tmp_path / f"spool-{n}", quota) for n in range(2))
    real, first = store.upload, True

    async def upload(key: str, path: Path) -> None:
        nonlocal first
        if first:
            first = False
            await fast.upload("a", 2)
        await real(key, path)

    monkeypatch.setattr(store, "upload", upload)
    with pytest.raises(AlreadyExists):
        await slow.upload("a", 3)
    assert await slow.quotas.use(ACME) == Use(2 * SIZE, 2)
