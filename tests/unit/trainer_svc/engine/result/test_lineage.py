"""What a version's manifest says of the data that it has seen, written by a real worker."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.unit.trainer_svc.engine.tiny import chats, jsonl
from tests.unit.trainer_svc.engine.versions import DIGEST
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import DatasetRef, Trained, Upload, Uploaded

VERSION = "20261120T153000-told-1"
HELD = jsonl(chats(4))


@pytest_asyncio.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path, digest=DIGEST)
    yield working
    working.open_files.close()
    await asyncio.to_thread(working.steps.close)


@pytest.mark.parametrize("held_out", ["nothing", "a fraction", "a dataset"])
async def test_a_lineage_tells_what_was_held_out(working: Working, held_out: str) -> None:
    held = DatasetRef(
        name="tenants/acme/datasets/held",
        key="held.jsonl",
        sha256=hashlib.sha256(HELD).hexdigest(),
        format="chat",
    )
    await working.store.seed(held.key, HELD)
    given: dict[str, Any] = {
        "validation_fraction": 0.25 if held_out == "a fraction" else None,
        "validation": held if held_out == "a dataset" else None,
        "hyperparameters": Hyperparameters(epochs=1),
        "base_model_digest": DIGEST,
    }
    job = await working.start("told", **given)
    await working.until(Trained, job.lease)
    working.worker.take(Upload(lease=job.lease, version=VERSION))
    lineage = (await working.until(Uploaded, job.lease)).manifest.lineage
    assert lineage.training_dataset_sha256 == job.training.sha256
    told = (lineage.validation_dataset, lineage.validation_dataset_sha256)
    assert told == ((held.name, held.sha256) if held_out == "a dataset" else ("", ""))
    assert lineage.held_out_records == (5 if held_out == "a fraction" else 0)
