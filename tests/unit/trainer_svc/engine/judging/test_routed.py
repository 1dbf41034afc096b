"""The version that the traffic goes to answers too, and is gone from the base after that."""

from __future__ import annotations

import asyncio
from threading import Event
from typing import Any

import pytest

from tailorbird.errors import FailedPrecondition
from tailorbird.names import VersionName
from tailorbird.registry import AdapterRegistry
from tests.unit.trainer_svc.engine.judging.examined import route, start, uploaded
from tests.unit.trainer_svc.engine.versions import VERSION, publish, trained
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.events import Judged
from trainer_svc.judgement.model import Candidate
from trainer_svc.protocol import (
    Cancel,
    Cancelled,
    Evaluating,
    Failed,
)


async def test_the_routed_version_answers_too(working: Working, bank: AdapterBank) -> None:
    await publish(working.store, trained(bank), target_modules=tuple(bank.target_modules))
    await route(working)
    job = await start(working)
    found = (await working.until(Judged, job.lease)).judgement
    routed = next(each for each in found.candidates if each.candidate == Candidate.ROUTED)
    assert routed.version == VERSION
    assert Candidate.ROUTED in [each.against for each in found.comparisons]
    done, _ = await uploaded(working, job)
    decision = done.manifest.evaluation.decision
    assert decision is not None
    assert decision.route_generation == 3
    assert not await working.attached(f"{job.lease.job}/routed")
    # It is judged as it was published, and left as it is.
    await AdapterRegistry(working.store).manifest(VersionName.parse(VERSION))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base_model_digest": f"sha256:{'7' * 64}"}, "is of another base"),
        ({"rank": 64}, "lora_A"),
        (None, "VERSION_NOT_FOUND"),
    ],
)
async def test_a_routed_version_that_cannot_answer_is_told_and_blocks_promotion(
    working: Working, bank: AdapterBank, changes: dict[str, Any] | None, why: str
) -> None:
    if changes is not None:
        targets = {"target_modules": tuple(bank.target_modules)}
        await publish(working.store, trained(bank), **targets, **changes)
    await route(working)
    job = await start(working)
    found = (await working.until(Judged, job.lease)).judgement
    assert Candidate.ROUTED not in [each.candidate for each in found.candidates]
    (note,) = [note for note in found.notes if "routed version" in note]
    assert why in note or VERSION in note
    assert not found.decision.promote


async def test_a_store_that_is_down_fails_the_attempt_and_leaves_nothing(
    working: Working, bank: AdapterBank
) -> None:
    await publish(working.store, trained(bank), target_modules=tuple(bank.target_modules))
    await route(working)
    working.store.down = "/routes/"
    job = await start(working)
    failed = await working.until(Failed, job.lease)
    assert failed.retryable
    assert not working.left_behind
    assert not await working.attached(job.lease.job)
    assert not await working.attached(f"{job.lease.job}/routed")


async def test_a_cancelled_examination_leaves_nothing(
    working: Working, bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(working.store, trained(bank), target_modules=tuple(bank.target_modules))
    await route(working)
    began = asyncio.Event()
    loop = asyncio.get_running_loop()

    def endless(*_: Any, **__: Any) -> Any:
        loop.call_soon_threadsafe(began.set)
        while True:
            yield

    monkeypatch.setattr("trainer_svc.engine.judging.examination.generate", endless)
    job = await start(working)
    await working.until(Evaluating, job.lease)
    async with asyncio.timeout(60):
        await began.wait()
    assert await working.attached(f"{job.lease.job}/routed")
    working.worker.take(Cancel(lease=job.lease))
    await working.until(Cancelled, job.lease)
    assert not working.left_behind
    assert not await working.attached(job.lease.job)
    assert not await working.attached(f"{job.lease.job}/routed")


async def test_a_cancellation_while_the_routed_version_is_taken_off_leaves_nothing(
    working: Working, bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(working.store, trained(bank), target_modules=tuple(bank.target_modules))
    await route(working)
    asked, go_on = asyncio.Event(), Event()
    loop, call = asyncio.get_running_loop(), working.steps.call

    def asking(action: Any) -> Any:
        answer = call(action)
        asked.set()
        return answer

    def broken(*_: Any, **__: Any) -> Any:
        yield
        # The next order waits behind this one.
        call(lambda: go_on.wait(60))
        loop.call_soon_threadsafe(monkeypatch.setattr, working.steps, "call", asking)
        raise FailedPrecondition("too long", reason="OUT_OF_MEMORY")

    monkeypatch.setattr("trainer_svc.engine.judging.examination.generate", broken)
    job = await start(working)
    async with asyncio.timeout(60):
        await asked.wait()
    working.worker.take(Cancel(lease=job.lease))
    for _ in range(5):
        await asyncio.sleep(0)
    go_on.set()
    await working.until(Cancelled, job.lease)
    assert not await working.attached(f"{job.lease.job}/routed")
