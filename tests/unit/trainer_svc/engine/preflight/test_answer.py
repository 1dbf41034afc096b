"""What the process that checks data says of what it meets, and of what it does not."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.preflight.test_base import settings
from trainer_svc.engine.preflight import __main__ as module
from trainer_svc.engine.preflight.__main__ import _outcome
from trainer_svc.jobs.model import Hyperparameters, LoraSpec
from trainer_svc.protocol import Assignment, Check, DatasetRef, LeaseKey

ASSIGNMENT = Assignment(
    lease=LeaseKey(job="tenants/acme/jobs/one", epoch=0),
    base_model_digest="",
    adapter="tenants/acme/adapters/a",
    training=DatasetRef(name="d", key="d", sha256="", format="chat"),
    validation=None,
    validation_fraction=None,
    lora=LoraSpec(),
    hyperparameters=Hyperparameters(),
    spec_sha256="",
    parent_version="",
)


def meets(error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    async def refuse(_: Check) -> None:
        raise error

    monkeypatch.setattr(module, "_checked", refuse)
    return Check(settings=settings(folder, folder), assignment=ASSIGNMENT)


def test_what_is_wrong_with_the_job_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = FailedPrecondition("too many", reason="TOO_MANY_TOO_LONG", count=3)
    told = _outcome(meets(refused, tmp_path, monkeypatch))
    assert told.kind == "FailedPrecondition"
    assert told.error is not None
    assert (told.error.reason, told.error.metadata) == ("TOO_MANY_TOO_LONG", {"count": "3"})


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_fault_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    told = _outcome(meets(OSError(number, "no room"), tmp_path, monkeypatch))
    assert told.kind == "Unavailable"
    assert told.error is not None
    assert told.error.reason == "DISK_FULL"


def test_another_fault_of_the_machine_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PermissionError):
        _outcome(meets(PermissionError(errno.EACCES, "no"), tmp_path, monkeypatch))
