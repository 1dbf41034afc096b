"""A job of the acceptance tests: asked for, watched, and what it leaves in the store."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import grpc

from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc

ACME = "tenants/acme"


def records(count: int) -> bytes:
    rng = random.Random(7)
    lines = []
    for _ in range(count):
        word = "".join(rng.choices("abcdefghijklmnop", k=6))
        messages = [
            {"role": "user", "content": f"Say {word}."},
            {"role": "assistant", "content": f"{word}, with pleasure!"},
        ]
        lines.append(json.dumps({"messages": messages}))
    return "\n".join(lines).encode()


def start_job(address: str, *, batch_tokens: int = 256, checkpoint_interval: int = 5) -> str:
    """Upload a dataset and ask for a job; return its name."""
    with grpc.insecure_channel(address) as channel:
        stub = pb_grpc.TuningServiceStub(channel)
        header = pb.UploadDatasetHeader(parent=ACME, dataset_id="chats")
        messages = [
            pb.UploadDatasetRequest(header=header),
            pb.UploadDatasetRequest(chunk=records(60)),
        ]
        stub.UploadDataset(iter(messages))
        spec = job_pb2.JobSpec(
            promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
            training_dataset=f"{ACME}/datasets/chats",
            adapter=f"{ACME}/adapters/voice",
            validation_fraction=0.1,
            lora=job_pb2.LoraConfig(rank=8),
            hyperparameters=job_pb2.Hyperparameters(
                epochs=3, batch_tokens=batch_tokens, checkpoint_interval=checkpoint_interval
            ),
        )
        request = pb.CreateJobRequest(parent=ACME, job=job_pb2.Job(spec=spec), request_id="once")
        return stub.CreateJob(request).job.name


def watch(address: str, name: str, after: int = 0) -> list[job_pb2.JobEvent]:
    """Return the job's events after a sequence until its end, or until the trainer is gone."""
    events = []
    # With gRPC's own retries a watch that comes as the trainer closes may never end.
    with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
        request = pb.WatchJobRequest(name=name, after_sequence=after)
        stream = pb_grpc.TuningServiceStub(channel).WatchJob(request)
        try:
            for response in stream:
                events.append(response.event)  # noqa: PERF401 - what came before the end counts
        except grpc.RpcError:
            pass
    return events


def watch_some(address: str, name: str, after: int, count: int) -> list[job_pb2.JobEvent]:
    """Return the next `count` events after a sequence, or those up to the job's end."""
    with grpc.insecure_channel(address) as channel:
        request = pb.WatchJobRequest(name=name, after_sequence=after)
        stream = pb_grpc.TuningServiceStub(channel).WatchJob(request)
        return [response.event for response in itertools.islice(stream, count)]


def published(store: Path) -> list[Path]:
    return sorted(store.glob(f"{ACME}/adapters/voice/versions/*/manifest.json"))
