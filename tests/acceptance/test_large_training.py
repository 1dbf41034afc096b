"""A dataset of 1 GiB is uploaded, tokenised and trained on in memory that does not grow with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import psutil
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tailorbird.tuning.v1 import job_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from tailorbird.tuning.v1 import tuning_service_pb2_grpc as pb_grpc
from tests.acceptance.trainer_process import trainer
from tests.unit.trainer_svc.engine.tiny import CHAT_TEMPLATE, SPECIAL

SMALL, LARGE = 2**26, 2**30
GROWTH = 96 * 2**20
"""Of any process; 51 MiB measured. The file itself is ten times as much, and its tokens in Python's
lists four times."""
STEPS = 3

# Words of a token each: a large file in few tokens, for a test that ends the same hour.
WORDS = [letter * 99 for letter in "abcdefghijklmnopqrstuvwxyz"]
ANSWER = " ".join(WORDS[at * at % 26] for at in range(200))


def record(number: int) -> bytes:
    """A record like no other, of the length of all others."""
    messages = [
        {"role": "user", "content": f"the order of {number:06}?"},
        {"role": "assistant", "content": ANSWER},
    ]
    return json.dumps({"messages": messages}).encode() + b"\n"


CHUNK_RECORDS = 2**20 // len(record(0))
CHUNK_BYTES = CHUNK_RECORDS * len(record(0))


def make_base(folder: Path) -> Path:
    """A tiny Llama whose tokenizer has every word of the data as one token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer_ = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([ANSWER] * 4, trainer_)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", additional_special_tokens=SPECIAL[1:]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def uploaded(chunks: int) -> Iterator[pb.UploadDatasetRequest]:
    size = chunks * CHUNK_BYTES
    header = pb.UploadDatasetHeader(parent="tenants/acme", dataset_id="large", size_bytes=size)
    yield pb.UploadDatasetRequest(header=header)
    for chunk in range(chunks):
        numbers = range(chunk * CHUNK_RECORDS, (chunk + 1) * CHUNK_RECORDS)
        yield pb.UploadDatasetRequest(chunk=b"".join(map(record, numbers)))


def peak_bytes(pid: int) -> int:
    """Return the most memory that the process had in RAM, what it maps of files included."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return 0 if found is None else int(found[1]) * 1024


@dataclass(frozen=True)
class Peaks:
    """The most memory each process of the trainer had, in bytes."""

    service: int
    worker: int
    tokenising: int


def child(pid: int, module: str) -> psutil.Process | None:
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if module in process.cmdline():
                return process
    return None


def tokenising_peak(trainer_process: subprocess.Popen[bytes]) -> int:
    """Follow the process that tokenises, from its start to its end."""
    found, peak = None, 0
    while found is None:
        with suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the trainer ended with {trainer_process.wait(0.1)}")
        found = child(trainer_process.pid, "trainer_svc.engine.data.tokenising")
    with suppress(FileNotFoundError, ProcessLookupError):
        while True:
            peak = max(peak, peak_bytes(found.pid))
            with suppress(psutil.TimeoutExpired):
                found.wait(0.2)
                break
    return peak


def peaks_of(folder: Path, base: Path, size: int) -> Peaks:
    """Upload `size` bytes, train some steps on them, and cancel."""
    folder.mkdir()
    settings = {"BASE_MODEL": str(base), "THREADS": "1", "PROGRESS_INTERVAL": "0"}
    with (
        trainer(folder / "data", "trainer_svc", settings=settings) as (process, address),
        grpc.insecure_channel(address) as channel,
    ):
        stub = pb_grpc.TuningServiceStub(channel)
        dataset = stub.UploadDataset(uploaded(size // CHUNK_BYTES)).dataset
        spec = job_pb2.JobSpec(
            promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
            training_dataset=dataset.name,
            adapter="tenants/acme/adapters/large",
            hyperparameters=job_pb2.Hyperparameters(epochs=1, batch_tokens=1024),
            validation_fraction=0.01,
        )
        request = pb.CreateJobRequest(parent="tenants/acme", job=job_pb2.Job(spec=spec))
        job = stub.CreateJob(request).job
        tokenising = tokenising_peak(process)
        _trained_some(stub, job.name, dataset.record_count)
        worker = child(process.pid, "trainer_svc.engine")
        assert worker is not None
        return Peaks(peak_bytes(process.pid), peak_bytes(worker.pid), tokenising)


def _trained_some(stub: pb_grpc.TuningServiceStub, job: str, records: int) -> None:
    """Wait for some steps of the job, which has all records."""
    events = stub.WatchJob(pb.WatchJobRequest(name=job))
    for watched in events:
        event = watched.event
        match event.WhichOneof("event"):
            case "prepared":
                kept = (event.prepared.training.kept, event.prepared.validation.kept)
                assert sum(kept) == records
            case "step_progress" if event.step_progress.step >= STEPS:
                events.cancel()
                return
    pytest.fail("the job ended")


@pytest.mark.long
@pytest.mark.timeout(5400)
def test_a_gibibyte_is_trained_on_in_bounded_memory(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    small, large = (asdict(peaks_of(tmp_path / str(size), base, size)) for size in (SMALL, LARGE))
    told = {name: (small[name] >> 20, large[name] >> 20) for name in small}
    sys.stdout.write(f"peak MiB with {SMALL >> 20} and {LARGE >> 20} MiB: {told}\n")
    grown = {name: large[name] - small[name] for name in small}
    assert all(small.values())
    assert max(grown.values()) < GROWTH, told
