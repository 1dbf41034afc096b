"""The real trainer before an S3 server that is down, slow, cuts its answers short or hangs up."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from pathlib import Path

import grpc
import pytest

from tailorbird.call_error import CallError
from tailorbird.object_store import open_store
from tailorbird.trainer_client import TrainerClient
from tailorbird.tuning.v1 import job_pb2
from tests.acceptance.trainer_process import trainer
from tests.fault_proxy import FaultProxy, answered, cut, delayed, hung, reset

DOWN = answered("503 Service Unavailable", "Retry-After: 1")
ATTEMPTS = 2
"""After which a job is PAUSED."""
SPEC = job_pb2.JobSpec(
    promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
    lora=job_pb2.LoraConfig(rank=8),
    hyperparameters=job_pb2.Hyperparameters(epochs=1, batch_tokens=256, checkpoint_interval=2),
)


@pytest.fixture
def address(tmp_path: Path, proxy: FaultProxy, s3_url: str) -> Iterator[str]:
    settings = {
        "OBJECT_STORE": s3_url,
        "STORE_RETRY_TIMEOUT": "0.3",
        "MAX_ATTEMPTS": str(ATTEMPTS),
        "PROGRESS_INTERVAL": "0",
    }
    with trainer(tmp_path / "data", "trainer_svc", settings=settings) as (_, address):
        yield address


@pytest.fixture
def client(address: str) -> Iterator[TrainerClient]:
    with TrainerClient(address, retries=0) as client:
        yield client


class Tenant:
    """One who tunes on a dataset of its own, whose job has the tenant's name."""

    def __init__(self, client: TrainerClient, folder: Path, name: str) -> None:
        self.client = client
        self.id = name
        self.parent = f"tenants/{name}"
        self.dataset = f"{self.parent}/datasets/chats"
        self.job = f"{self.parent}/jobs/{name}"
        self._file = folder / f"{name}.jsonl"
        lines = [{"prompt": f"{name}, {each}?", "completion": "Yes!"} for each in range(40)]
        self._file.write_text("\n".join(map(json.dumps, lines)))

    def upload(self, dataset: str = "chats") -> None:
        self.client.upload_dataset(self.parent, dataset, self._file)

    def create(self) -> None:
        spec = job_pb2.JobSpec(
            training_dataset=self.dataset, adapter=f"{self.parent}/adapters/voice"
        )
        spec.MergeFrom(SPEC)
        self.client.create_job(self.parent, spec, job_id=self.id)

    def until(
        self, *wanted: job_pb2.JobState.ValueType, waiting: str = "", after: int = 0
    ) -> list[job_pb2.JobEvent]:
        """Return the job's events up to one of these states or a warning, or to its end."""
        seen = []
        for event in self.client.watch_job(self.job, after):
            seen.append(event)
            if event.HasField("state_changed") and event.state_changed.state in wanted:
                break
            if waiting and event.warning.reason == waiting:
                break
        return seen

    def succeeds(self, after: int = 0) -> list[job_pb2.JobEvent]:
        seen = self.until(after=after)
        assert seen[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
        assert sum(event.HasField("published") for event in seen) == 1
        return seen


def unavailable(call: Callable[[], object]) -> None:
    with pytest.raises(CallError) as caught:
        call()
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.reason == "STORE_UNAVAILABLE"
    assert caught.value.retry_after == 5


def test_calls_are_told_to_come_again_while_the_store_fails(
    client: TrainerClient, proxy: FaultProxy, tmp_path: Path
) -> None:
    acme = Tenant(client, tmp_path, "acme")
    acme.upload()
    reads: list[Callable[[], object]] = [
        acme.create,
        partial(client.get_dataset, acme.dataset),
        partial(client.get_dataset_report, acme.dataset),
    ]
    others: list[Callable[[], object]] = [
        partial(acme.upload, "new"),
        lambda: list(client.list_datasets(acme.parent)),
        lambda: list(client.list_trained_versions(acme.parent, ["a" * 64])),
        partial(client.delete_dataset, f"{acme.parent}/datasets/new"),
    ]
    for fault, method in ((DOWN, ""), (reset, ""), (cut(7), "GET")):
        proxy.plan(fault, times=inf, method=method)
        for call in reads if method else [*reads, *others]:
            unavailable(call)
        assert list(client.list_jobs(acme.parent)) == []
        proxy.heal()
    proxy.plan(delayed(0.5), times=inf)
    for call in [*reads, *others]:
        call()


@pytest.mark.long
def test_calls_do_not_wait_for_ever_for_a_store_that_never_answers(
    client: TrainerClient, proxy: FaultProxy, tmp_path: Path
) -> None:
    acme = Tenant(client, tmp_path, "acme")
    acme.upload()
    proxy.plan(hung, times=inf)
    calls = [
        acme.create,
        partial(acme.upload, "new"),
        lambda: list(client.list_datasets(acme.parent)),
    ]
    with ThreadPoolExecutor(len(calls)) as pool:
        list(pool.map(unavailable, calls))
    assert list(client.list_jobs(acme.parent)) == []


def test_jobs_wait_for_what_they_need_of_a_store_that_fails(
    client: TrainerClient, proxy: FaultProxy, tmp_path: Path, s3_url: str
) -> None:
    """Each job meets another fault on one worker, and another job meets none."""
    slow, bare, unread, unsent, untold = tenants = [
        Tenant(client, tmp_path, name) for name in ("slow", "bare", "unread", "unsent", "untold")
    ]
    for tenant in tenants:
        tenant.upload()
    proxy.plan(delayed(0.1), times=inf, target=slow.parent)
    proxy.plan(DOWN, times=inf, method="PUT", target=f"{bare.job}/checkpoints")
    proxy.plan(cut(7), times=inf, method="GET", target=f"{unread.dataset}/data-")
    proxy.plan(reset, times=inf, method="PUT", target="-unsent-")
    proxy.plan(DOWN, times=inf, method="PUT", target="-untold-1/manifest.json")
    for tenant in tenants:
        tenant.create()

    slow.succeeds()
    without = bare.succeeds()
    assert not any(event.HasField("checkpoint_saved") for event in without)
    assert "CHECKPOINT_FAILED" in {event.warning.reason for event in without}
    before = [check_paused(tenant) for tenant in (unread, unsent)]
    committed = untold.until(waiting="PUBLICATION_WAITS")[-1]
    assert client.get_job(untold.job).state == job_pb2.JOB_STATE_PUBLISHING

    proxy.heal()
    untold.succeeds(committed.sequence)
    for tenant, last in zip((unread, unsent), before, strict=True):
        client.resume_job(tenant.job)
        tenant.succeeds(last)
    made = asyncio.run(manifests(s3_url))
    assert sorted(key.split("/")[1] for key in made) == sorted(tenant.id for tenant in tenants)


def check_paused(tenant: Tenant) -> int:
    """Check that a job was given up for now, after its tries; return its last sequence."""
    seen = tenant.until(job_pb2.JOB_STATE_PAUSED)
    found = tenant.client.get_job(tenant.job)
    assert found.state == job_pb2.JOB_STATE_PAUSED
    assert "tried 2 times in a row" in found.error.message
    states = [event.state_changed.state for event in seen if event.HasField("state_changed")]
    assert states.count(job_pb2.JOB_STATE_PREPARING) == ATTEMPTS
    return seen[-1].sequence


async def manifests(url: str) -> list[str]:
    """Return the keys of what is published."""
    found = [info.key async for info in open_store(url).objects("tenants")]
    return [key for key in found if re.search("/versions/.*/manifest.json$", key)]
