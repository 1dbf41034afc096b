"""What a tenant may take of the queue, over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from tailorbird.object_store import ObstoreStore
from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.dataset_world import ACME, World, lines, name, world
from trainer_svc.jobs.limits import TenantLimits


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    limits = TenantLimits(queued={"acme": 3}, running={"acme": 1}, priority={"acme": 5})
    async with world(object_store, tmp_path, {}, limits) as trainer:
        await trainer.upload("chats", lines("one", "two"))
        yield trainer


async def test_a_job_too_many_is_refused_and_says_when_to_come_back(trainer: World) -> None:
    first = await trainer.create(name("chats"))
    await trainer.until_at_work(first.name)
    for _ in range(3):
        await trainer.create(name("chats"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.create(name("chats"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 3 may wait" in str(caught.value.details())
    # What would be refused is, without a job being made: also with validate_only.
    spec = job_pb2.JobSpec(training_dataset=name("chats"), adapter=f"{ACME}/adapters/voice")
    asked = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec), validate_only=True)
    code, reason, _, _ = await trainer.refused("CreateJob", asked)
    assert (code, reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_QUEUED_JOBS")
    listed = (await trainer.call("ListJobs", pb.ListJobsRequest(parent=ACME))).jobs
    assert len(listed) == 4
    await trainer.ended(first.name)
    for job in listed:
        await trainer.ended(job.name)
    await trainer.call("CreateJob", asked)
    await trainer.create(name("chats"))


async def test_a_priority_is_kept_and_one_too_high_is_refused(trainer: World) -> None:
    made = await trainer.create(name("chats"), priority=5)
    found = (await trainer.call("GetJob", pb.GetJobRequest(name=made.name))).job
    assert found.spec.priority == 5
    for priority, says in ((6, "highest that acme may ask for"), (101, "100"), (-101, "-100")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trainer.create(name("chats"), priority=priority)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "job.spec.priority" in str(caught.value.details())
        assert says in str(caught.value.details())


async def test_fifty_clients_that_make_one_request_at_once_make_one_job(trainer: World) -> None:
    made = await asyncio.gather(
        *(trainer.create(name("chats"), request_id="once") for _ in range(50))
    )
    assert len({job.name for job in made}) == 1
    listed = (await trainer.call("ListJobs", pb.ListJobsRequest(parent=ACME))).jobs
    assert [job.name for job in listed] == [made[0].name]
