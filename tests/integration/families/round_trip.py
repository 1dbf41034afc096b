"""Trains an adapter by the real worker process and replays its probes in the real vLLM."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.integration.engine_process import WorkerProcess
from tests.unit.trainer_svc.engine.tiny import assignment, chats, dataset_ref, jsonl
from trainer_svc.jobs.model import Hyperparameters
from trainer_svc.protocol import Failed, Start, Trained, Unusable, Upload, Uploaded
from trainer_svc.record import Record

_VERSION = "20261120T153000-job-1-1"
_ADAPTER = Path("tenants/acme/adapters/support/versions") / _VERSION


@dataclass(frozen=True)
class Replayed:
    """Mean differences of logprobs, in nats."""

    base_error: float
    """Of vLLM's base against the trainer's."""
    adapter_error: float
    """Of vLLM's adapter against the trainer's."""
    effect: float
    """Of the trainer's adapter against its base."""


def train(base: Path, folder: Path) -> Path:
    """Return the folder of the published adapter; RuntimeError says why there is none."""
    data = jsonl(chats(20))
    store, key = folder / "store", dataset_ref(data).key
    (store / key).parent.mkdir(parents=True)
    (store / key).write_bytes(data)
    asked = Hyperparameters(epochs=3, batch_tokens=64, learning_rate=0.01)
    job = assignment(data, hyperparameters=asked)
    with WorkerProcess(base, store, folder / "scratch") as worker:
        _usable(worker.next())
        worker.send(Start(assignment=job))
        while not isinstance(report := worker.next(), Trained):
            _usable(report)
        worker.send(Upload(lease=job.lease, version=_VERSION))
        while not isinstance(report := worker.next(), Uploaded):
            _usable(report)
    return store / _ADAPTER


def _usable(report: Record) -> None:
    match report:
        case Unusable(error=error) | Failed(error=error):
            raise RuntimeError(f"{error.reason}: {error.message}")


def replay(base: Path, adapter: Path, dtype: str) -> Replayed:
    """Load the adapter in serving's engine; RuntimeError holds the end of what vLLM says if not."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.families.replay", base, adapter, dtype],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        env={
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            # It would bind all that run at once to one core.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
        },
    )
    try:
        output, _ = process.communicate(timeout=280)
    finally:
        # vLLM's own processes outlive one that is killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for line in output.splitlines():
        if line.startswith("REPLAYED "):
            return Replayed(**json.loads(line.removeprefix("REPLAYED ")))
    raise RuntimeError(output[-20000:])
