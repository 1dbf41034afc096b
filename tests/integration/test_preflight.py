"""validate_only against a whole trainer on the demo base: it finds what the job itself would."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from tailorbird.call_error import CallError
from tailorbird.trainer_client import TrainerClient
from tailorbird.tuning.v1 import dataset_pb2, job_pb2, preflight_pb2, sweep_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.acceptance.trainer_process import BASE, trainer

ACME = "tenants/acme"
SUPPORT = BASE.parent / "support" / "train.jsonl"
LONG = "word " * 2000
MODULE = "trainer_svc.engine.preflight"


@dataclass
class Running:
    client: TrainerClient
    address: str
    process: subprocess.Popen[bytes]
    folder: Path
    noted: Path

    def upload(self, name: str, data: bytes | Path) -> str:
        if isinstance(data, bytes):
            path = self.folder / f"{name}.jsonl"
            path.write_bytes(data)
            data = path
        return self.client.upload_dataset(ACME, name, data).name

    def check(self, spec: job_pb2.JobSpec) -> tuple[preflight_pb2.Preflight, list[str]]:
        found: list[preflight_pb2.Preflight] = []
        warned: list[dataset_pb2.DataWarning] = []
        self.client.create_job(
            ACME, spec, validate_only=True, checked=found.append, warned=warned.append
        )
        (preflight,) = found
        return preflight, [each.reason for each in warned]

    @property
    def checking(self) -> list[psutil.Process]:
        return [
            each
            for each in psutil.Process(self.process.pid).children()
            if MODULE in " ".join(each.cmdline())
        ]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("preflight")
    (folder / "data").mkdir()
    noted = folder / "noted"
    settings = {"NOTED": str(noted), "JOBS_PER_WORKER": "2"}
    with (
        trainer(folder / "data", "tests.integration.watched_trainer", settings=settings) as (
            process,
            address,
        ),
        TrainerClient(address) as client,
    ):
        yield Running(client, address, process, folder, noted)


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    last = {"role": "assistant", "content": answer, **more}
    return {"messages": [{"role": "user", "content": question}, last]}


def lines(*records: dict[str, Any]) -> bytes:
    return "\n".join(json.dumps(each) for each in records).encode()


def spec_of(dataset: str, **more: Any) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(training_dataset=dataset, adapter=f"{ACME}/adapters/voice", **more)


def test_it_finds_what_the_job_itself_finds(running: Running) -> None:
    dataset = running.upload("support", SUPPORT)
    spec = spec_of(dataset)
    spec.hyperparameters.max_sequence_length = 150
    spec.data.max_too_long_fraction = 1
    found, _ = running.check(spec)
    job = running.client.create_job(ACME, spec)
    for event in running.client.watch_job(job.name):
        if event.WhichOneof("event") == "prepared":
            prepared = event.prepared
            break
    running.client.cancel_job(job.name)
    assert found.training.account == prepared.training
    assert found.validation.account == prepared.validation
    assert found.held_out
    assert found.hyperparameters == prepared.hyperparameters
    assert dict(found.reasons) == dict(prepared.reasons)
    assert found.total_steps == prepared.total_steps > 0
    # The worker found what the check had tokenised: there is one entry.
    digest = running.client.get_dataset(dataset).sha256
    cached = (running.folder / "data" / "cache" / "datasets" / "acme").glob(f"{digest}-*-150-*")
    assert len(list(cached)) == 1
    total = prepared.training.records + prepared.validation.records
    assert found.training.account.dropped_too_long > 0
    assert found.training.too_long_fraction == found.training.account.dropped_too_long / total
    assert found.training.longest <= 150
    for data in (found.training, found.validation):
        assert sum(each.sequences for each in data.lengths) == data.account.kept
        assert all(each.at_least < each.below for each in data.lengths)


def test_few_records_are_warned_of(running: Running) -> None:
    dataset = running.upload("few", lines(*(chat(f"q {i}?", f"a {i}") for i in range(5))))
    _, warned = running.check(spec_of(dataset))
    assert {"FEW_RECORDS", "NO_HELD_OUT_DATA"} <= set(warned)
    _, warned = running.check(spec_of(dataset, promotion_policy=job_pb2.PROMOTION_POLICY_MANUAL))
    assert "FEW_RECORDS" in warned
    assert "NO_HELD_OUT_DATA" not in warned


def refused() -> dict[str, tuple[bytes, dict[str, Any], str]]:
    """Data, what the job asks beside it, and why it ends."""
    texts = [chat(f"q {i}?", f"some words {i}") for i in range(60)]
    answers = [chat(f"q {i}?", json.dumps({"n": i})) for i in range(60)]
    sliced = [{**each, "metadata": {"shop": "a"}} for each in texts]
    judged = {"promotion_policy": job_pb2.PROMOTION_POLICY_AUTO_IF_BETTER}
    return {
        "too-many": (lines(*texts[:3], chat(LONG, "a")), {}, "TOO_MANY_TOO_LONG"),
        "none": (
            lines(*texts[:3], chat(LONG, "a")),
            {"data": job_pb2.DataPolicy(too_long=job_pb2.TOO_LONG_ERROR)},
            "RECORDS_TOO_LONG",
        ),
        "masked": (lines(chat("q", "a", weight=0)), {}, "NO_TRAINABLE_RECORDS"),
        "alike": (lines(*[texts[0]] * 3), {"validation_fraction": 0.5}, "NO_TRAINABLE_RECORDS"),
        "metric": (
            lines(*texts),
            {"evaluation": {"primary_metric": "label_accuracy"}, **judged},
            "METRIC_NOT_APPLICABLE",
        ),
        "schema": (
            lines(*answers),
            {
                "evaluation": {
                    "json_schema": json.dumps({"type": "object", "required": ["other"]})
                },
                **judged,
            },
            "SCHEMA_MET_BY_NONE",
        ),
        "slice": (
            lines(*sliced),
            {"evaluation": {"slice_fields": ["shop", "region"]}, **judged},
            "UNKNOWN_SLICE_FIELD",
        ),
    }


@pytest.mark.parametrize("case", refused())
def test_what_would_end_the_job_ends_the_call(running: Running, case: str) -> None:
    data, asked, reason = refused()[case]
    spec = spec_of(running.upload(case, data), **asked)
    with pytest.raises(CallError) as caught:
        running.check(spec)
    assert caught.value.reason == reason
    job = running.client.create_job(ACME, spec)
    for event in running.client.watch_job(job.name):
        last = event
    error = CallError.from_status(last.state_changed.error)
    assert (error.reason, error.metadata) == (reason, caught.value.metadata)
    assert error.code is caught.value.code
    assert error.message == caught.value.message


def test_what_is_wrong_with_a_slice_is_said(running: Running) -> None:
    data, asked, _ = refused()["slice"]
    with pytest.raises(CallError) as caught:
        running.check(spec_of(running.upload("slice", data), **asked))
    (violation,) = caught.value.violations
    assert violation.field == "job.spec.evaluation.slice_fields[1]"
    assert violation.description == (
        "none of the 10 held-out records has metadata.region; there are shop"
    )
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_sweep_is_checked_too(running: Running) -> None:
    dataset = running.upload("support", SUPPORT)
    found: list[preflight_pb2.Preflight] = []
    sweep = sweep_pb2.Sweep(spec=spec_of(dataset), space=sweep_pb2.SearchSpace(ranks=[8, 16]))
    running.client.create_sweep(ACME, sweep, validate_only=True, checked=found.append)
    assert found[0].held_out
    assert found[0].training.account.kept > 0
    alike = running.upload("all-alike", lines(*[chat("q?", "a")] * 50))
    sweep.spec.training_dataset = alike
    with pytest.raises(CallError, match="trials are compared on validation data"):
        running.client.create_sweep(ACME, sweep, validate_only=True)


def test_who_hangs_up_leaves_nothing_behind(running: Running) -> None:
    many = lines(*(chat(f"question {i} of many?", f"answer {i}") for i in range(200_000)))
    dataset = running.upload("many", many)
    request = pb.CreateJobRequest(
        parent=ACME, job=job_pb2.Job(spec=spec_of(dataset)), validate_only=True
    )
    with grpc.insecure_channel(running.address) as channel:
        call = pb_grpc.TuningServiceStub(channel).CreateJob.future(request)
        while not running.checking:
            assert not call.done()
            time.sleep(0.01)
        # Whoever else calls is answered meanwhile.
        assert running.client.get_dataset(dataset).record_count == 200_000
        checking = running.checking
        call.cancel()
    _, alive = psutil.wait_procs(checking, timeout=60)
    assert not alive
    # The next one's turn comes when this one's files are gone.
    running.check(spec_of(running.upload("support", SUPPORT)))
    assert not list((running.folder / "data" / "scratch").glob("preflight-*"))


def test_a_check_that_is_lost_is_told(running: Running) -> None:
    many = lines(*(chat(f"question {i} of very many?", f"answer {i}") for i in range(100_000)))
    dataset = running.upload("very-many", many)
    request = pb.CreateJobRequest(
        parent=ACME, job=job_pb2.Job(spec=spec_of(dataset)), validate_only=True
    )
    with grpc.insecure_channel(running.address) as channel:
        call = pb_grpc.TuningServiceStub(channel).CreateJob.future(request)
        while not running.checking:
            time.sleep(0.01)
        running.checking[0].kill()
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "ended with status -9" in str(caught.value.details())


def test_the_service_process_has_neither_torch_nor_transformers(running: Running) -> None:
    running.check(spec_of(running.upload("support", SUPPORT)))
    assert running.noted.read_text() == ""
