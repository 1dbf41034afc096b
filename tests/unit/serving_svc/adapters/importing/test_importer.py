from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from serving_svc.adapters.disk import AdapterDisk, download
from serving_svc.adapters.importing import AdapterImporter, ImportSources
from serving_svc.adapters.model import LoadedAdapter, StagedAdapter
from serving_svc.adapters.residency import Residency
from serving_svc.adapters.workers import Workers
from tailorbird.errors import (
    Aborted,
    AdapterRefused,
    InvalidArgument,
    ResourceExhausted,
    StoreUnavailable,
    Unavailable,
)
from tailorbird.manifest import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MODEL_CARD, PROBES, Probes
from tailorbird.names import TenantName
from tests.unit.serving_svc.adapters.cancelling import CancelledAt
from tests.unit.serving_svc.adapters.engine import FakeEngine
from tests.unit.serving_svc.adapters.published import (
    ADAPTER,
    CONFIG,
    FILES,
    OTHER,
    SHAPES,
    WEIGHTS,
    A,
    B,
    ScriptedStore,
    World,
    new_metrics,
    served_base,
)

UPLOAD = {ADAPTER_CONFIG: FILES[ADAPTER_CONFIG], ADAPTER_WEIGHTS: WEIGHTS}


class Engine(FakeEngine):
    """An engine whose adapter moves each sequence by its first token times `effect` nats."""

    effect = 0.1
    broken: float | None = None
    base_broken = False

    def answer(self, token_ids: tuple[int, ...], adapter: LoadedAdapter | None) -> list[float]:
        if adapter is None:
            return [math.nan if self.base_broken else -2.0] * (len(token_ids) - 1)
        moved = -2.0 - self.effect * token_ids[0]
        return [moved if self.broken is None else self.broken] * (len(token_ids) - 1)


