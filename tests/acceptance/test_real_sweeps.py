"""Sweeps through the real trainer and its worker processes: to the end, killed, held, cancelled."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from tailorbird.tuning.v1 import job_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.acceptance.dying_trainer import SWEEP_MOMENTS
from tests.acceptance.trainer_job import records
from tests.acceptance.trainer_process import trainer

RATES = (1e-6, 1e-3, 1e-5, 3e-3)
LONG = 1000
"""Epochs that nobody waits for."""


class Trainer:
    """The trainer's process, and what the tests ask of it."""

    def __init__(self, process: int, stub: pb_grpc.TuningServiceStub, store: Path) -> None:
        self.stub = stub
        self.store = store
        self._process = process

    def kill_worker(self) -> None:
        (worker,) = (
            each
            for each in psutil.Process(self._process).children()
            if "trainer_svc.engine" in each.cmdline()
        )
        worker.send_signal(signal.SIGKILL)

    def spec(self, tenant: str, epochs: int, *, judged: bool = False) -> job_pb2.JobSpec:
        parent = f"tenants/{tenant}"
        header = pb.UploadDatasetHeader(parent=parent, dataset_id="chats")
        messages = [
            pb.UploadDatasetRequest(header=header),
            pb.UploadDatasetRequest(chunk=records(60)),
        ]
        self.stub.UploadDataset(iter(messages))
        return job_pb2.JobSpec(
            promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
            training_dataset=f"{parent}/datasets/chats",
            adapter=f"{parent}/adapters/voice",
            lora=job_pb2.LoraConfig(rank=8),
            hyperparameters=job_pb2.Hyperparameters(epochs=epochs, batch_tokens=256),
            evaluation=job_pb2.EvaluationConfig(max_records=None if judged else 0),
        )

    def sweep(self, tenant: str, epochs: int = 3, *, judged: bool = False) -> sweep_pb2.Sweep:
        asked = sweep_pb2.Sweep(
            spec=self.spec(tenant, epochs, judged=judged),
            space=sweep_pb2.SearchSpace(learning_rates=RATES),
        )
        request = pb.CreateSweepRequest(parent=f"tenants/{tenant}", sweep=asked)
        return self.stub.CreateSweep(request).sweep

    def get(self, sweep: sweep_pb2.Sweep) -> sweep_pb2.Sweep:
        return self.stub.GetSweep(pb.GetSweepRequest(name=sweep.name)).sweep

    def events(self, job: str, after: int = 0) -> Iterator[job_pb2.JobEvent]:
        """Yield the events after a sequence, to the end of the job."""
        request = pb.WatchJobRequest(name=job, after_sequence=after)
        for response in self.stub.WatchJob(request):
            yield response.event

    def files(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.store.glob(pattern) if path.is_file())


@contextmanager
def started(data_dir: Path, *command: str) -> Iterator[tuple[subprocess.Popen[bytes], Trainer]]:
    with (
        trainer(data_dir, *command) as (process, address),
        grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel,
    ):
        stub = pb_grpc.TuningServiceStub(channel)
        running = Trainer(process.pid, stub, data_dir / "store")
        yield process, running
        if process.poll() is None:
            # Checkpoints go after the job has ended, and before the trainer has.
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
            assert not running.files("tenants/*/jobs/*/checkpoints/**/*")


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    with started(tmp_path_factory.mktemp("sweeps") / "data", "trainer_svc") as (_, running):
        yield running


def of(events: list[job_pb2.JobEvent], kind: str) -> list[Any]:
    return [getattr(event, kind) for event in events if event.WhichOneof("event") == kind]


def up_to(events: Iterator[job_pb2.JobEvent], kind: str) -> list[job_pb2.JobEvent]:
    """Return the events up to the first of a kind, with it."""
    seen = []
    for event in events:
        seen.append(event)
        if event.WhichOneof("event") == kind:
            return seen
    raise AssertionError(f"the job ended without {kind}")


def up_to_state(events: Iterator[job_pb2.JobEvent], state: int) -> list[job_pb2.JobEvent]:
    seen = []
    for event in events:
        seen.append(event)
        if event.WhichOneof("event") == "state_changed" and event.state_changed.state == state:
            return seen
    raise AssertionError("the job ended otherwise")


def published_once(real: Trainer, tenant: str, done: sweep_pb2.Sweep) -> None:
    """Assert that one version is there, the best trial's, with its report, and nothing else."""
    folder = f"tenants/{tenant}/adapters/voice"
    (manifest,) = real.files(f"{folder}/versions/*/manifest.json")
    assert done.version.endswith(f"/{manifest.parent.name}")
    assert len(real.files(f"{folder}/routes/*")) == 1
    (best,) = (trial for trial in done.trials if trial.state == sweep_pb2.TRIAL_STATE_BEST)
    report = json.loads((manifest.parent / "report.json").read_text())
    assert report["hyperparameters"]["learning_rate"] == best.learning_rate


