"""The upload of a version's files, which goes on where an earlier try has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.errors import Conflict
from tailorbird.manifest import EvaluationSummary
from tailorbird.names import AdapterName
from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.values import make_manifest
from trainer_svc.engine.result.package import FILES, Package, upload

VERSION = AdapterName("acme", "voice").version("20260101T000000-one-1")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    for name in FILES:
        (tmp_path / name).write_text(f"of {name}")
    score = EvaluationSummary(
        steps=1, training_loss=1.0, validation_loss=None, base_validation_loss=None
    )
    return Package(
        folder=tmp_path,
        target_modules=("q_proj",),
        tensors={},
        evaluation=score,
        lineage=make_manifest(str(VERSION)).lineage,
    )


async def test_an_upload_goes_on_where_an_earlier_one_has_ended(
    package: Package, object_store: ObstoreStore
) -> None:
    await object_store.create(f"{VERSION}/{FILES[0]}", (package.folder / FILES[0]).read_bytes())
    await upload(object_store, package, VERSION)
    for name in FILES:
        assert await object_store.get(f"{VERSION}/{name}") == f"of {name}".encode()


async def test_what_somebody_else_has_written_is_not_taken_for_ours(
    package: Package, object_store: ObstoreStore
) -> None:
    await object_store.create(f"{VERSION}/{FILES[1]}", b"theirs")
    with pytest.raises(Conflict, match=FILES[1]) as caught:
        await upload(object_store, package, VERSION)
    assert caught.value.metadata["key"] == f"{VERSION}/{FILES[1]}"
    assert await object_store.get(f"{VERSION}/{FILES[1]}") == b"theirs"
