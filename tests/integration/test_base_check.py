"""A job that its base cannot have is refused when it is created, over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from tailorbird.object_store import ObstoreStore
from tailorbird.tuning.v1 import job_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.dataset_world import ACME, World, lines, name, world
from tests.integration.test_trainer_api import BASE, RECORD

BARE = replace(BASE, has_chat_template=False, linear_modules=frozenset({"q_proj", "v_proj"}))


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[World]:
    async with world(object_store, tmp_path, {}, base=BARE) as trainer:
        await trainer.upload("chats", RECORD)
        await trainer.upload("prompts", lines("one", "two"))
        yield trainer


def spec(training: str, validation: str = "", *targets: str) -> job_pb2.JobSpec:
    asked = job_pb2.JobSpec(
        training_dataset=name(training),
        adapter=f"{ACME}/adapters/voice",
        lora=job_pb2.LoraConfig(target_modules=targets),
    )
    if validation:
        asked.validation_dataset = name(validation)
    return asked


@pytest.mark.parametrize("validate_only", [True, False])
@pytest.mark.parametrize("field", ["training_dataset", "validation_dataset"])
async def test_chats_are_refused_where_the_base_has_no_template(
    trainer: World, field: str, validate_only: bool
) -> None:
    asked = spec("chats") if field == "training_dataset" else spec("prompts", "chats")
    create = pb.CreateJobRequest(
        parent=ACME, job=job_pb2.Job(spec=asked), validate_only=validate_only
    )
    code, reason, metadata, message = await trainer.refused("CreateJob", create)
    assert (code, reason) == ("FAILED_PRECONDITION", "BASE_HAS_NO_CHAT_TEMPLATE")
    assert metadata["field"] == f"job.spec.{field}"
    assert "train it on prompt and completion records" in message
    assert not (await trainer.call("ListJobs", pb.ListJobsRequest(parent=ACME))).jobs


async def test_instructions_are_chats(trainer: World) -> None:
    await trainer.upload("told", json.dumps({"instruction": "a", "output": "b"}).encode())
    create = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec("told")))
    _, reason, _, _ = await trainer.refused("CreateJob", create)
    assert reason == "BASE_HAS_NO_CHAT_TEMPLATE"


async def test_a_sweep_is_held_to_the_same(trainer: World) -> None:
    await trainer.upload("many", b"\n".join([RECORD] * 60))
    space = sweep_pb2.SearchSpace(ranks=[8, 16])
    for asked, reason in (
        (spec("many"), "BASE_HAS_NO_CHAT_TEMPLATE"),
        (spec("prompts", "", "o_proj"), "UNKNOWN_TARGET_MODULE"),
    ):
        create = pb.CreateSweepRequest(parent=ACME, sweep=sweep_pb2.Sweep(spec=asked, space=space))
        assert (await trainer.refused("CreateSweep", create))[1] == reason


async def test_layers_that_the_base_has_not_are_refused(trainer: World) -> None:
    asked = spec("prompts", "", "q_proj", "gate_up_proj")
    create = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=asked))
    code, reason, metadata, message = await trainer.refused("CreateJob", create)
    assert (code, reason) == ("INVALID_ARGUMENT", "UNKNOWN_TARGET_MODULE")
    assert metadata["field"] == "job.spec.lora.target_modules"
    assert message.endswith("has no linear layer gate_up_proj; it has q_proj, v_proj")


async def test_what_it_can_have_it_gets(trainer: World) -> None:
    asked = spec("prompts", "", "q_proj")
    await trainer.call("CreateJob", pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=asked)))
