"""What looking at many versions takes."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest

from tailorbird.manifest import AdapterManifest
from tailorbird.names import TenantName, VersionName
from tailorbird.object_store import ObjectStore, open_store
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.values import put_version
from trainer_svc.jobs import trained_versions
from trainer_svc.jobs.trained_versions import TrainedVersions

VERSIONS = 6


class Counting(AdapterRegistry):
    """Knows which manifests somebody still has."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(store)
        self.read: list[weakref.ref[AdapterManifest]] = []
        self.most = 0

    async def stored_manifest(self, version: VersionName) -> AdapterManifest:
        found = await super().stored_manifest(version)
        self.read.append(weakref.ref(found))
        self.most = max(self.most, sum(each() is not None for each in self.read))
        return found


async def test_a_page_holds_the_manifests_that_it_is_reading_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(tmp_path.as_uri())
    registry = Counting(store)
    for number in range(VERSIONS):
        await put_version(
            store, f"tenants/acme/adapters/voice/versions/20260101T00000{number}-job-1"
        )
    monkeypatch.setattr(trained_versions, "_READS", 2)
    await TrainedVersions(registry).page(TenantName("acme"), {"1" * 64}, 100)
    assert len(registry.read) == VERSIONS
    assert registry.most <= 2
