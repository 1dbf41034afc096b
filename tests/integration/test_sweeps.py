"""Sweeps over a real socket, with a real store behind them and scripted workers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from tailorbird.feedback import FeedbackStore
from tailorbird.manifest import MANIFEST
from tailorbird.object_store import ObstoreStore
from tailorbird.profile import write_profile
from tailorbird.registry import AdapterRegistry
from tailorbird.rpc.auth import Caller, TokenVerifier
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.status import reason_of
from tailorbird.tuning.v1 import job_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.integration.test_trainer_api import BASE, OTHER, violation
from tests.unit.trainer_svc.fakes import ScriptedChecks, ScriptedExecutor
from tests.unit.trainer_svc.values import make_profile, put_version
from trainer_svc.api.servicer import TuningServicer
from trainer_svc.bases import BaseModels
from trainer_svc.datasets.store import DatasetStore
from trainer_svc.dispatch.dispatcher import Dispatcher
from trainer_svc.dispatch.publisher import Publisher
from trainer_svc.feedback.service import FeedbackService
from trainer_svc.jobs.database import Database
from trainer_svc.jobs.feed import Feed
from trainer_svc.jobs.service import TuningService
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.sweep_service import SweepService
from trainer_svc.jobs.tables import jobs
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.served import ServingLimits

ACME = "tenants/acme"
LIMIT = 2**20
RATES = [1e-4, 3e-4, 1e-3, 3e-3]


def token(name: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {name}"),)


@dataclass
class Trainer:
    stub: Any
    executor: ScriptedExecutor
    store: ObstoreStore
    jobs: JobStore

    async def call(self, method: str, request: Any, caller: str = "acme") -> Any:
        async with asyncio.timeout(20):
            return await getattr(self.stub, method)(request, metadata=token(caller))

    async def create(self, sweep: sweep_pb2.Sweep, **fields: Any) -> sweep_pb2.Sweep:
        request = pb.CreateSweepRequest(parent=ACME, sweep=sweep, **fields)
        made: sweep_pb2.Sweep = (await self.call("CreateSweep", request)).sweep
        return made

    async def get(self, name: str) -> sweep_pb2.Sweep:
        found: sweep_pb2.Sweep = (await self.call("GetSweep", pb.GetSweepRequest(name=name))).sweep
        return found

    async def watch(self, job: str) -> list[Any]:
        stream = self.stub.WatchJob(pb.WatchJobRequest(name=job), metadata=token("acme"))
        async with asyncio.timeout(20):
            return [response.event async for response in stream]

    async def upload(self, dataset: str, records: int) -> None:
        line = json.dumps({"prompt": "a", "completion": "b"}).encode() + b"\n"
        header = pb.UploadDatasetHeader(parent=ACME, dataset_id=dataset)
        messages = [
            pb.UploadDatasetRequest(header=header),
            pb.UploadDatasetRequest(chunk=line * records),
        ]
        await self.stub.UploadDataset(iter(messages), metadata=token("acme"))


@pytest.fixture
async def trainer(object_store: ObstoreStore, tmp_path: Path) -> AsyncIterator[Trainer]:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/jobs.db")
    await database.migrate()
    feed = Feed()
    jobs = JobStore(database, feed)
    datasets = DatasetStore(object_store, tmp_path / "spool", LIMIT, LIMIT)
    metrics = TrainerMetrics(CollectorRegistry())
    executor = ScriptedExecutor(object_store)
    bases = BaseModels((BASE, OTHER))
    adapters = AdapterRegistry(object_store)
    dispatcher = Dispatcher(
        jobs, datasets, adapters, executor,
        Publisher(jobs, object_store, metrics), metrics,
        bases=bases, workers=1, jobs_per_worker=8, max_worker_losses=3,
    )  # fmt: skip
    limits = ServingLimits(object_store, bases, profile="default", max_lora_rank=64, device="cpu")
    service = TuningService(
        jobs, datasets, feed, dispatcher, adapters, bases, limits, ScriptedChecks()
    )
    callers = {
        hashlib.sha256(name.encode()).hexdigest(): Caller(name, frozenset({name}))
        for name in ("acme", "other")
    }
    server = RpcServer("127.0.0.1", 0, TokenVerifier(callers), CollectorRegistry(), [])
    feedback = FeedbackService(FeedbackStore(object_store), datasets, max_record_bytes=2**20)
    servicer = TuningServicer(
        service, SweepService(service), datasets, feedback, metrics, server.endless,
        max_dataset_bytes=LIMIT, max_record_bytes=LIMIT, workers=1, jobs_per_worker=8,
        device="cpu", ready={},
    )  # fmt: skip
    pb_grpc.add_TuningServiceServicer_to_server(servicer, server.grpc)
    await server.start()
    running = asyncio.create_task(dispatcher.run())
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        trainer = Trainer(pb_grpc.TuningServiceStub(channel), executor, object_store, jobs)
        await trainer.upload("chats", 60)
        await trainer.upload("few", 49)
        yield trainer
    await dispatcher.stop()
    await running
    await server.stop(0)
    await database.close()


def a_sweep(
    spec: dict[str, Any] | None = None, space: dict[str, Any] | None = None, **fields: Any
) -> sweep_pb2.Sweep:
    common = {
        "training_dataset": f"{ACME}/datasets/chats",
        "adapter": f"{ACME}/adapters/voice",
        "promotion_policy": job_pb2.PROMOTION_POLICY_ALWAYS,
        **(spec or {}),
    }
    return sweep_pb2.Sweep(
        spec=job_pb2.JobSpec(**common),
        space=sweep_pb2.SearchSpace(**({"learning_rates": RATES} if space is None else space)),
        **fields,
    )


async def test_a_sweep_is_watched_to_its_end_and_its_best_is_published(trainer: Trainer) -> None:
    made = await trainer.create(a_sweep(), sweep_id="rates")
    assert made.name == f"{ACME}/sweeps/rates"
    assert made.job == f"{ACME}/jobs/rates"
    assert made.state == job_pb2.JOB_STATE_QUEUED
    assert made.eta == 2
    assert [
        (trial.index, trial.learning_rate, trial.rank, trial.alpha) for trial in made.trials
    ] == [(index, rate, 16, 32) for index, rate in enumerate(RATES)]
    assert [(rung.fraction, rung.keep) for rung in made.rungs] == [(0.25, 2), (0.5, 1), (1, 1)]
    events = await trainer.watch(made.job)
    assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    kinds = [event.WhichOneof("event") for event in events]
    assert (kinds.count("trial_reached"), kinds.count("rung_decided")) == (7, 3)
    decided = next(event.rung_decided for event in events if event.HasField("rung_decided"))
    assert (list(decided.going_on), list(decided.stopped)) == ([0, 1], [2, 3])
    found = await trainer.get(made.name)
    assert found.state == job_pb2.JOB_STATE_SUCCEEDED
    assert found.promoted
    assert found.rungs_decided == 3
    assert [trial.state for trial in found.trials] == [
        sweep_pb2.TRIAL_STATE_BEST,
        *[sweep_pb2.TRIAL_STATE_STOPPED] * 3,
    ]
    assert [trial.stop_reason for trial in found.trials] == ["", "HALVED", "HALVED", "HALVED"]
    assert [trial.step for trial in found.trials] == [8, 4, 2, 2]
    assert [[rung.validation_loss for rung in trial.rungs] for trial in found.trials] == [
        pytest.approx(losses) for losses in ([1.0, 0.99, 0.98], [1.1, 1.09], [1.2], [1.3])
    ]
    job = (await trainer.call("GetJob", pb.GetJobRequest(name=made.job))).job
    assert (job.sweep, job.version) == (made.name, found.version)
    stored = [info.key async for info in trainer.store.objects(ACME)]
    assert [key for key in stored if key.endswith(MANIFEST)] == [f"{found.version}/{MANIFEST}"]


async def test_sweeps_are_listed_newest_first_page_by_page(trainer: Trainer) -> None:
    for name in ("first", "second", "third"):
        await trainer.create(a_sweep(), sweep_id=name)
    request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=a_sweep().spec))
    await trainer.call("CreateJob", request)
    page = await trainer.call("ListSweeps", pb.ListSweepsRequest(parent=ACME, page_size=2))
    assert [sweep.name for sweep in page.sweeps] == [
        f"{ACME}/sweeps/{n}" for n in ("third", "second")
    ]
    rest = await trainer.call(
        "ListSweeps",
        pb.ListSweepsRequest(parent=ACME, page_size=2, page_token=page.next_page_token),
    )
    assert [sweep.name for sweep in rest.sweeps] == [f"{ACME}/sweeps/first"]
    assert not rest.next_page_token


async def test_a_page_of_sweeps_is_never_too_large_for_a_client(trainer: Trainer) -> None:
    """Of a hundred at most; a default client takes messages of up to 4 MiB."""
    rates = [0.5 / number for number in range(1, 33)]
    await trainer.create(a_sweep(space={"learning_rates": rates}))
    database = trainer.jobs._database
    async with database.write() as connection:
        row = (await connection.execute(sa.select(jobs))).one()
        for number in range(104):
            copy = {**row._asdict(), "job": f"copy-{number}", "state": "SUCCEEDED"}
            await connection.execute(sa.insert(jobs).values(copy))
    page = await trainer.call("ListSweeps", pb.ListSweepsRequest(parent=ACME, page_size=1000))
    assert len(page.sweeps) == 100
    request = pb.ListSweepsRequest(parent=ACME, page_size=1000, page_token=page.next_page_token)
    rest = await trainer.call("ListSweeps", request)
    assert len({each.name for each in (*page.sweeps, *rest.sweeps)}) == 105
    assert not rest.next_page_token


async def test_a_sweep_is_cancelled_with_all_its_trials(trainer: Trainer) -> None:
    await trainer.watch((await trainer.create(a_sweep())).job)
    worker = trainer.executor.started[0]
    worker.hold = "reached-1-1"
    made = await trainer.create(a_sweep(), sweep_id="long")
    async with asyncio.timeout(20):
        await worker.held.wait()
    await trainer.call("CancelSweep", pb.CancelSweepRequest(name=made.name))
    await trainer.watch(made.job)
    found = await trainer.get(made.name)
    assert found.state == job_pb2.JOB_STATE_CANCELLED
    assert not found.version
    assert [trial.stop_reason for trial in found.trials] == [
        "SWEEP_CANCELLED", "SWEEP_CANCELLED", "HALVED", "HALVED",
    ]  # fmt: skip
    again = await trainer.call("CancelSweep", pb.CancelSweepRequest(name=made.name))
    assert again.sweep == found


async def test_nothing_of_another_tenants_dataset_is_shown(trainer: Trainer) -> None:
    for dataset in ("chats", "none"):
        request = pb.GetDatasetReportRequest(name=f"{ACME}/datasets/{dataset}")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trainer.call("GetDatasetReport", request, caller="other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_nothing_of_another_tenants_sweep_is_seen(trainer: Trainer) -> None:
    made = await trainer.create(a_sweep())
    for method, request in (
        ("GetSweep", pb.GetSweepRequest(name=made.name)),
        ("CancelSweep", pb.CancelSweepRequest(name=made.name)),
        ("ListSweeps", pb.ListSweepsRequest(parent=ACME)),
        ("CreateSweep", pb.CreateSweepRequest(parent=ACME, sweep=a_sweep())),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trainer.call(method, request, caller="other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await trainer.get(made.name)).state != job_pb2.JOB_STATE_CANCELLED
    listed = await trainer.call(
        "ListSweeps", pb.ListSweepsRequest(parent="tenants/other"), caller="other"
    )
    assert not listed.sweeps


async def test_a_job_of_its_own_is_no_sweep(trainer: Trainer) -> None:
    request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=a_sweep().spec), job_id="plain")
    job = (await trainer.call("CreateJob", request)).job
    assert not job.sweep
    for name in ("plain", "none"):
        for method, kind in (
            ("GetSweep", pb.GetSweepRequest),
            ("CancelSweep", pb.CancelSweepRequest),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await trainer.call(method, kind(name=f"{ACME}/sweeps/{name}"))
            assert reason_of(caught.value) == "SWEEP_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.create(a_sweep(), sweep_id="plain")
    assert reason_of(caught.value) == "JOB_EXISTS"
    found = (await trainer.call("GetJob", pb.GetJobRequest(name=job.name))).job
    assert found.state != job_pb2.JOB_STATE_CANCELLED


async def test_the_same_request_makes_one_sweep(trainer: Trainer) -> None:
    made = await trainer.create(a_sweep(), request_id="r1")
    assert (await trainer.create(a_sweep(), request_id="r1")).name == made.name
    for other in (a_sweep(eta=3), a_sweep(seed=1), a_sweep(space={"ranks": [8, 16]})):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trainer.create(other, request_id="r1")
        assert reason_of(caught.value) == "REQUEST_ID_REUSED"
    request = pb.CreateJobRequest(
        parent=ACME, job=job_pb2.Job(spec=a_sweep().spec), request_id="r1"
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.call("CreateJob", request)
    assert reason_of(caught.value) == "REQUEST_ID_REUSED"


async def test_a_request_that_was_accepted_is_not_held_to_new_rules(trainer: Trainer) -> None:
    made = await trainer.create(a_sweep(), request_id="r1")
    await write_profile(trainer.store, make_profile(BASE, rank=8))
    assert (await trainer.create(a_sweep(), request_id="r1")).name == made.name
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.create(a_sweep(), request_id="r2")
    assert violation(caught.value)[0] == "sweep.spec.lora.rank"


async def test_validate_only_shows_the_trials_and_stores_nothing(trainer: Trainer) -> None:
    space = {"ranks": [8, 16, 32], "epochs": [1, 2, 3]}
    shown = await trainer.create(
        a_sweep(space=space, random_trials=5, seed=7), sweep_id="x", validate_only=True
    )
    assert len(shown.trials) == 5
    assert all(trial.alpha == 2 * trial.rank for trial in shown.trials)
    assert not shown.spec.lora.HasField("rank")
    listed = await trainer.call("ListSweeps", pb.ListSweepsRequest(parent=ACME))
    assert not listed.sweeps
    made = await trainer.create(a_sweep(space=space, random_trials=5, seed=7), sweep_id="x")
    assert made.trials == shown.trials


async def test_alphas_and_ranks_that_are_common_are_every_trials(trainer: Trainer) -> None:
    shown = await trainer.create(
        a_sweep({"lora": job_pb2.LoraConfig(alpha=24)}, {"ranks": [8, 16]}), validate_only=True
    )
    assert [(trial.rank, trial.alpha) for trial in shown.trials] == [(8, 24), (16, 24)]
    shown = await trainer.create(
        a_sweep({"lora": job_pb2.LoraConfig(rank=8)}, {"alphas": [8, 16]}), validate_only=True
    )
    assert [(trial.rank, trial.alpha) for trial in shown.trials] == [(8, 8), (8, 16)]


@pytest.mark.parametrize(
    ("spec", "space", "fields", "field", "text"),
    [
        ({}, {}, {}, "sweep.space", "is empty"),
        ({}, {"ranks": [8, 7]}, {}, "sweep.space.ranks[1]", "7 is not one of [8, 16, 32, 64]"),
        ({}, {"ranks": [8, 8]}, {}, "sweep.space.ranks", "8 stands there twice"),
        ({}, {"epochs": list(range(1, 34))}, {}, "sweep.space.epochs", "33 values; at most 32"),
        ({}, {"epochs": [1, 1001]}, {}, "sweep.space.epochs[1]", "at most 1000"),
        ({}, {"alphas": [0, 8]}, {}, "sweep.space.alphas[0]", "above 0"),
        ({}, {"alphas": [8, 1025]}, {}, "sweep.space.alphas[1]", "at most 1024"),
        ({}, {"learning_rates": [1e-3, 2]}, {}, "sweep.space.learning_rates[1]", "at most 1"),
        ({}, {"learning_rates": [float("nan"), 1]}, {}, "sweep.space.learning_rates[0]", "nan"),
        (
            {},
            {"learning_rate_range": {"low": 1e-3, "high": 1e-4}},
            {"random_trials": 4},
            "sweep.space.learning_rate_range.high",
            "above 0.001",
        ),
        (
            {},
            {"learning_rate_range": {"low": 0, "high": 1e-4}},
            {"random_trials": 4},
            "sweep.space.learning_rate_range.low",
            "above 0",
        ),
        ({}, None, {"random_trials": 1}, "sweep.random_trials", "at least 2"),
        ({}, None, {"random_trials": 33}, "sweep.random_trials", "at most 32"),
        ({}, None, {"eta": 4}, "sweep.eta", "4 is not one of [2, 3]"),
        ({}, None, {"seed": -1}, "sweep.seed", "-1"),
        (
            {"hyperparameters": {"learning_rate": 1e-3}},
            None,
            {},
            "sweep.spec.hyperparameters.learning_rate",
            "leave one out",
        ),
        (
            {"hyperparameters": {"epochs": 2}},
            {"epochs": [1, 2]},
            {},
            "sweep.spec.hyperparameters.epochs",
            "leave one out",
        ),
        ({"lora": {"rank": 8}}, {"ranks": [8, 16]}, {}, "sweep.spec.lora.rank", "leave one out"),
        ({"lora": {"alpha": 8}}, {"alphas": [8, 16]}, {}, "sweep.spec.lora.alpha", "leave one out"),
        ({"lora": {"rank": 9}}, None, {}, "sweep.spec.lora.rank", "9 is not one of"),
        ({"adapter": "x"}, None, {}, "sweep.spec.adapter", "x"),
        (
            {"hyperparameters": {"max_sequence_length": 513}},
            {"ranks": [8, 16]},
            {},
            "sweep.spec.hyperparameters.max_sequence_length",
            "513 is more",
        ),
        (
            {"training_dataset": f"{ACME}/datasets/few"},
            None,
            {},
            "sweep.spec.validation_dataset",
            "there are 49",
        ),
    ],
)  # fmt: skip
async def test_a_sweep_that_cannot_be_is_refused(
    trainer: Trainer, spec: Any, space: Any, fields: Any, field: str, text: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.create(a_sweep(spec, space, **fields))
    found, description = violation(caught.value)
    assert found == field
    assert text in description


async def test_few_records_are_enough_with_validation_data(trainer: Trainer) -> None:
    few = {"training_dataset": f"{ACME}/datasets/few"}
    for validation in (
        {"validation_fraction": 0.2},
        {"validation_dataset": f"{ACME}/datasets/chats"},
    ):
        assert (await trainer.create(a_sweep({**few, **validation}), validate_only=True)).trials


async def test_training_on_keeps_the_versions_shape(trainer: Trainer) -> None:
    version = f"{ACME}/adapters/voice/versions/20260101T000000-one-1"
    await put_version(trainer.store, version, base_model_digest=BASE.digest)
    shown = await trainer.create(a_sweep({"from_version": version}), validate_only=True)
    assert {(trial.rank, trial.alpha) for trial in shown.trials} == {(8, 16)}
    for axis, values in (("ranks", [8, 16]), ("alphas", [8, 16])):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await trainer.create(a_sweep({"from_version": version}, {axis: values}))
        assert violation(caught.value)[0] == f"sweep.space.{axis}"
        assert reason_of(caught.value) == "LORA_MISMATCH"


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"sweep_id": "../x"}, "sweep_id"), ({"request_id": "r" * 129}, "request_id")],
)
async def test_ids_are_held_to_their_rules(
    trainer: Trainer, fields: dict[str, str], field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trainer.create(a_sweep(), **fields)
    assert violation(caught.value)[0] == field
