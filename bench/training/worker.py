"""A worker process of ours, driven over its socket as the service does."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from bench.serving.processes import BenchFailed, Process
from bench.training.environment import common_environment
from bench.training.memory import peak_mib
from bench.training.sizes import Lora
from tailorbird.base_model import load_base_model
from trainer_svc.jobs.events import Evaluation, Prepared
from trainer_svc.jobs.model import Hyperparameters, LoraSpec
from trainer_svc.protocol import (
    REPORT,
    Assignment,
    Cancel,
    Cancelled,
    DatasetRef,
    Failed,
    LeaseKey,
    Reported,
    Start,
    Trained,
    Unusable,
    WorkerSettings,
    encode,
)
from trainer_svc.record import Record

_TENANT = "tenants/bench"
_REPORT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What jobs came to: the tokens they have, and each one's last validation loss."""

    tokens: int
    validation_losses: dict[str, float]


class TrainingWorker:
    """One worker process on `base`; `work` is a folder of its own."""

    def __init__(self, base: Path, work: Path, log: Path, threads: int) -> None:
        files = load_base_model(str(base), work / "cache")
        self._digest = files.digest
        self._store = work / "store"
        self._store.mkdir(parents=True)
        settings = WorkerSettings(
            object_store=self._store.as_uri(),
            base_model_path=str(base),
            base_model_name="bench",
            base_model_digest=files.digest,
            chat_template_digest=files.chat_template_digest,
            device="cpu",
            threads=threads,
            scratch_dir=str(work / "scratch"),
            cache_dir=str(work / "cache" / "datasets"),
            cache_bytes=2**30,
            progress_interval=5.0,
        )
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = Process(
                "our worker",
                ["-m", "trainer_svc.engine", str(theirs.fileno())],
                # Its threads are a setting of its own.
                {k: v for k, v in common_environment(threads).items() if k != "OMP_NUM_THREADS"},
                log,
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(_REPORT_SECONDS)
        self._socket = ours
        self._lines: BinaryIO = ours.makefile("rb")
        self._send(settings)

    def train(self, datasets: Mapping[str, Path], batch_tokens: int, at_once: int) -> int:
        """Train a job on each dataset until all wait for a version; return the tokens they have.

        `at_once` jobs are handed over at a time. BenchFailed if one fails.
        """
        hyperparameters = Hyperparameters(
            learning_rate=1e-4, epochs=1, batch_tokens=batch_tokens, seed=0
        )
        jobs = [
            self.assignment(job, path, hyperparameters=hyperparameters)
            for job, path in datasets.items()
        ]
        return self.run(jobs, at_once).tokens

    def run(self, jobs: Sequence[Assignment], at_once: int) -> Ran:
        """Train these until all wait for a version, `at_once` at a time; BenchFailed."""
        waiting = list(jobs)
        left, tokens = len(waiting), 0
        losses: dict[str, float] = {}
        for assignment in waiting[:at_once]:
            self._send(Start(assignment=assignment))
        del waiting[:at_once]
        while left:
            report = self._next()
            if isinstance(report, Reported) and isinstance(report.event, Prepared):
                data = report.event.training
                tokens += data.trained_tokens + data.masked_tokens
            elif isinstance(report, Reported) and isinstance(report.event, Evaluation):
                losses[report.lease.job] = report.event.validation_loss
            elif isinstance(report, Trained):
                left -= 1
                self._send(Cancel(lease=report.lease))
            elif isinstance(report, Cancelled) and waiting:
                self._send(Start(assignment=waiting.pop(0)))
            elif isinstance(report, Failed | Unusable):
                raise BenchFailed(f"our worker: {report.error.reason}: {report.error.message}")
        return Ran(tokens, losses)

    def peak_mib(self) -> float:
        """Return the most memory it held since its start."""
        return peak_mib(self._process.pid)

    def assignment(self, job: str, path: Path, **changes: Any) -> Assignment:
        """Store a dataset for a job of this id, and return the job."""
        data = path.read_bytes()
        name = f"{_TENANT}/datasets/{job}"
        key = f"{name}/data.jsonl"
        (self._store / key).parent.mkdir(parents=True)
        (self._store / key).write_bytes(data)
        lora = Lora()
        given: dict[str, Any] = {
            "lease": LeaseKey(job=f"{_TENANT}/jobs/{job}", epoch=1),
            "base_model_digest": self._digest,
            "adapter": f"{_TENANT}/adapters/{job}",
            "training": DatasetRef(
                name=name, key=key, sha256=hashlib.sha256(data).hexdigest(), format="chat"
            ),
            "validation": None,
            "validation_fraction": None,
            "lora": LoraSpec(rank=lora.rank, alpha=lora.alpha),
            "hyperparameters": Hyperparameters(),
            "spec_sha256": hashlib.sha256(job.encode()).hexdigest(),
            "parent_version": "",
        }
        return Assignment(**{**given, **changes})

    def _next(self) -> Record:
        try:
            line = self._lines.readline()
        except TimeoutError as error:
            raise BenchFailed(
                f"our worker said nothing in {_REPORT_SECONDS:.0f} s; {self._process.tail()}"
            ) from error
        if not line:
            raise BenchFailed(f"our worker has gone; {self._process.tail()}")
        report: Record = REPORT.validate_json(line)
        return report

    def _send(self, message: Record) -> None:
        self._socket.sendall(encode(message))

    def __enter__(self) -> TrainingWorker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lines.close()
        self._socket.close()
        self._process.stop()
