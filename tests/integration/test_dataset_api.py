"""Listing and deleting datasets over a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tailorbird.names import DatasetName
from tailorbird.object_store import ObstoreStore
from tailorbird.tuning.v1 import job_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.dataset_world import (
    ACME,
    FORMAT,
    OTHER,
    World,
    delete,
    get,
    lines,
    name,
    world,
)


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}) as found:
        yield found


async def test_datasets_are_listed_by_id_a_page_at_a_time(trainer: World) -> None:
    for one in ("delta", "alpha", "charlie", "bravo", "echo"):
        await trainer.upload(one, lines("yes"))
    await trainer.upload("theirs", lines("no"), OTHER)
    pages, page_token = [], ""
    while True:
        request = pb.ListDatasetsRequest(parent=ACME, page_size=2, page_token=page_token)
        page = await trainer.call("ListDatasets", request)
        pages.append([each.name.rpartition("/")[2] for each in page.datasets])
        if not (page_token := page.next_page_token):
            break
    assert pages == [["alpha", "bravo"], ["charlie", "delta"], ["echo"]]


async def test_a_listing_has_the_figures_and_not_the_report(trainer: World) -> None:
    made = await trainer.upload("chats", b'{"prompt":"a","completion":"b","id":1}\n' * 3)
    (listed,) = (await trainer.call("ListDatasets", pb.ListDatasetsRequest(parent=ACME))).datasets
    assert made.HasField("report")
    assert list(made.ignored_fields) == ["id"]
    made.ClearField("report")
    made.ClearField("ignored_fields")
    assert listed == made
    assert (listed.record_count, listed.format) == (3, FORMAT)


async def test_what_is_uploaded_in_part_is_not_listed(trainer: World) -> None:
    await trainer.upload("whole", lines("yes"))
    await trainer.store.put(f"{name('half')}/data-{'0' * 64}.jsonl", b"{}")
    assert await trainer.ids() == ["whole"]
    # It has its place in a page, which is short then, and not the last.
    page = await trainer.call("ListDatasets", pb.ListDatasetsRequest(parent=ACME, page_size=1))
    assert (list(page.datasets), bool(page.next_page_token)) == ([], True)
    rest = pb.ListDatasetsRequest(parent=ACME, page_size=1, page_token=page.next_page_token)
    page = await trainer.call("ListDatasets", rest)
    assert ([each.name for each in page.datasets], page.next_page_token) == ([name("whole")], "")


async def test_a_dataset_that_cannot_be_read_hides_no_other(trainer: World) -> None:
    for one in ("a", "b"):
        await trainer.upload(one, lines("yes"))
    await trainer.store.put(f"{name('a')}/meta.json", b"{")
    assert await trainer.ids() == ["b"]
    assert (await trainer.refused("GetDataset", get("a")))[0] == "DATA_LOSS"


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("page_size", pb.ListDatasetsRequest(parent=ACME, page_size=-1)),
        ("page_token", pb.ListDatasetsRequest(parent=ACME, page_token="!!")),
        ("parent", pb.ListDatasetsRequest(parent="acme")),
    ],
)
async def test_a_wrong_listing_is_refused(trainer: World, field: str, request_: Any) -> None:
    code, _, told, _ = await trainer.refused("ListDatasets", request_)
    assert (code, told["field"]) == ("INVALID_ARGUMENT", field)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ListDatasets", pb.ListDatasetsRequest(parent=ACME)),
        ("DeleteDataset", delete("chats")),
        ("ImportDataset", pb.ImportDatasetRequest(parent=ACME, dataset_id="a", uri="s3://a/b")),
        ("FindRecord", pb.FindRecordRequest(parent=ACME, record=lines("yes"))),
        (
            "ListTrainedVersions",
            pb.ListTrainedVersionsRequest(parent=ACME, dataset_sha256=["0" * 64]),
        ),
    ],
)
async def test_another_tenant_learns_nothing(trainer: World, method: str, request_: Any) -> None:
    await trainer.upload("chats", lines("yes"))
    code, _, _, message = await trainer.refused(method, request_, caller="other")
    absent = await trainer.refused("ListDatasets", pb.ListDatasetsRequest(parent="tenants/none"))
    assert (code, absent[0]) == ("NOT_FOUND", "NOT_FOUND")
    assert "chats does not exist" in message or message == f"{ACME} does not exist"
    assert await trainer.ids() == ["chats"]


async def test_a_deleted_dataset_leaves_its_digests_alone(trainer: World) -> None:
    made = await trainer.upload("chats", lines("yes", "no"))
    await trainer.upload("chats", lines("theirs"), OTHER)
    theirs = await trainer.keys(OTHER)
    await trainer.call("DeleteDataset", delete("chats"))
    assert (await trainer.refused("GetDataset", get("chats")))[:2] == (
        "NOT_FOUND",
        "DATASET_NOT_FOUND",
    )
    assert await trainer.ids() == []
    kept = f"index-{made.sha256}-prompt_completion-off.bin"
    assert await trainer.keys(ACME) == [f"{ACME}/deleted_datasets/chats/{kept}"]
    assert await trainer.keys(OTHER) == theirs
    assert (await trainer.refused("DeleteDataset", delete("chats")))[:2] == (
        "NOT_FOUND",
        "DATASET_NOT_FOUND",
    )


async def test_an_id_is_free_again_for_other_data(trainer: World) -> None:
    await trainer.upload("chats", lines("yes"))
    await trainer.call("DeleteDataset", delete("chats"))
    again = await trainer.upload("chats", lines("other"))
    assert (await trainer.call("GetDataset", get("chats"))).dataset == again
    assert await trainer.store.get(f"{name('chats')}/data-{again.sha256}.jsonl") == lines("other")


@pytest.mark.parametrize("use", ["training", "validation"])
async def test_a_dataset_of_a_job_that_has_not_ended_stays(trainer: World, use: str) -> None:
    await trainer.upload("chats", lines("yes"))
    await trainer.upload("held", lines("no"))
    job = await trainer.create(name("chats"), validation_dataset=name("held"))
    dataset = "chats" if use == "training" else "held"
    async with asyncio.timeout(20):
        await trainer.worker.held.wait()
    code, reason, told, message = await trainer.refused("DeleteDataset", delete(dataset))
    assert (code, reason) == ("FAILED_PRECONDITION", "DATASET_IN_USE")
    assert told["jobs"] == job.name
    assert job.name in message
    assert await trainer.ids() == ["chats", "held"]
    await trainer.ended(job.name)
    await trainer.call("DeleteDataset", delete(dataset))
    assert dataset not in await trainer.ids()


async def test_a_dataset_of_a_paused_job_or_a_waiting_sweep_stays(trainer: World) -> None:
    await trainer.upload("chats", lines(*map(str, range(60))))
    job = await trainer.create(name("chats"))
    async with asyncio.timeout(20):
        await trainer.worker.held.wait()
    await trainer.call("PauseJob", pb.PauseJobRequest(name=job.name))
    spec = job_pb2.JobSpec(training_dataset=name("chats"), adapter=f"{ACME}/adapters/voice")
    asked = sweep_pb2.Sweep(spec=spec, space=sweep_pb2.SearchSpace(ranks=[8, 16]))
    request = pb.CreateSweepRequest(parent=ACME, sweep=asked, sweep_id="ranks")
    sweep = (await trainer.call("CreateSweep", request)).sweep
    _, reason, told, _ = await trainer.refused("DeleteDataset", delete("chats"))
    assert (reason, told["jobs"]) == ("DATASET_IN_USE", f"{job.name}, {sweep.name}")
    await trainer.call("CancelSweep", pb.CancelSweepRequest(name=sweep.name))
    await trainer.call("CancelJob", pb.CancelJobRequest(name=job.name))
    await trainer.ended(sweep.job)
    await trainer.ended(job.name)
    await trainer.call("DeleteDataset", delete("chats"))


async def test_of_many_jobs_a_few_are_named(trainer: World) -> None:
    await trainer.upload("chats", lines("yes"))
    jobs = [(await trainer.create(name("chats"))).name for _ in range(5)]
    _, _, told, message = await trainer.refused("DeleteDataset", delete("chats"))
    assert told["jobs"] == ", ".join(jobs[:3]) + ", …"
    assert jobs[4] not in message


async def test_another_tenant_s_job_holds_no_dataset(trainer: World) -> None:
    """However it names it: no tenant can keep another from deleting."""
    await trainer.upload("chats", lines("yes"), OTHER)
    await trainer.upload("chats", lines("yes"))
    await trainer.create(name("chats"))
    request = pb.DeleteDatasetRequest(name=name("chats", OTHER))
    await trainer.call("DeleteDataset", request, caller="other")
    assert not await trainer.keys(f"{OTHER}/datasets")
    assert await trainer.ids() == ["chats"]


async def test_a_job_and_a_deletion_at_once_end_in_order(trainer: World) -> None:
    """Either the job is there and its dataset too, or neither is."""
    outcomes = set()
    for turn in range(12):
        dataset = f"d{turn}"
        await trainer.upload(dataset, lines("yes"))
        outcome: tuple[Any, Any] = await asyncio.gather(
            trainer.create(name(dataset)),
            trainer.call("DeleteDataset", delete(dataset)),
            return_exceptions=True,
        )
        failed = [isinstance(each, grpc.aio.AioRpcError) for each in outcome]
        assert failed.count(True) == 1, outcome
        there = dataset in await trainer.ids()
        assert there == failed[1]
        outcomes.add(there)
    assert outcomes


async def test_an_upload_and_a_deletion_at_once_end_whole(trainer: World) -> None:
    """Whichever is first, what is there is whole: its data, its digests and its record."""
    for turn in range(12):
        await trainer.upload("chats", lines("yes"))
        outcome: tuple[Any, Any] = await asyncio.gather(
            trainer.call("DeleteDataset", delete("chats")),
            trainer.upload("chats", lines("yes", *"ab"[: turn % 2])),
            return_exceptions=True,
        )
        there = await trainer.keys(f"{ACME}/datasets")
        if not there:
            assert turn % 2 == 0 or isinstance(outcome[1], grpc.aio.AioRpcError)
            continue
        dataset = (await trainer.call("GetDataset", get("chats"))).dataset
        sha = dataset.sha256
        files = [f"data-{sha}.jsonl", f"index-{sha}-prompt_completion.bin", "meta.json"]
        assert there == [f"{name('chats')}/{file}" for file in files]
        await trainer.call("DeleteDataset", delete("chats"))


async def test_a_job_whose_data_goes_while_it_is_checked_is_not_made(
    trainer: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trainer.upload("chats", lines("yes"))
    await trainer.upload("held", lines("no"))
    held = DatasetName("acme", "held")
    compare = trainer.datasets.leakage

    async def compared(*given: Any) -> Any:
        found = await compare(*given)
        await trainer.datasets.delete(held)
        if replaced:
            await trainer.upload("held", lines("other"))
        return found

    monkeypatch.setattr(trainer.datasets, "leakage", compared)
    for replaced in (False, True):
        spec = job_pb2.JobSpec(
            training_dataset=name("chats"),
            validation_dataset=name("held"),
            adapter=f"{ACME}/adapters/voice",
        )
        request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec))
        code, reason, _, message = await trainer.refused("CreateJob", request)
        assert (code, reason) == ("NOT_FOUND", "DATASET_NOT_FOUND")
        assert message == f"{held} does not exist"
        assert not (await trainer.call("ListJobs", pb.ListJobsRequest(parent=ACME))).jobs
        if not replaced:
            await trainer.upload("held", lines("no"))


async def test_uploads_deletions_and_jobs_take_turns(trainer: World) -> None:
    await trainer.upload("chats", lines("yes"))
    async with trainer.datasets.turn(DatasetName("acme", "chats")):
        waiting = [
            asyncio.create_task(trainer.upload("chats", lines("yes"))),
            asyncio.create_task(trainer.call("DeleteDataset", delete("chats"))),
            asyncio.create_task(trainer.create(name("chats"))),
        ]
        # Of other datasets nobody waits.
        await trainer.upload("other", lines("yes"))
        await trainer.create(name("other"))
        assert not any(task.done() for task in waiting)
    await asyncio.wait(waiting)
    uploaded, deleted, made = (task.exception() is None for task in waiting)
    # A deletion after the job is refused, and a job after the deletion finds nothing, unless the
    # upload came between them.
    assert uploaded
    assert deleted or made
    assert not made or "chats" in await trainer.ids()