def each_decided_once(events: list[job_pb2.JobEvent], done: sweep_pb2.Sweep) -> None:
    """Assert that history and figures agree: every rung once, every trial there at most once."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    decided = of(events, "rung_decided")
    assert [each.rung for each in decided] == [0, 1, 2]
    assert [len(each.going_on) for each in decided] == [2, 1, 1]
    reached = [(each.trial, each.rung) for each in of(events, "trial_reached")]
    assert len(reached) == len(set(reached)) == 4 + 2 + 1
    assert done.rungs_decided == 3
    assert len(of(events, "published")) == 1
    for each in of(events, "trial_reached"):
        shown = done.trials[each.trial].rungs[each.rung]
        assert (shown.step, shown.validation_loss) == (each.step, each.validation_loss)


def test_a_sweep_is_halved_and_its_best_is_published(real: Trainer) -> None:
    sweep = real.sweep("whole", judged=True)
    events = list(real.events(sweep.job))
    done = real.get(sweep)
    assert done.state == job_pb2.JOB_STATE_SUCCEEDED
    each_decided_once(events, done)
    published_once(real, "whole", done)
    (judged,) = of(events, "judged")
    assert judged.records == 10
    losers = [trial for trial in done.trials if trial.stop_reason == "HALVED"]
    assert len(losers) == 3
    for trial in losers:
        rung = done.rungs[len(trial.rungs) - 1]
        best_there = min(
            other.rungs[len(trial.rungs) - 1].validation_loss
            for other in done.trials
            if len(other.rungs) >= len(trial.rungs)
        )
        assert trial.rungs[-1].validation_loss > best_there
        assert trial.step == -(-trial.total_steps * rung.fraction // 1)


def test_a_worker_that_is_killed_after_a_decision_is_not_missed(real: Trainer) -> None:
    sweep = real.sweep("killed")
    stream = real.events(sweep.job)
    events = up_to(stream, "rung_decided")
    real.kill_worker()
    events += stream
    done = real.get(sweep)
    assert done.state == job_pb2.JOB_STATE_SUCCEEDED
    each_decided_once(events, done)
    published_once(real, "killed", done)
    (resumed,) = of(events, "resumed")
    assert resumed.lease_epoch == 2
    # The trials that were stopped are not trained again; the others go on from their checkpoints.
    first = of(events, "rung_decided")[0]
    assert resumed.resumed_from_step >= sum(done.trials[each].rungs[0].step for each in range(4))
    after = events[[event.HasField("resumed") for event in events].index(True) :]
    assert {each.trial for each in of(after, "trial_reached")} <= set(first.going_on)


@pytest.mark.parametrize(
    "moment",
    [SWEEP_MOMENTS[0], *(pytest.param(one, marks=pytest.mark.long) for one in SWEEP_MOMENTS[1:])],
)
def test_a_trainer_that_is_killed_at_a_decision_decides_it_once(
    tmp_path: Path, moment: str
) -> None:
    """Also where its worker had gone on from a decision that nobody wrote down."""
    data_dir = tmp_path / "data"
    with started(data_dir, "tests.acceptance.dying_trainer", moment) as (process, dying):
        sweep = dying.sweep("dead", epochs=2)
        with suppress(grpc.RpcError):
            list(dying.events(sweep.job))
        assert process.wait(timeout=120) == -signal.SIGKILL
    with started(data_dir, "trainer_svc") as (_, again):
        events = list(again.events(sweep.job))
        done = again.get(sweep)
        assert done.state == job_pb2.JOB_STATE_SUCCEEDED
        each_decided_once(events, done)
        published_once(again, "dead", done)
    (resumed,) = of(events, "resumed")
    assert resumed.resumed_from_step > 0


def test_a_sweep_is_held_back_goes_on_and_is_cancelled(real: Trainer) -> None:
    sweep = real.sweep("held", LONG)
    stream = real.events(sweep.job)
    up_to(stream, "step_progress")
    real.stub.PauseJob(pb.PauseJobRequest(name=sweep.job))
    events = up_to_state(stream, job_pb2.JOB_STATE_PAUSED)
    saved = real.files("tenants/held/jobs/*/checkpoints/trial-*/lease-*/*/manifest.json")
    assert len({path.parents[2].name for path in saved}) == len(RATES)
    assert real.get(sweep).state == job_pb2.JOB_STATE_PAUSED
    real.stub.ResumeJob(pb.ResumeJobRequest(name=sweep.job))
    stream = real.events(sweep.job, events[-1].sequence)
    up_to(stream, "step_progress")
    real.stub.CancelSweep(pb.CancelSweepRequest(name=sweep.name))
    up_to_state(stream, job_pb2.JOB_STATE_CANCELLED)
    done = real.get(sweep)
    assert {trial.stop_reason for trial in done.trials} == {"SWEEP_CANCELLED"}
    assert not real.files("tenants/held/adapters/**/*")


def test_two_sweeps_and_a_job_train_together(real: Trainer) -> None:
    first, second = real.sweep("first"), real.sweep("second")
    spec = real.spec("third", 3)
    request = pb.CreateJobRequest(parent="tenants/third", job=job_pb2.Job(spec=spec))
    job = real.stub.CreateJob(request).job
    for name in (first.job, second.job, job.name):
        *_, last = real.events(name)
        assert last.state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
    for tenant, sweep in (("first", first), ("second", second)):
        published_once(real, tenant, real.get(sweep))
    # The same settings on the same data: what one tenant's sweep finds the other's finds too.
    one, other = real.get(first), real.get(second)
    for here, there in zip(one.trials, other.trials, strict=True):
        assert (here.step, here.stop_reason) == (there.step, there.stop_reason)
