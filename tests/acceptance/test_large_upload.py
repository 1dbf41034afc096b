"""A 200 MB dataset is taken whole, in memory that does not grow with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc

from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.acceptance.trainer_process import trainer

RECORD = json.dumps({"prompt": "p" * 2000, "completion": "c" * 2000}).encode() + b"\n"
CHUNK = RECORD * (2**20 // len(RECORD))
CHUNKS = 200 * 10**6 // len(CHUNK) + 1


def messages(dataset_id: str, chunks: int) -> Iterator[pb.UploadDatasetRequest]:
    header = pb.UploadDatasetHeader(
        parent="tenants/acme", dataset_id=dataset_id, size_bytes=chunks * len(CHUNK)
    )
    yield pb.UploadDatasetRequest(header=header)
    for _ in range(chunks):
        yield pb.UploadDatasetRequest(chunk=CHUNK)


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_200_megabytes_are_taken_in_bounded_memory(tmp_path: Path) -> None:
    with (
        trainer(tmp_path / "data", "trainer_svc") as (process, address),
        grpc.insecure_channel(address) as channel,
    ):
        stub = pb_grpc.TuningServiceStub(channel)
        # The first loads what tells languages and near-duplicates, whatever its size.
        stub.UploadDataset(messages("small", 1))
        before = peak_bytes(process.pid)
        dataset = stub.UploadDataset(messages("large", CHUNKS)).dataset
        grown = peak_bytes(process.pid) - before
    assert dataset.size_bytes == CHUNKS * len(CHUNK) >= 200 * 10**6
    assert dataset.record_count == CHUNKS * (len(CHUNK) // len(RECORD))
    assert grown < 150 * 2**20
    stored = tmp_path / "data" / "store" / dataset.name / f"data-{dataset.sha256}.jsonl"
    assert stored.stat().st_size == dataset.size_bytes
