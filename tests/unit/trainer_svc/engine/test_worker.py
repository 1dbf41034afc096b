"""How a worker tells what went wrong with a job."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from tailorbird.object_store import open_store
from tests.unit.trainer_svc.engine.tiny import assignment
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.engine.worker import Worker
from trainer_svc.protocol import Failed, WorkerSettings
from trainer_svc.record import Record


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (OSError(errno.ENOSPC, "no room"), "DISK_FULL", True),
        (OSError(errno.EDQUOT, "no room"), "DISK_FULL", True),
        (OSError(errno.EIO, "broken"), "INTERNAL", False),
        (KeyError("surprise"), "INTERNAL", False),
    ],
)
def test_a_full_disk_is_worth_another_try(
    bank: AdapterBank,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
    retryable: bool,
) -> None:
    settings = WorkerSettings(
        object_store=tmp_path.as_uri(),
        base_model_path="",
        base_model_name="tiny",
        base_model_digest="",
        chat_template_digest="",
        device="cpu",
        threads=1,
        scratch_dir=str(tmp_path / "scratch"),
        progress_interval=0,
    )
    sent: list[Record] = []
    store = open_store(settings.object_store)
    with asyncio.Runner() as runner:
        worker = Worker(settings, bank, store, runner, SimpleQueue(), sent.append)

        def fail(*_: Any) -> None:
            raise error

        monkeypatch.setattr(worker, "_work", fail)
        worker._job(assignment(b""))
    (failed,) = sent
    assert isinstance(failed, Failed)
    assert (failed.error.reason, failed.retryable) == (reason, retryable)
