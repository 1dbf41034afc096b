"""DeleteJob over a real socket: by the tenant it belongs to, and once it has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tailorbird.errors import StoreUnavailable
from tailorbird.names import VersionName
from tailorbird.object_store import ObstoreStore
from tailorbird.registry import AdapterRegistry
from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.dataset_world import ACME, OTHER, World, lines, name, token, world


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}) as trainer:
        await trainer.upload("chats", lines("one", "two"))
        yield trainer


def delete(job: str) -> pb.DeleteJobRequest:
    return pb.DeleteJobRequest(name=job)


async def jobs(trainer: World) -> list[str]:
    listed: Any = await trainer.call("ListJobs", pb.ListJobsRequest(parent=ACME))
    return [job.name for job in listed.jobs]


async def test_a_job_that_has_ended_is_deleted_and_its_version_stays(
    trainer: World, object_store: ObstoreStore
) -> None:
    job = await trainer.create(name("chats"))
    other = await trainer.create(name("chats"))
    await trainer.ended(job.name)
    await trainer.ended(other.name)
    done = (await trainer.call("GetJob", pb.GetJobRequest(name=job.name))).job
    assert done.state == job_pb2.JOB_STATE_SUCCEEDED
    left = f"{job.name}/checkpoints/lease-000001/00000002/manifest.json"
    await object_store.put(left, b"{}")
    await trainer.call("DeleteJob", delete(job.name))
    assert await jobs(trainer) == [other.name]
    assert left not in await trainer.keys()
    for method, request in (
        ("GetJob", pb.GetJobRequest(name=job.name)),
        ("DeleteJob", delete(job.name)),
    ):
        code, reason, *_ = await trainer.refused(method, request)
        assert (code, reason) == ("NOT_FOUND", "JOB_NOT_FOUND")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await anext(
            aiter(trainer.stub.WatchJob(pb.WatchJobRequest(name=job.name), metadata=token("acme")))
        )
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    await AdapterRegistry(object_store).check_present(VersionName.parse(done.version))


async def test_a_job_that_has_not_ended_stays(trainer: World, object_store: ObstoreStore) -> None:
    job = await trainer.create(name("chats"))
    kept = f"{job.name}/checkpoints/lease-000001/00000002/manifest.json"
    await object_store.put(kept, b"{}")
    code, reason, metadata, message = await trainer.refused("DeleteJob", delete(job.name))
    assert (code, reason) == ("FAILED_PRECONDITION", "JOB_NOT_DELETABLE")
    assert metadata["state"] in {"QUEUED", "PREPARING", "RUNNING"}
    assert message.endswith("cancel it first")
    assert kept in await trainer.keys()
    assert await jobs(trainer) == [job.name]
    await trainer.ended(job.name)
    await trainer.call("DeleteJob", delete(job.name))
    assert await jobs(trainer) == []


async def test_a_job_whose_rest_cannot_be_deleted_stays(
    trainer: World, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await trainer.create(name("chats"))
    await trainer.ended(job.name)
    await object_store.put(f"{job.name}/checkpoints/lease-000001/00000002/manifest.json", b"{}")

    async def down(_: str) -> None:
        raise StoreUnavailable("as the test wants")

    with monkeypatch.context() as patch:
        patch.setattr(object_store, "delete", down)
        code, *_ = await trainer.refused("DeleteJob", delete(job.name))
    assert code == "UNAVAILABLE"
    assert await jobs(trainer) == [job.name]
    await trainer.call("DeleteJob", delete(job.name))
    assert await jobs(trainer) == []


async def test_another_tenants_job_is_as_if_it_were_not(trainer: World) -> None:
    job = await trainer.create(name("chats"))
    await trainer.ended(job.name)
    refused = await trainer.refused("DeleteJob", delete(job.name), "other")
    ghost = await trainer.refused("DeleteJob", delete(f"{ACME}/jobs/ghost"), "other")
    assert refused[:2] == ghost[:2] == ("NOT_FOUND", "NOT_FOUND")
    assert await jobs(trainer) == [job.name]
    # Of its own tenant it may, and finds none.
    own = await trainer.refused("DeleteJob", delete(f"{OTHER}/jobs/ghost"), "other")
    assert own[:2] == ("NOT_FOUND", "JOB_NOT_FOUND")


@pytest.mark.parametrize("wrong", ["", "jobs/one", f"{ACME}/jobs/", f"{ACME}/jobs/One", ACME])
async def test_a_name_that_is_no_jobs_is_refused(trainer: World, wrong: str) -> None:
    code, _, metadata, _ = await trainer.refused("DeleteJob", delete(wrong))
    assert (code, metadata["field"]) == ("INVALID_ARGUMENT", "name")
