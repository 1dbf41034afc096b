"""A sweep's data over a real socket: held to the limits of a job's, warned of like a job's."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
import pytest

from tailorbird.rpc.status import reason_of
from tailorbird.tuning.v1 import job_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tests.integration.test_data_api import lines
from tests.integration.test_sweeps import ACME, Trainer, a_sweep, token, trainer
from tests.integration.test_trainer_api import metadata, violation
from tests.unit.trainer_svc.datasets.report.planted import clean, pairs

__all__ = ["trainer"]

REASONS = ["DUPLICATE_RECORDS", "VALIDATION_LEAKAGE"]


async def put(
    trainer: Trainer, dataset: str, pairs_: Iterable[tuple[str, str]], parent: str = ACME
) -> str:
    header = pb.UploadDatasetHeader(parent=parent, dataset_id=dataset)
    messages = [
        pb.UploadDatasetRequest(header=header),
        pb.UploadDatasetRequest(chunk=lines(pairs(*pairs_))),
    ]
    caller = parent.removeprefix("tenants/")
    await trainer.stub.UploadDataset(iter(messages), metadata=token(caller))
    return f"{parent}/datasets/{dataset}"


async def leaking(trainer: Trainer, **spec: object) -> sweep_pb2.Sweep:
    """A sweep on 100 records, 5 of them twice, of which 3 stand in the validation data too."""
    given = clean(100)
    given[90:95] = given[:5]
    held = given[:3] + clean(17, seed=1)
    return a_sweep(
        {
            "training_dataset": await put(trainer, "doubled", given),
            "validation_dataset": await put(trainer, "held", held),
            **spec,
        }
    )


async def test_a_sweeps_history_begins_with_what_its_data_is_warned_of(trainer: Trainer) -> None:
    request = pb.CreateSweepRequest(parent=ACME, sweep=await leaking(trainer), request_id="r")
    response = await trainer.call("CreateSweep", request)
    assert [one.reason for one in response.warnings] == REASONS
    assert "3 of 20 records (15.0%) of the validation data" in response.warnings[1].message
    again = await trainer.call("CreateSweep", request)
    assert (again.sweep.name, list(again.warnings)) == (response.sweep.name, [])
    events = await trainer.watch(response.sweep.job)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.warning.reason for event in events[1:3]] == REASONS
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("validate_only", [False, True])
async def test_data_above_a_limit_makes_no_sweep(trainer: Trainer, validate_only: bool) -> None:
    limits = {"max_leakage": 0.1, "max_exact_duplicates": 0.01}
    asked = await leaking(trainer, data_limits=limits)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.create(asked, validate_only=validate_only)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason_of(caught.value) == "DATA_LIMIT_EXCEEDED"
    assert metadata(caught.value)["field"] == "sweep.spec.data_limits.max_exact_duplicates"
    said = str(caught.value.details())
    assert "sweep.spec.data_limits.max_leakage is 0.1" in said
    assert "job.spec" not in said
    listed = await trainer.call("ListSweeps", pb.ListSweepsRequest(parent=ACME))
    assert not listed.sweeps


async def test_validate_only_says_what_the_sweep_would_be_warned_of(trainer: Trainer) -> None:
    request = pb.CreateSweepRequest(parent=ACME, sweep=await leaking(trainer), validate_only=True)
    response = await trainer.call("CreateSweep", request)
    assert [one.reason for one in response.warnings] == REASONS
    assert len(response.sweep.trials) == 4


async def test_every_trial_has_the_sweeps_rules_for_data(trainer: Trainer) -> None:
    policy = job_pb2.DataPolicy(too_long=job_pb2.TOO_LONG_TRUNCATE, max_too_long_fraction=0.5)
    made = await trainer.create(await leaking(trainer, data=policy))
    await trainer.watch(made.job)
    (assignment,) = trainer.executor.started[0]._assignments.values()
    assert (assignment.data.too_long, assignment.data.max_too_long_fraction) == ("TRUNCATE", 0.5)
    assert (await trainer.get(made.name)).spec.data == policy


@pytest.mark.parametrize("field", ["training_dataset", "validation_dataset"])
async def test_another_tenants_data_is_not_looked_at(trainer: Trainer, field: str) -> None:
    """A number of its records would tell of it."""
    name = await put(trainer, "theirs", clean(10), parent="tenants/other")
    for given in (name, f"{ACME}x/datasets/none"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trainer.create(a_sweep({field: given}))
        assert reason_of(caught.value) == "WRONG_TENANT"
        assert violation(caught.value)[0] == f"sweep.spec.{field}"
