"""OpenAI's own clients, for Python and for Node, against a trainer with scripted workers."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from serving_svc.http.naming import named
from tailorbird.object_store import ObstoreStore
from tailorbird.rpc.auth import Caller
from tests.integration.dataset_world import ACME, World, lines, world
from tests.node import ROOT, node_modules

DATA = lines("yes", "no")
BROKEN = DATA + b'{"prompt": "x"}\n'


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}) as one:
        yield one


def client_of(trainer: World, token: str = "acme", **more: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=trainer.openai_url, api_key=token, max_retries=0, **more)


@pytest.fixture
async def client(trainer: World) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(trainer) as client:
        yield client


async def test_from_a_file_to_a_model(trainer: World, client: openai.AsyncOpenAI) -> None:
    file = await client.files.create(file=("chats.jsonl", DATA), purpose="fine-tune")
    assert (file.filename, file.bytes, file.status) == ("chats.jsonl", len(DATA), "processed")
    assert (await client.files.retrieve(file.id)) == file
    assert (await client.files.wait_for_processing(file.id)) == file
    assert (await client.files.content(file.id)).content == DATA
    held = await client.files.create(file=("held.jsonl", lines("maybe")), purpose="fine-tune")
    assert [one.id async for one in client.files.list(limit=1)] == [file.id, held.id]

    jobs = client.fine_tuning.jobs
    job = await jobs.create(
        model="base",
        training_file=file.id,
        validation_file=held.id,
        suffix="support",
        seed=7,
        metadata={"team": "blue"},
        method={
            "type": "supervised",
            "supervised": {"hyperparameters": {"n_epochs": 2, "learning_rate_multiplier": 2}},
        },
    )
    assert (job.organization_id, job.seed, job.metadata) == ("acme", 7, {"team": "blue"})
    assert job.method is not None
    assert job.method.supervised is not None
    assert job.method.supervised.hyperparameters is not None
    assert job.method.supervised.hyperparameters.n_epochs == 2
    await trainer.ended(f"{ACME}/jobs/{job.id.removeprefix('ftjob-')}")
    done = await jobs.retrieve(job.id)
    assert done.status == "succeeded"
    assert done.fine_tuned_model is not None
    assert done.fine_tuned_model.startswith(f"{ACME}/adapters/support/versions/")
    # Serving takes it for the version.
    caller = Caller("acme", frozenset({"acme"}))
    assert str(named(done.fine_tuned_model, {}, caller, "base").version) == done.fine_tuned_model
    messages = [event.message async for event in jobs.list_events(job.id, limit=2)]
    assert (messages[-1], messages[0]) == ("The job is QUEUED.", "The job is SUCCEEDED.")
    figures = [event async for event in jobs.list_events(job.id) if event.type == "metrics"]
    assert [event.data["step"] for event in figures] == [4, 3, 2, 1]  # type: ignore[index]
    assert [one async for one in jobs.checkpoints.list(job.id)] == []
    assert [one.id async for one in jobs.list(limit=1)] == [job.id]
    assert (await client.files.delete(held.id)).deleted


async def test_a_job_is_cancelled_paused_and_resumed(
    trainer: World, client: openai.AsyncOpenAI
) -> None:
    file = await client.files.create(file=("chats.jsonl", DATA), purpose="fine-tune")
    jobs = client.fine_tuning.jobs
    job = await jobs.create(model="base", training_file=file.id)
    assert (await jobs.pause(job.id)).id == job.id
    assert (await jobs.resume(job.id)).id == job.id
    await jobs.cancel(job.id)
    await trainer.ended(f"{ACME}/jobs/{job.id.removeprefix('ftjob-')}")
    assert (await jobs.retrieve(job.id)).status == "cancelled"


async def test_refusals_are_the_clients_own_errors(
    trainer: World, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError, match="line 3: ") as bad:
        await client.files.create(file=("chats.jsonl", BROKEN), purpose="fine-tune")
    assert bad.value.param == "line 3"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.files.create(file=("chats.jsonl", DATA), purpose="batch")
    assert (bad.value.code, bad.value.param) == ("unsupported", "purpose")
    with pytest.raises(openai.APIStatusError) as large:
        await client.files.create(file=("a.jsonl", io.BytesIO(DATA * 50_000)), purpose="fine-tune")
    assert large.value.status_code == 413
    file = await client.files.create(file=("chats.jsonl", DATA), purpose="fine-tune")
    jobs = client.fine_tuning.jobs
    with pytest.raises(openai.BadRequestError, match="did you mean metadata") as bad:
        await jobs.create(model="base", training_file=file.id, extra_body={"metadat": {}})
    assert (bad.value.code, bad.value.param) == ("unknown_field", "metadat")
    with pytest.raises(openai.BadRequestError, match="batch_size: 8 is not supported"):
        await jobs.create(model="base", training_file=file.id, hyperparameters={"batch_size": 8})
    async with client_of(trainer, "other") as other:
        with pytest.raises(openai.NotFoundError):
            await other.files.retrieve(file.id)
        with pytest.raises(openai.NotFoundError):
            await other.fine_tuning.jobs.create(model="base", training_file=file.id)
    async with client_of(trainer, "acme+other", project="acme") as several:
        assert (await several.files.retrieve(file.id)).id == file.id
    async with client_of(trainer, "nobody") as nobody:
        with pytest.raises(openai.AuthenticationError):
            await nobody.files.list()


async def test_the_node_client(trainer: World, tmp_path: Path) -> None:
    trainer.worker.go_on()
    (tmp_path / "chats.jsonl").write_bytes(DATA)
    (tmp_path / "broken.jsonl").write_bytes(BROKEN)
    process = await asyncio.create_subprocess_exec(
        "node",
        str(ROOT / "tests" / "integration" / "openai_fine_tuning.js"),
        *(trainer.openai_url, "acme", str(tmp_path / "chats.jsonl")),
        str(tmp_path / "broken.jsonl"),
        env=os.environ | {"NODE_PATH": str(node_modules())},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0
    found = json.loads(output)
    assert found["file"] == ["chats.jsonl", len(DATA)]
    assert found["content"].encode() == DATA
    assert found["files"] == ["chats.jsonl"]
    status, model = found["job"]
    assert status == "succeeded"
    assert model.startswith(f"{ACME}/adapters/node/versions/")
    assert found["jobs"] == [True]
    assert found["messages"][-1] == "The job is QUEUED."
    assert "Step 4/4: training loss=1" in found["messages"]
    assert found["checkpoints"] == 0
    assert found["field"]["code"] == "unknown_field"
    assert found["field"]["param"] == "n_epoch"
    assert found["unknown"]["status"] == 404
    assert found["broken"]["param"] == "line 3"
    assert found["deleted"] is True
