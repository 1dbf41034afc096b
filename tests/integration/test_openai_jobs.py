"""/v1/fine_tuning/jobs on a real socket: jobs as gRPC makes them, with scripted workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tailorbird.object_store import ObstoreStore
from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.dataset_world import ACME, World, lines, world
from tests.integration.test_trainer_api import BASE, VERSION, WITH_WEIGHTS
from tests.unit.trainer_svc.values import put_version
from trainer_svc.jobs.events import CheckpointSaved, Evaluation, JobWarning
from trainer_svc.jobs.learning_rate import auto_learning_rate
from trainer_svc.jobs.model import LoraSpec
from trainer_svc.protocol import Reported

DATA = lines("yes", "no")
FILE = "file-voices"
JOB: dict[str, Any] = {"model": "base", "training_file": FILE}
USUAL = auto_learning_rate(BASE.hidden_size, LoraSpec())


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}) as one:
        await one.upload("voices", DATA)
        yield one


@pytest.fixture
async def client(trainer: World) -> AsyncIterator[httpx.AsyncClient]:
    async with trainer.client() as client:
        yield client


async def create(client: httpx.AsyncClient, key: str = "", **fields: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    told = await client.post("/fine_tuning/jobs", json=JOB | fields, headers=headers)
    assert told.status_code == 200, told.text
    return told.json()


async def refused(client: httpx.AsyncClient, **fields: Any) -> tuple[int, str, str | None, str]:
    told = await client.post("/fine_tuning/jobs", json=JOB | fields)
    error = told.json()["error"]
    return told.status_code, error["code"], error["param"], error["message"]


def name_of(job: Any) -> str:
    return f"{ACME}/jobs/{job['id'].removeprefix('ftjob-')}"


async def grpc_job(trainer: World, job: Any) -> Any:
    return (await trainer.call("GetJob", pb.GetJobRequest(name=name_of(job)))).job


async def page(client: httpx.AsyncClient, path: str, **query: Any) -> tuple[list[Any], bool]:
    told = await client.get(path, params=query)
    assert told.status_code == 200, told.text
    assert told.json()["object"] == "list"
    return told.json()["data"], told.json()["has_more"]


async def until(trainer: World, job: Any, kind: str) -> None:
    """Wait for an event of a job."""
    request = pb.WatchJobRequest(name=name_of(job))
    stream = trainer.stub.WatchJob(request, metadata=(("authorization", "Bearer acme"),))
    async with asyncio.timeout(20):
        async for response in stream:
            if response.event.WhichOneof("event") == kind:
                stream.cancel()
                return


async def test_what_is_asked_for_is_a_job_of_ours(
    trainer: World, client: httpx.AsyncClient
) -> None:
    await trainer.upload("held", lines("maybe"))
    job = await create(
        client,
        suffix="support",
        validation_file="file-held",
        seed=7,
        metadata={"team": "blue"},
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 3,
                    "batch_size": "auto",
                    "learning_rate_multiplier": 0.5,
                }
            },
        },
        integrations=[],
    )
    asked = (await grpc_job(trainer, job)).spec
    assert asked.base_model == "base"
    assert asked.training_dataset == f"{ACME}/datasets/voices"
    assert asked.validation_dataset == f"{ACME}/datasets/held"
    assert asked.adapter == f"{ACME}/adapters/support"
    assert (asked.hyperparameters.epochs, asked.hyperparameters.seed) == (3, 7)
    assert asked.hyperparameters.learning_rate == pytest.approx(USUAL / 2)
    assert dict(asked.labels) == {"team": "blue"}
    # What is not asked for is as a caller of gRPC has it who leaves it out.
    assert asked.promotion_policy == job_pb2.PROMOTION_POLICY_AUTO_IF_BETTER
    assert job.pop("created_at") > 1_700_000_000
    assert job.pop("id").startswith("ftjob-")
    assert job.pop("status") in ("queued", "validating_files", "running")
    hyperparameters = {"n_epochs": 3, "batch_size": "auto", "learning_rate_multiplier": 0.5}
    assert job == {
        "object": "fine_tuning.job",
        "finished_at": None,
        "model": "base",
        "fine_tuned_model": None,
        "organization_id": "acme",
        "training_file": FILE,
        "validation_file": "file-held",
        "result_files": [],
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": 7,
        "user_provided_suffix": "support",
        "metadata": {"team": "blue"},
        "integrations": [],
        "trained_tokens": None,
        "estimated_finish": None,
        "error": None,
    }


async def test_the_least_that_is_asked_for(trainer: World, client: httpx.AsyncClient) -> None:
    auto = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    asking: list[dict[str, Any]] = [
        {},
        {"hyperparameters": auto},
        {"method": {"type": "supervised"}},
    ]
    for given in asking:
        job = await create(client, **given)
        assert job["hyperparameters"] == auto
        asked = (await grpc_job(trainer, job)).spec
        # The file's own name, where no suffix is given.
        assert asked.adapter == f"{ACME}/adapters/voices"
        assert asked.hyperparameters == job_pb2.Hyperparameters()


async def test_a_job_goes_on_to_a_model(trainer: World, client: httpx.AsyncClient) -> None:
    job = await create(client, hyperparameters={"n_epochs": 2})
    await until(trainer, job, "prepared")
    path = f"/fine_tuning/jobs/{job['id']}"
    shown = (await client.get(path)).json()
    assert (shown["fine_tuned_model"], shown["finished_at"]) == (None, None)
    await trainer.ended(name_of(job))
    shown = (await client.get(path)).json()
    assert (shown["status"], shown["error"]) == ("succeeded", None)
    assert shown["fine_tuned_model"] == (await grpc_job(trainer, job)).version
    assert shown["fine_tuned_model"].startswith(f"{ACME}/adapters/voices/versions/")
    assert shown["finished_at"] >= shown["created_at"]


async def test_a_failed_job_says_why(trainer: World, client: httpx.AsyncClient) -> None:
    job = await create(client)
    await until(trainer, job, "prepared")
    trainer.worker.fail(reason="LOSS_NOT_FINITE")
    await trainer.ended(name_of(job))
    shown = (await client.get(f"/fine_tuning/jobs/{job['id']}")).json()
    assert shown["status"] == "failed"
    assert shown["error"] == {
        "code": "LOSS_NOT_FINITE",
        "message": "as the test wants",
        "param": None,
    }
    events, _ = await page(client, f"/fine_tuning/jobs/{job['id']}/events")
    assert (events[0]["level"], events[0]["type"]) == ("error", "message")
    assert events[0]["message"] == "The job is FAILED: LOSS_NOT_FINITE: as the test wants"


async def test_a_job_is_paused_resumed_and_cancelled(
    trainer: World, client: httpx.AsyncClient
) -> None:
    job = await create(client)
    await until(trainer, job, "prepared")
    path = f"/fine_tuning/jobs/{job['id']}"
    assert (await client.post(f"{path}/pause")).status_code == 200
    await trainer.worker.held.wait()
    request = pb.WatchJobRequest(name=name_of(job))
    stream = trainer.stub.WatchJob(request, metadata=(("authorization", "Bearer acme"),))
    async with asyncio.timeout(20):
        async for response in stream:
            if response.event.state_changed.state == job_pb2.JOB_STATE_PAUSED:
                break
    assert (await client.get(path)).json()["status"] == "paused"
    assert (await client.post(f"{path}/resume")).json()["status"] == "queued"
    assert (await client.post(f"{path}/cancel")).status_code == 200
    await trainer.ended(name_of(job))
    shown = (await client.get(path)).json()
    assert (shown["status"], shown["fine_tuned_model"]) == ("cancelled", None)
    # Once more is as well.
    assert (await client.post(f"{path}/cancel")).status_code == 200
    for verb in ("pause", "resume"):
        told = await client.post(f"{path}/{verb}")
        assert told.status_code == 400
        assert told.json()["error"]["type"] == "invalid_request_error"


async def test_jobs_are_listed_in_pages(trainer: World, client: httpx.AsyncClient) -> None:
    jobs = [(await create(client, suffix=f"a{n}"))["id"] for n in range(3)][::-1]

    async def ids(**query: Any) -> tuple[list[str], bool]:
        found, more = await page(client, "/fine_tuning/jobs", **query)
        return [job["id"] for job in found], more

    assert await ids() == (jobs, False)
    assert await ids(limit=2) == (jobs[:2], True)
    assert await ids(limit=2, after=jobs[1]) == (jobs[2:], False)
    assert await ids(after=jobs[2]) == ([], False)
    for query, status, param in (
        ({"limit": "0"}, 400, "limit"),
        ({"limit": "x"}, 400, "limit"),
        ({"after": "ftjob-"}, 400, "after"),
        ({"after": "ftjob-none"}, 404, None),
        ({"metadata[team]": "blue"}, 400, "metadata[team]"),
    ):
        told = await client.get("/fine_tuning/jobs", params=query)
        assert (told.status_code, told.json()["error"]["param"]) == (status, param)
    async with trainer.client("other") as other:
        assert await page(other, "/fine_tuning/jobs") == ([], False)


async def test_events_are_read_newest_first(trainer: World, client: httpx.AsyncClient) -> None:
    job = await create(client)
    await until(trainer, job, "prepared")
    await trainer.worker.held.wait()
    lease = trainer.worker.assignment.lease
    for event in (
        Evaluation(step=2, validation_loss=0.25, perplexity=1.3),
        Evaluation(step=3, validation_loss=float("inf"), perplexity=float("inf")),
        JobWarning(reason="FEW_RECORDS", message="there are two"),
        CheckpointSaved(step=3),
    ):
        trainer.worker.say(Reported(lease=lease, event=event))
    await trainer.ended(name_of(job))
    path = f"/fine_tuning/jobs/{job['id']}/events"
    events, more = await page(client, path, limit=1000)
    assert not more
    numbers = [int(event["id"].rpartition("-")[2]) for event in events]
    assert numbers == list(range(len(events), 0, -1))
    assert {event["object"] for event in events} == {"fine_tuning.job.event"}
    messages = [event["message"] for event in events[::-1]]
    assert (messages[0], messages[-1]) == ("The job is QUEUED.", "The job is SUCCEEDED.")
    by_message = {event["message"]: event for event in events}
    figures = by_message["Step 1/4: training loss=1"]
    assert (figures["type"], figures["data"]["train_loss"]) == ("metrics", 1.0)
    assert (figures["data"]["step"], figures["data"]["total_steps"]) == (1, 4)
    assert "loss" not in figures["data"]
    assert by_message["Step 2: validation loss=0.25"]["data"]["valid_loss"] == 0.25
    # JSON has no number for it.
    assert by_message["Step 3: validation loss=inf"]["data"]["valid_loss"] is None
    warned = by_message["FEW_RECORDS: there are two"]
    assert (warned["level"], warned["type"]) == ("warn", "message")
    assert any("is published" in message for message in messages)
    # Page by page they are the same.
    paged: list[Any] = []
    after: dict[str, str] = {}
    more = True
    while more:
        found, more = await page(client, path, limit=3, **after)
        paged += found
        after = {"after": found[-1]["id"]}
    assert paged == events
    assert await page(client, path, **after) == ([], False)
    wrong = await client.get(path, params={"after": "ftevent-other-3"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")


async def test_checkpoints(trainer: World, client: httpx.AsyncClient) -> None:
    job = await create(client)
    path = f"/fine_tuning/jobs/{job['id']}/checkpoints"
    assert await page(client, path) == ([], False)
    await until(trainer, job, "prepared")
    await trainer.worker.held.wait()
    lease = trainer.worker.assignment.lease
    for event in (
        CheckpointSaved(step=1),
        Evaluation(step=2, validation_loss=0.25, perplexity=1.3),
        CheckpointSaved(step=3),
    ):
        trainer.worker.say(Reported(lease=lease, event=event))
    await until(trainer, job, "evaluation")
    await trainer.ended(name_of(job))
    (new, old), more = await page(client, path)
    assert not more
    assert new.pop("created_at") > 1_700_000_000
    assert new.pop("id").startswith(f"ftckpt-{job['id'].removeprefix('ftjob-')}-")
    assert new == {
        "object": "fine_tuning.job.checkpoint",
        "fine_tuning_job_id": job["id"],
        "fine_tuned_model_checkpoint": None,
        "step_number": 3,
        "metrics": {"step": 3, "train_loss": 1.0, "full_valid_loss": 0.25},
    }
    # Nothing was validated before it.
    assert old["metrics"] == {"step": 1, "train_loss": 1.0}
    (first,), more = await page(client, path, limit=1)
    assert more
    assert first["step_number"] == 3
    assert await page(client, path, limit=1, after=first["id"]) == ([old], False)


async def test_one_key_makes_one_job(client: httpx.AsyncClient) -> None:
    job = await create(client, key="k1")
    assert (await create(client, key="k1"))["id"] == job["id"]
    assert (await create(client, key="k2"))["id"] != job["id"]
    other = await client.post(
        "/fine_tuning/jobs", json=JOB | {"seed": 5}, headers={"Idempotency-Key": "k1"}
    )
    assert (other.status_code, other.json()["error"]["code"]) == (409, "request_id_reused")
    assert other.headers["x-should-retry"] == "false"
    long = await client.post("/fine_tuning/jobs", json=JOB, headers={"Idempotency-Key": "k" * 129})
    assert (long.status_code, long.json()["error"]["param"]) == (400, "Idempotency-Key")


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"model": "gpt-4o"}, "model", "'gpt-4o' is not offered; this trainer has 'base'"),
        (
            {"model": "gpt-4o", "hyperparameters": {"learning_rate_multiplier": 2}},
            "model",
            "'gpt-4o' is not offered",
        ),
        ({"model": ""}, "model", "it is empty"),
        ({"model": None}, "model", "it is needed"),
        ({"model": f"{ACME}/adapters/x/versions/UP"}, "model", "is not of the form"),
        ({"training_file": None}, "training_file", "it is needed"),
        ({"training_file": "voices"}, "training_file", "'voices' is no id"),
        ({"training_file": f"file-{ACME}"}, "training_file", "is no id"),
        ({"validation_file": "file-UP"}, "validation_file", "is no id"),
        ({"validation_file": FILE}, "validation_file", "training"),
        ({"suffix": "My Model"}, "suffix", "My Model"),
        ({"suffix": 5}, "suffix", "5 is not a string"),
        ({"seed": 2**31}, "seed", "2147483648"),
        ({"seed": -1}, "seed", "-1"),
        ({"metadata": {"a": 5}}, "metadata", "'a': 5 is not a string"),
        ({"metadata": {"a" * 64: "b"}}, "metadata", "63"),
        ({"integrations": [{"type": "wandb"}]}, "integrations", "events"),
        ({"n_epochs": 3}, "n_epochs", "knows no such field"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "0 is not at least 1"),
        ({"hyperparameters": {"n_epochs": "x"}}, "hyperparameters.n_epochs", "'x'"),
        ({"hyperparameters": {"batch_size": 8}}, "hyperparameters.batch_size", "tokens"),
        (
            {"hyperparameters": {"learning_rate_multiplier": -1}},
            "hyperparameters.learning_rate_multiplier",
            "-1 times the usual rate",
        ),
        (
            {"hyperparameters": {"learning_rate_multiplier": 1e9}},
            "hyperparameters.learning_rate_multiplier",
            "at most 1",
        ),
        ({"hyperparameters": {"beta": 1}}, "hyperparameters.beta", "knows no such field"),
        ({"method": {"type": "dpo"}}, "method.type", "'dpo' is not supported"),
        ({"method": {"dpo": {}}}, "method.dpo", "knows no such field"),
        (
            {"method": {"supervised": {"hyperparameters": {"n_epochs": 2000}}}},
            "method.supervised.hyperparameters.n_epochs",
            "2000 is not",
        ),
        (
            {"hyperparameters": {}, "method": {"supervised": {"hyperparameters": {}}}},
            "hyperparameters",
            "there only",
        ),
        ({"method": {"supervised": {"x": 1}}}, "method.supervised.x", "knows no such field"),
    ],
)
async def test_a_field_that_is_wrong_is_named_as_it_was_given(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, said: str
) -> None:
    status, _, named, message = await refused(client, **fields)
    assert (status, named) == (400, param)
    assert said in message
    assert "job.spec" not in message
    assert await page(client, "/fine_tuning/jobs") == ([], False)


async def test_a_job_may_go_on_from_a_version(trainer: World, client: httpx.AsyncClient) -> None:
    await put_version(trainer.store, VERSION, **WITH_WEIGHTS)
    for model in (VERSION, VERSION.removeprefix(f"{ACME}/adapters/")):
        job = await create(client, model=model)
        assert job["model"] == VERSION
        assert (await grpc_job(trainer, job)).spec.from_version == VERSION
    multiplied = await refused(
        client, model=VERSION, hyperparameters={"learning_rate_multiplier": 2}
    )
    assert multiplied[:3] == (400, "unsupported", "hyperparameters.learning_rate_multiplier")
    gone = await refused(client, model="voice/versions/20260101T000000-none-1")
    assert gone[:2] == (404, "version_not_found")
    # Another tenant's is not there either, whether there is one or not.
    theirs = VERSION.replace("acme", "other")
    none = await refused(client, model=theirs)
    await put_version(trainer.store, theirs, **WITH_WEIGHTS)
    assert none == await refused(client, model=theirs)
    assert none[0] == 404


async def test_files_and_jobs_of_others_are_as_none(
    trainer: World, client: httpx.AsyncClient
) -> None:
    job = await create(client)
    async with trainer.client("other") as other:
        told = await other.post("/fine_tuning/jobs", json=JOB)
        assert (told.status_code, told.json()["error"]["code"]) == (404, "dataset_not_found")
        for method, path in (
            ("GET", ""),
            ("GET", "/events"),
            ("GET", "/checkpoints"),
            ("POST", "/cancel"),
            ("POST", "/pause"),
            ("POST", "/resume"),
        ):
            theirs = await other.request(method, f"/fine_tuning/jobs/{job['id']}{path}")
            none = await other.request(method, f"/fine_tuning/jobs/ftjob-none{path}")
            assert theirs.status_code == none.status_code == 404
            same = theirs.json()["error"]["message"].replace(job["id"][6:], "none")
            assert same == none.json()["error"]["message"]
            assert (await other.request(method, f"/fine_tuning/jobs/x{path}")).status_code == 404
        told = await other.get("/fine_tuning/jobs", params={"after": job["id"]})
        assert told.status_code == 404
    shown = (await client.get(f"/fine_tuning/jobs/{job['id']}")).json()
    assert shown["status"] != "cancelled"


async def test_a_body_that_is_none(client: httpx.AsyncClient) -> None:
    for body, kind, status, code in (
        (b'{"model": "' + b"x" * 2**19 + b'"}', "application/json", 413, "body_too_large"),
        (b"{", "application/json", 400, "malformed_request"),
        (b"{}", "text/plain", 415, "not_json_type"),
    ):
        told = await client.post("/fine_tuning/jobs", content=body, headers={"content-type": kind})
        assert (told.status_code, told.json()["error"]["code"]) == (status, code)
