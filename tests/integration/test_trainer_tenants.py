"""Every RPC of the trainer, with the token of the tenant that it names and with another's.

What is named is there. So a call of the other tenant would do something if it were let in: it is
told the same as of what does not exist, and nothing has changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from tailorbird.feedback import FeedbackStore
from tailorbird.names import AdapterName
from tailorbird.object_store import ObstoreStore
from tailorbird.tuning.v1 import feedback_pb2, job_pb2, sweep_pb2, tuning_service_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.dataset_world import ACME, OTHER, World, lines, name, token, world
from tests.unit.tailorbird.feedback_values import ADAPTER, a_name, a_record

OF_NO_TENANT = {"GetTrainerInfo"}
"""What a trainer tells whoever has a token."""

THEIRS = AdapterName("other", ADAPTER.adapter)
SPEC = job_pb2.JobSpec(training_dataset=name("chats"), adapter=f"{ACME}/adapters/voice")
SWEEP = sweep_pb2.Sweep(spec=SPEC, space=sweep_pb2.SearchSpace(learning_rates=[1e-3, 1e-4]))

CASES: dict[str, Callable[[str], Any]] = {
    "CreateJob": lambda _: pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=SPEC)),
    "GetJob": lambda job: pb.GetJobRequest(name=job),
    "ListJobs": lambda _: pb.ListJobsRequest(parent=ACME),
    "CancelJob": lambda job: pb.CancelJobRequest(name=job),
    "PauseJob": lambda job: pb.PauseJobRequest(name=job),
    "ResumeJob": lambda job: pb.ResumeJobRequest(name=job),
    "DeleteJob": lambda job: pb.DeleteJobRequest(name=job),
    "WatchJob": lambda job: pb.WatchJobRequest(name=job),
    "CreateSweep": lambda _: pb.CreateSweepRequest(parent=ACME, sweep=SWEEP),
    "GetSweep": lambda job: pb.GetSweepRequest(name=job.replace("/jobs/", "/sweeps/")),
    "ListSweeps": lambda _: pb.ListSweepsRequest(parent=ACME),
    "CancelSweep": lambda job: pb.CancelSweepRequest(name=job.replace("/jobs/", "/sweeps/")),
    "UploadDataset": lambda _: pb.UploadDatasetRequest(
        header=pb.UploadDatasetHeader(parent=ACME, dataset_id="more")
    ),
    "ImportDataset": lambda _: pb.ImportDatasetRequest(
        parent=ACME, dataset_id="more", uri="file:///nowhere/acme/x.jsonl"
    ),
    "GetDataset": lambda _: pb.GetDatasetRequest(name=name("chats")),
    "GetDatasetReport": lambda _: pb.GetDatasetReportRequest(name=name("chats")),
    "ListDatasets": lambda _: pb.ListDatasetsRequest(parent=ACME),
    "DeleteDataset": lambda _: pb.DeleteDatasetRequest(name=name("spare")),
    "FindRecord": lambda _: pb.FindRecordRequest(parent=ACME, digest="a" * 64),
    "ListTrainedVersions": lambda _: pb.ListTrainedVersionsRequest(
        parent=ACME, dataset_sha256=["a" * 64]
    ),
    "ListFeedback": lambda _: feedback_pb2.ListFeedbackRequest(parent=str(ADAPTER)),
    "ImportFeedback": lambda _: feedback_pb2.ImportFeedbackRequest(
        parent=ACME, dataset_id="made", adapter=str(ADAPTER)
    ),
    "DeleteFeedback": lambda _: feedback_pb2.DeleteFeedbackRequest(name=str(a_name())),
}


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}) as trainer:
        for dataset in ("chats", "spare"):
            await trainer.upload(dataset, lines(*(f"n{number}" for number in range(60))))
        await FeedbackStore(object_store).create(a_record(rating="good"))
        yield trainer


def test_every_rpc_has_a_case() -> None:
    service = tuning_service_pb2.DESCRIPTOR.services_by_name["TuningService"]
    assert {method.name for method in service.methods} == {*CASES, *OF_NO_TENANT}


async def told(trainer: World, method: str, request: Any, caller: str) -> str:
    """Make a call, and return the name of its status code."""
    call = getattr(trainer.stub, method)
    kind = tuning_service_pb2.DESCRIPTOR.services_by_name["TuningService"].methods_by_name[method]
    metadata = token(caller)
    try:
        if kind.client_streaming:
            body = pb.UploadDatasetRequest(chunk=lines("three"))
            await call(iter([request, body]), metadata=metadata)
        elif kind.server_streaming:
            await anext(aiter(call(request, metadata=metadata)))
        else:
            await call(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        code: str = error.code().name
        return code
    return "OK"


async def stored(trainer: World) -> tuple[list[str], bytes]:
    """Return the objects' keys, and all that is said of the tenant's jobs."""
    jobs = await trainer.call("ListJobs", pb.ListJobsRequest(parent=ACME))
    return await trainer.keys(), jobs.SerializeToString(deterministic=True)


@pytest.mark.parametrize("method", CASES)
async def test_what_another_tenant_names_is_as_if_it_were_not(trainer: World, method: str) -> None:
    job = await waiting(trainer, method)
    before = await stored(trainer)
    assert await told(trainer, method, CASES[method](job), "other") == "NOT_FOUND"
    assert await stored(trainer) == before
    # And to its own tenant it is there.
    assert await told(trainer, method, CASES[method](job), "acme") not in {
        "NOT_FOUND",
        "UNAUTHENTICATED",
        "INTERNAL",
        "UNIMPLEMENTED",
    }


async def waiting(trainer: World, method: str) -> str:
    """Return the name of a job, or of a sweep's, that is paused, or ended so that it may go."""
    if method in {"GetSweep", "CancelSweep"}:
        made = await trainer.call("CreateSweep", CASES["CreateSweep"](""))
        job = made.sweep.name.replace("/sweeps/", "/jobs/")
    else:
        job = (await trainer.create(name("chats"))).name
    await trainer.call("CancelJob" if method == "DeleteJob" else "PauseJob", CASES["GetJob"](job))
    async for _ in trainer.stub.WatchJob(pb.WatchJobRequest(name=job), metadata=token("acme")):
        found = (await trainer.call("GetJob", CASES["GetJob"](job))).job.state
        if found in {job_pb2.JOB_STATE_PAUSED, job_pb2.JOB_STATE_CANCELLED}:
            break
    return str(job)


async def test_a_list_of_one_tenant_has_nothing_of_another_s(trainer: World) -> None:
    await trainer.upload("theirs", lines("one"), parent=OTHER)
    await trainer.create(name("chats"))
    for method, field in (("ListJobs", "jobs"), ("ListDatasets", "datasets")):
        request = getattr(pb, f"{method}Request")(parent=OTHER)
        listed = getattr(await trainer.call(method, request, "other"), field)
        assert all(each.name.startswith(f"{OTHER}/") for each in listed)


@pytest.mark.parametrize(
    ("parent", "adapter"),
    [(ACME, str(THEIRS)), (OTHER, str(ADAPTER))],
    ids=["into another's datasets", "from another's adapter"],
)
async def test_feedback_crosses_to_no_other_tenant(
    trainer: World, parent: str, adapter: str
) -> None:
    await FeedbackStore(trainer.store).create(a_record(adapter=THEIRS, rating="good"))
    before = await trainer.keys()
    request = feedback_pb2.ImportFeedbackRequest(parent=parent, dataset_id="made", adapter=adapter)
    assert await told(trainer, "ImportFeedback", request, "other") == "NOT_FOUND"
    assert await trainer.keys() == before
