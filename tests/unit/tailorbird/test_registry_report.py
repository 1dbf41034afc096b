"""A report is read as it was published, or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.manifest import REPORT, REPORT_PAGE, AdapterManifest, FileEntry
from tailorbird.names import AdapterName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.values import make_manifest

VERSION = AdapterName("acme", "voice").version("20260101T000000-j-1")


@pytest.fixture
def registry(tmp_path: Path) -> AdapterRegistry:
    return AdapterRegistry(open_store(tmp_path.as_uri()))


async def stored(registry: AdapterRegistry, data: bytes, name: str = REPORT) -> AdapterManifest:
    await registry.store.put(f"{VERSION}/{name}", data)
    entry = FileEntry(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    return make_manifest(str(VERSION)).model_copy(update={"files": {name: entry}})


async def test_a_report_is_read(registry: AdapterRegistry) -> None:
    manifest = await stored(registry, b'{"best_step": 3}')
    assert await registry.report(VERSION, manifest) == {"best_step": 3}
    assert await registry.report_file(VERSION, manifest, REPORT) == b'{"best_step": 3}'
    assert await registry.report_file(VERSION, manifest, REPORT_PAGE) is None


async def test_a_version_without_a_report_has_none(registry: AdapterRegistry) -> None:
    assert await registry.report(VERSION, make_manifest(str(VERSION))) is None


@pytest.mark.parametrize("data", [b"", b"[1]", b"\xff", b"{", b"[" * 200_000])
async def test_a_report_that_is_none_is_corrupt(registry: AdapterRegistry, data: bytes) -> None:
    manifest = await stored(registry, data)
    with pytest.raises(DataCorrupt) as caught:
        await registry.report(VERSION, manifest)
    assert caught.value.reason == "REPORT_INVALID"


async def test_a_report_that_was_changed_is_corrupt(registry: AdapterRegistry) -> None:
    manifest = await stored(registry, b"<p>one</p>", REPORT_PAGE)
    await registry.store.put(f"{VERSION}/{REPORT_PAGE}", b"<p>two</p>")
    with pytest.raises(DataCorrupt) as caught:
        await registry.report_file(VERSION, manifest, REPORT_PAGE)
    assert caught.value.reason == "REPORT_INVALID"


async def test_a_deleted_versions_report_is_there_until_it_is_collected(
    registry: AdapterRegistry,
) -> None:
    manifest = await stored(registry, b'{"best_step": 3}')
    await registry.bury(VERSION, "test")
    assert await registry.report(VERSION, manifest) == {"best_step": 3}
    await registry.store.delete(f"{VERSION}/{REPORT}")
    with pytest.raises(NotFound) as caught:
        await registry.report(VERSION, manifest)
    assert caught.value.reason == "VERSION_DELETED"


async def test_a_report_that_vanished_is_corrupt(registry: AdapterRegistry) -> None:
    manifest = await stored(registry, b'{"best_step": 3}')
    await registry.store.delete(f"{VERSION}/{REPORT}")
    with pytest.raises(DataCorrupt) as caught:
        await registry.report(VERSION, manifest)
    assert caught.value.reason == "REPORT_INVALID"