class Setup:
    """An importer over a real store, real folders, and a fake engine."""

    def __init__(
        self, folder: Path, world: World, disk: AdapterDisk, prefixes: Sequence[str]
    ) -> None:
        self.world = world
        self.disk = disk
        self.engine = Engine()
        self.workers = Workers(2)
        self.folder = folder / "imports"
        self.remote = ScriptedStore(folder / "remote")
        self.opened: list[str] = []
        self.residency = Residency(
            self.engine,
            disk,
            world.refusals,
            new_metrics(),
            probe_floor=0.02,
            engine_ids=itertools.count(1),
        )
        self.staged: list[StagedAdapter] = []
        self.importer = AdapterImporter(
            world.registry,
            served_base(),
            "base",
            self.engine,
            self,
            ImportSources(prefixes, self.workers, self._open),
            self.workers,
            self.folder,
            max_weights_bytes=10**5,
            probe_floor=0.02,
            stall_seconds=0.5,
        )

    @asynccontextmanager
    async def scratch(self, staged: StagedAdapter) -> AsyncIterator[LoadedAdapter]:
        self.staged.append(staged)
        async with self.residency.scratch(staged) as loaded:
            yield loaded

    def _open(self, prefix: str) -> ScriptedStore:
        self.opened.append(prefix)
        return self.remote

    def scratch_folders(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.exists() else []

    async def published(self) -> list[str]:
        return [info.key async for info in self.world.store.objects("tenants")]


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    world = World(tmp_path)
    disk = await world.open_disk()
    prefixes = ["s3://imports/{tenant}/", (tmp_path / "srv").as_uri() + "/{tenant}", "gs://shared"]
    made = Setup(tmp_path, world, disk, prefixes)
    yield made
    await made.workers.close()
    await disk.close()


async def upload(
    files: dict[str, bytes] = UPLOAD, piece: int = 300
) -> AsyncIterator[tuple[str, bytes]]:
    for name, data in files.items():
        for start in range(0, max(len(data), 1), piece):
            yield name, data[start : start + piece]


async def pieces(*given: tuple[str, bytes]) -> AsyncIterator[tuple[str, bytes]]:
    for piece in given:
        yield piece


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def put_local(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, data in UPLOAD.items():
        (folder / name).write_bytes(data)


async def test_an_upload_becomes_a_version_that_serves(setup: Setup) -> None:
    version, manifest = await setup.importer.import_(ADAPTER, upload())
    assert version.adapter_name == ADAPTER
    assert version.version.partition("-")[2].startswith("import-")
    assert version.version.endswith("-1")
    assert await setup.world.registry.manifest(version) == manifest
    assert manifest.lineage.imported_from == "upload"
    assert (manifest.rank, manifest.alpha, manifest.target_modules) == (8, 16, ("q_proj",))
    keys = {key.rpartition("/")[2] for key in await setup.published()}
    assert keys == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, PROBES, MODEL_CARD, "manifest.json"}
    assert set(manifest.files) == keys - {"manifest.json"}
    # Nothing is left behind, and what was in the engine while probing was no published path.
    assert not setup.scratch_folders()
    assert not setup.engine.loaded
    assert setup.staged[0].version == version
    async with setup.disk.hold(version) as staged:
        assert staged.path != setup.staged[0].path
        card = await setup.world.store.get(f"{version}/{MODEL_CARD}")
        assert str(version).encode() in card
    await setup.residency.load(version)
    assert setup.residency.versions() == [version]


async def test_the_probes_are_those_with_the_largest_effect(setup: Setup) -> None:
    version, _ = await setup.importer.import_(ADAPTER, upload())
    probes = Probes.from_json(await setup.world.store.get(f"{version}/{PROBES}"))
    asked = {ids for ids, of in setup.engine.probed if of is not None}
    assert len(asked) == 8
    assert all(len(ids) == 7 and max(ids) < 10 for ids in asked)
    kept = [probe.token_ids for probe in probes.sequences]
    assert [ids[0] for ids in kept] == sorted((ids[0] for ids in asked), reverse=True)[:4]
    for probe in probes.sequences:
        assert probe.base_logprobs == (-2.0,) * 6
        assert probe.adapter_logprobs == (-2.0 - 0.1 * probe.token_ids[0],) * 6


@pytest.mark.parametrize(
    ("effect", "broken", "base_broken", "reason"),
    [
        (0.0, None, False, "EFFECT_ABSENT"),
        (0.002, None, False, "EFFECT_ABSENT"),
        (0.1, math.nan, False, "NOT_FINITE"),
        (0.1, -math.inf, False, "NOT_FINITE"),
        (0.1, None, True, "PROBE_MISMATCH"),
    ],
)
async def test_an_adapter_without_a_sound_effect_is_refused(
    setup: Setup, effect: float, broken: float | None, base_broken: bool, reason: str
) -> None:
    setup.engine.effect, setup.engine.broken = effect, broken
    setup.engine.base_broken = base_broken
    with pytest.raises(AdapterRefused) as caught:
        await setup.importer.import_(ADAPTER, upload())
    assert caught.value.reason == reason
    assert caught.value.retryable == base_broken
    assert (await setup.published(), setup.scratch_folders(), setup.engine.loaded) == ([], [], {})


def _tensors(**changed: Any) -> bytes:
    return bytes(
        save({name: np.ones(shape, np.float32) for name, shape in SHAPES.items()} | changed)
    )


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({ADAPTER_CONFIG: b"{"}, "CONFIG_UNSUPPORTED"),
        ({ADAPTER_CONFIG: b"[" * 10**5}, "CONFIG_UNSUPPORTED"),
        ({ADAPTER_CONFIG: json.dumps(CONFIG | {"use_dora": True}).encode()}, "CONFIG_UNSUPPORTED"),
        ({ADAPTER_CONFIG: json.dumps(CONFIG | {"r": 2**40}).encode()}, "CONFIG_UNSUPPORTED"),
        ({ADAPTER_CONFIG: json.dumps(CONFIG | {"r": 64}).encode()}, "RANK_TOO_HIGH"),
        ({ADAPTER_CONFIG: json.dumps(CONFIG | {"r": 4}).encode()}, "TENSOR_MISMATCH"),
        ({ADAPTER_WEIGHTS: b""}, "TENSOR_MISMATCH"),
        ({ADAPTER_WEIGHTS: b"x" * 1000}, "TENSOR_MISMATCH"),
        ({ADAPTER_WEIGHTS: _tensors(other=np.ones(3, np.float32))}, "TENSOR_MISMATCH"),
        ({ADAPTER_WEIGHTS: _tensors(**{A: np.full((8, 12), np.inf, np.float32)})}, "NOT_FINITE"),
    ],
)
async def test_what_the_gate_refuses_never_reaches_the_engine(
    setup: Setup, files: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(AdapterRefused) as caught:
        await setup.importer.import_(ADAPTER, upload(UPLOAD | files, piece=10**5))
    assert caught.value.reason == reason
    assert not setup.engine.added
    assert (await setup.published(), setup.scratch_folders()) == ([], [])


async def test_any_rank_up_to_the_cap_is_taken(setup: Setup) -> None:
    weights = save({A: np.ones((3, 12), np.float32), B: np.ones((16, 3), np.float32)})
    config = json.dumps(CONFIG | {"r": 3}).encode()
    version, _ = await setup.importer.import_(
        ADAPTER, upload({ADAPTER_CONFIG: config, ADAPTER_WEIGHTS: weights})
    )
    async with setup.disk.hold(version) as staged:
        assert json.loads((staged.path / ADAPTER_CONFIG).read_bytes())["r"] == 3


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([("../evil", b"x")], "chunk.path"),
        ([("README.md", b"x")], "chunk.path"),
        ([(ADAPTER_CONFIG, b"x"), (ADAPTER_WEIGHTS, b"x"), (ADAPTER_CONFIG, b"x")], "chunk.path"),
        ([(ADAPTER_CONFIG, b"x")], "chunk"),
        ([], "chunk"),
        ([(ADAPTER_CONFIG, b"x" * (2**20 + 1))], "chunk.data"),
        ([(ADAPTER_WEIGHTS, b"x" * 60_000)] * 2, "chunk.data"),
    ],
)
async def test_pieces_that_are_not_in_order_are_refused(
    setup: Setup, given: list[tuple[str, bytes]], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await setup.importer.import_(ADAPTER, pieces(*given))
    assert caught.value.field == field
    assert not setup.scratch_folders()


async def test_an_upload_that_stops_is_given_up(setup: Setup) -> None:
    async def stalled() -> AsyncIterator[tuple[str, bytes]]:
        yield ADAPTER_CONFIG, b"x"
        await asyncio.Event().wait()

    with pytest.raises(Aborted) as caught:
        await setup.importer.import_(ADAPTER, stalled())
    assert caught.value.reason == "UPLOAD_STALLED"
    assert not setup.scratch_folders()


async def test_an_upload_that_never_stops_is_given_up(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving_svc.adapters.importing.importer._RECEIVE_SECONDS", 0.05)

    async def trickle() -> AsyncIterator[tuple[str, bytes]]:
        while True:
            await asyncio.sleep(0)
            yield ADAPTER_CONFIG, b""

    with pytest.raises(Aborted) as caught:
        await setup.importer.import_(ADAPTER, trickle())
    assert caught.value.reason == "UPLOAD_STALLED"
    assert not setup.scratch_folders()


async def test_imports_are_bounded_one_a_tenant(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[tuple[str, bytes]]:
        started.set()
        await go_on.wait()
        async for piece in upload():
            yield piece

    first = asyncio.create_task(setup.importer.import_(ADAPTER, slow()))
    await started.wait()
    with pytest.raises(ResourceExhausted) as caught:
        await setup.importer.import_(ADAPTER, upload())
    assert caught.value.reason == "IMPORT_UNDER_WAY"
    monkeypatch.setattr("serving_svc.adapters.importing.importer._CONCURRENT", 1)
    with pytest.raises(ResourceExhausted) as caught:
        await setup.importer.import_(OTHER, upload())
    assert caught.value.reason == "IMPORTS_BUSY"
    go_on.set()
    await first
    await setup.importer.import_(ADAPTER, upload())


async def test_a_full_disk_is_told(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    true_open = download.open_unbuffered
    monkeypatch.setattr(download, "open_unbuffered", lambda _: true_open(Path("/dev/full")))
    with pytest.raises(ResourceExhausted) as caught:
        await setup.importer.import_(ADAPTER, upload())
    assert caught.value.reason == "DISK_FULL"
    assert not setup.scratch_folders()
    monkeypatch.setattr(download, "open_unbuffered", lambda path: path.open("rb"))
    with pytest.raises(Unavailable):
        await setup.importer.import_(ADAPTER, upload())
    monkeypatch.undo()
    await setup.importer.import_(ADAPTER, upload())


async def test_what_an_earlier_process_left_is_deleted(setup: Setup) -> None:
    put_local(setup.folder / "left")
    await setup.importer.open()
    assert not setup.scratch_folders()
    await setup.importer.open()


@pytest.mark.parametrize("operation", ["upload", "create"])
async def test_what_is_interrupted_before_the_manifest_is_no_version(
    setup: Setup, operation: str
) -> None:
    setup.world.store.errors[operation] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await setup.importer.import_(ADAPTER, upload())
    assert not await setup.world.registry.has_version(ADAPTER)


async def test_the_manifest_comes_last(setup: Setup) -> None:
    setup.world.store.keys.clear()
    await setup.importer.import_(ADAPTER, upload())
    assert setup.world.store.keys[-1].endswith("/manifest.json")
    assert setup.world.store.calls["create"] == 1


async def published(setup: Setup) -> int:
    objects = setup.world.registry.store.objects(f"{ADAPTER}/versions")
    return sum([info.key.endswith("/manifest.json") async for info in objects])


async def test_an_import_cancelled_anywhere_leaves_nothing(setup: Setup) -> None:
    for at in itertools.count(1):
        before = await published(setup)
        watched = CancelledAt(setup.importer.import_(ADAPTER, upload()), at)
        task = asyncio.create_task(watched.run())
        await asyncio.wait({task})
        assert (setup.engine.loaded, setup.scratch_folders()) == ({}, [])
        assert not setup.importer._tenants
        if watched.suspensions < at:
            break
        # Only the clean-up comes after the manifest.
        assert await published(setup) - before <= 1
    assert at > 10
    task.result()


# From a URI.


async def test_reads_from_an_allowed_store(setup: Setup) -> None:
    for name, data in UPLOAD.items():
        await setup.remote.put(f"a/b/{name}", data)
    _, manifest = await setup.importer.import_(ADAPTER, "s3://imports/acme/a/b/")
    assert manifest.lineage.imported_from == "s3://imports/acme/a/b/"
    assert set(setup.opened) == {"s3://imports/acme"}
    with pytest.raises(InvalidArgument) as caught:
        await setup.importer.import_(ADAPTER, "s3://imports/acme/c")
    assert caught.value.reason == "IMPORT_NOT_FOUND"
    await setup.importer.import_(OTHER, "gs://shared/a/b")


async def test_a_store_that_hangs_or_fails_ends_the_import(setup: Setup) -> None:
    setup.remote.hangs.add("read")
    with pytest.raises(StoreUnavailable):
        await setup.importer.import_(ADAPTER, "s3://imports/acme/a")
    assert setup.remote.reading == 0
    setup.remote.hangs.clear()
    setup.remote.errors["read"] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await setup.importer.import_(ADAPTER, "s3://imports/acme/a")


async def test_reads_from_an_allowed_folder(setup: Setup, tmp_path: Path) -> None:
    put_local(tmp_path / "srv/acme/a")
    put_local(tmp_path / "srv/zeta")
    uri = (tmp_path / "srv").as_uri()
    await setup.importer.import_(ADAPTER, f"{uri}/acme/a")
    descriptors = open_descriptors()
    await setup.importer.import_(ADAPTER, f"{uri}/acme/a")
    await setup.importer.import_(OTHER, f"{uri}/zeta")
    assert open_descriptors() == descriptors
    with pytest.raises(InvalidArgument) as caught:
        await setup.importer.import_(ADAPTER, f"{uri}/acme/none")
    assert caught.value.reason == "IMPORT_NOT_FOUND"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://imports/zeta/a",
        "s3://imports/acme-evil/a",
        "s3://imports/acm",
        "s3://imports",
        "s3://imports/acme/../zeta/a",
        "s3://imports/acme/./a",
        "s3://imports/acme//a",
        "s3://imports/acme/a//",
        "s3://imports/acme/%2e%2e/zeta",
        "s3://imports/acme/a?x=1",
        "s3://imports/acme/a#x",
        "s3://imports/acme\\a",
        "s3://imports/acme/a\n",
        "s3://me@imports/acme/a",
        "s3://imports:80/acme/a",
        "S3://imports/acme/a",
        "s3:/imports/acme/a",
        "gs://imports/acme/a",
        "gs://sharedevil/a",
        "s3://imports/{tenant}/a",
        "file:///etc",
        "file://srv/acme",
        "https://imports/acme/a",
        "/srv/acme",
        "",
        "s3://imports/acme/" + "a" * 2000,
    ],
)
async def test_uris_outside_the_tenants_prefixes_are_refused(setup: Setup, uri: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await setup.importer.import_(ADAPTER, uri)
    assert (caught.value.field, caught.value.reason) == ("import.uri", "URI_NOT_ALLOWED")
    assert len(caught.value.message) < 500
    assert not setup.opened


def _link_folder(folder: Path, secret: Path) -> None:
    (folder / "a").symlink_to(secret)


def _link_file(folder: Path, secret: Path) -> None:
    (folder / "a").mkdir()
    for name in UPLOAD:
        (folder / "a" / name).symlink_to(secret / name)


def _pipe(folder: Path, secret: Path) -> None:
    (folder / "a").mkdir()
    os.mkfifo(folder / "a" / ADAPTER_CONFIG)


def _file_for_folder(folder: Path, secret: Path) -> None:
    (folder / "a").write_bytes(b"x")


@pytest.mark.parametrize("trick", [_link_folder, _link_file, _pipe, _file_for_folder])
async def test_no_link_leads_out_of_a_prefix(setup: Setup, tmp_path: Path, trick: Any) -> None:
    put_local(tmp_path / "srv/zeta")
    (tmp_path / "srv/acme").mkdir()
    trick(tmp_path / "srv/acme", tmp_path / "srv/zeta")
    with pytest.raises(InvalidArgument) as caught:
        await setup.importer.import_(ADAPTER, (tmp_path / "srv/acme/a").as_uri())
    assert caught.value.reason == "URI_NOT_ALLOWED"
    assert not setup.scratch_folders()


async def test_a_real_store_gives_the_pieces(setup: Setup, tmp_path: Path) -> None:
    for name, data in UPLOAD.items():
        await setup.remote.put(f"acme/{name}", data)
    sources = ImportSources(["s3://x/"], setup.workers, lambda _: setup.remote)
    got = b"".join(
        [bytes(data) async for _, data in sources.pieces(TenantName("acme"), "s3://x/acme")]
    )
    assert got == b"".join(UPLOAD.values())
