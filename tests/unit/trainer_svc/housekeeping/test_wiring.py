from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest

from tailorbird.object_store import ObstoreStore
from trainer_svc.housekeeping.model import Rules
from trainer_svc.housekeeping.wiring import caches_of, rules_of, stores_of
from trainer_svc.jobs.database import Database
from trainer_svc.settings import TrainerSettings


@pytest.fixture
def settings(tmp_path: Path) -> TrainerSettings:
    return TrainerSettings(data_dir=tmp_path, base_model="none")


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("", "{data_dir}/store"),
        ("file:///srv/a%20b", "/srv/a b"),
        ("s3://bucket/tailorbird", None),
    ],
)
def test_only_a_store_in_a_folder_has_one(
    settings: TrainerSettings,
    database: Database,
    object_store: ObstoreStore,
    url: str,
    folder: str | None,
) -> None:
    settings = settings.model_copy(update={"object_store": url})
    stores = stores_of(settings, database, object_store, lambda _: nullcontext())
    expected = folder and Path(folder.format(data_dir=settings.data_dir.resolve()))
    assert stores.folder == expected
    assert stores.caches == caches_of(settings) == settings.data_dir / "cache" / "datasets"


def test_ages_are_those_of_the_settings(settings: TrainerSettings) -> None:
    assert rules_of(settings) == Rules(
        grace=timedelta(days=1), deleted_versions=timedelta(days=7), ended_jobs=None
    )
    changed = {"collect_grace_hours": 2, "deleted_versions_days": 3, "job_retention_days": 4}
    assert rules_of(settings.model_copy(update=changed)) == Rules(
        grace=timedelta(hours=2),
        deleted_versions=timedelta(days=3),
        ended_jobs=timedelta(days=4),
    )
