"""What a worker's process says, and what is made of it."""

from __future__ import annotations

import os

import pytest

from tests.unit.trainer_svc.fakes import READY
from trainer_svc.dispatch.child import spawn
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.process_worker import ProcessWorker
from trainer_svc.protocol import Alive, Cancelled, LeaseKey, Lost
from trainer_svc.record import Record

ECHO = "tests.unit.trainer_svc.dispatch.dying"


async def said(report: Record) -> ProcessWorker:
    """Return a worker that says what it is told to."""
    worker = ProcessWorker(await spawn(ECHO))
    assert await worker.begin(READY, 30) == READY
    await worker.send(report)  # type: ignore[arg-type]  # it says again what it hears
    return worker


async def test_the_end_of_a_worker_elsewhere_is_told_whole() -> None:
    worker = await said(
        Lost(message="gone", reason="RAY_NO_ROOM", from_outside=True, printed="its last line")
    )
    await worker._child.write(b"exit 0\n")
    with pytest.raises(WorkerLost) as caught:
        await worker.receive()
    await worker.close()
    error = caught.value
    assert (error.message, error.reason) == ("gone", "RAY_NO_ROOM")
    assert (error.from_outside, error.printed) == (True, "its last line")


async def test_a_worker_that_is_lost_at_its_beginning_leaves_no_process() -> None:
    child = await spawn(ECHO)
    with pytest.raises(WorkerLost, match="no report"):
        await ProcessWorker(child).begin(Record(), 30)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


async def test_what_is_no_report_is_a_lost_worker() -> None:
    worker = await said(Record())
    with pytest.raises(WorkerLost, match="no report"):
        await worker.receive()
    await worker.close()


async def test_that_a_worker_lives_is_heard_and_told_nobody() -> None:
    worker = await said(Alive())
    last = Cancelled(lease=LeaseKey(job="tenants/acme/jobs/one", epoch=1))
    await worker.send(last)  # type: ignore[arg-type]
    assert await worker.receive() == last
    await worker.close()


def test_only_who_was_alone_reads_what_was_printed() -> None:
    error = WorkerLost("ended", reason="WHY", from_outside=True, printed="a line")
    others, alone = error.again(), error.again(alone=True)
    assert (others.message, others.printed) == ("ended", "")
    assert alone.message == "ended; it printed last: a line"
    assert {(each.reason, each.from_outside) for each in (others, alone)} == {("WHY", True)}
    assert WorkerLost("ended").again(alone=True).message == "ended"
