"""What a worker is told of a job's data."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

from tailorbird.names import DatasetName
from tailorbird.object_store import open_store
from tailorbird.personal_data.loading import load_scanner, scan_options
from tailorbird.personal_data.modes import Mode
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.values import make_job
from trainer_svc.datasets.personal_data import PersonalDataPolicy
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.assignment import Assignments
from trainer_svc.jobs.fence import Lease
from trainer_svc.jobs.model import PromotionPolicy


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_what_was_found_of_personal_data_goes_with_the_data(tmp_path: Path) -> None:
    store = open_store((tmp_path / "store").as_uri())
    policy = PersonalDataPolicy(Mode.OFF, lambda: load_scanner(scan_options()))
    datasets = DatasetStore(store, tmp_path / "spool", 2**20, 2**20, policy)
    job = make_job()
    name = DatasetName.parse(job.spec.training_dataset)
    record = b'{"prompt": "I am a@web.de", "completion": "b"}'
    dataset = await datasets.upload(name, None, chunks(record), personal_data=Mode.REDACT)
    assignments = Assignments(datasets, AdapterRegistry(store), lambda _: "sha256:0")
    given = await assignments.of(Lease(job.name, 1, 0), job, 1)
    assert given.training.personal_data == dataset.personal_data
    assert given.training.personal_data is not None
    assert given.training.personal_data.counts == {"email": 1}
    assert given.training.sha256 == dataset.sha256
    assert given.training.index_key == dataset.index_key
    for promotes in PromotionPolicy:
        job = make_job(policy=promotes)
        given = await assignments.of(Lease(job.name, 1, 0), job, 1)
        assert given.promoted_always is (promotes is PromotionPolicy.ALWAYS)
