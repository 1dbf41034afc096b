"""Many tiny jobs through trainers that are killed again and again, to the last one's end."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.jobs.growth import Sample
from bench.jobs.histories import History, count, read
from bench.jobs.postgresql import postgresql
from bench.jobs.sizes import SoakSizes
from bench.jobs.victim import Victim
from bench.serving.targets import say
from tailorbird.client import CallError, TrainerClient
from tailorbird.tuning.v1 import job_pb2

_TURN_SECONDS = 0.5
_LOOK_SECONDS = 2.0
_BACKLOG = 64
"""Jobs that have not ended, at most: so the trainers have calls until the last minutes."""
_SETTLE_SECONDS = 12.0
_RECORDS = 12


@dataclass
class Soaked:
    """What a soak has seen."""

    histories: list[History] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    leaked: list[str] = field(default_factory=list)
    fell: list[str] = field(default_factory=list)
    """The last lines of trainers that ended by themselves."""
    exit_statuses: list[int] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    """Calls that make a job which failed, by their reason; each was made again."""
    seconds: float = 0.0
    """From the first job's request until the last one's end."""


def soak(work: Path, base: Path, jobs: int, sizes: SoakSizes) -> Soaked:
    """Run so many jobs; BenchFailed if a trainer does not start."""
    with postgresql(work) as url, ExitStack() as stack:
        settings = {
            "BASE_MODEL": str(base),
            "DATABASE_URL": url,
            "OBJECT_STORE": (work / "store").as_uri(),
            "LEASE_SECONDS": str(sizes.lease_seconds),
            "PROGRESS_INTERVAL": "0",
        }
        victims = []
        for number in range(sizes.trainers):
            victims.append(Victim(f"trainer-{number + 1}", work, settings))
            stack.callback(victims[-1].stop)
        for victim in victims:
            victim.pod.wait_until_ready()
        run = _Run(url, victims, jobs, sizes, work)
        run.upload()
        run.until_all_ended()
        run.end()
        run.soaked.histories = asyncio.run(read(url, work / "store"))
        return run.soaked


class _Run:
    def __init__(
        self, url: str, victims: list[Victim], jobs: int, sizes: SoakSizes, work: Path
    ) -> None:
        self._url = url
        self._victims = victims
        self._jobs = jobs
        self._sizes = sizes
        self._records = work / "records.jsonl"
        self._draw = random.Random(sizes.seed)
        self._asked = 0
        self._ended = 0
        self.soaked = Soaked()

    def upload(self) -> None:
        """Give each tenant its dataset."""
        self._records.write_text("".join(_lines()))
        with TrainerClient(self._victims[0].address) as client:
            for tenant in range(self._sizes.tenants):
                client.upload_dataset(_tenant(tenant), "chats", self._records)
        # What checking data takes once, no process has that is measured.
        self._victims[0].restart(signal.SIGTERM)
        self._victims[0].pod.wait_until_ready()

    def until_all_ended(self) -> None:
        """Ask for the jobs, and kill, until all have ended or the time is over."""
        began = time.monotonic()
        next_kill, next_look, next_told = began + self._pause(), began, 0
        while self._ended < self._jobs:
            now = time.monotonic()
            if now - began > self._sizes.limit_seconds:
                say(f"{self._jobs - self._ended} jobs have not ended in time")
                break
            ready = [victim for victim in self._victims if victim.is_ready]
            if ready and now >= next_kill:
                self._kill(self._draw.choice(ready))
                next_kill = now + self._pause()
                continue
            if ready:
                self._ask(ready)
            if now >= next_look:
                self._look(began)
                next_look = now + _LOOK_SECONDS
            if self._ended * 10 // self._jobs > next_told:
                next_told = self._ended * 10 // self._jobs
                say(f"{self._ended} jobs have ended in {now - began:.0f} s")
            time.sleep(_TURN_SECONDS)
        self.soaked.seconds = time.monotonic() - began

    def end(self) -> None:
        """Stop the trainers, and see what is left of them."""
        for victim in self._victims:
            if not victim.is_ready:
                victim.pod.wait_until_ready()
        self.soaked.exit_statuses = [victim.end() for victim in self._victims]
        deadline = time.monotonic() + _SETTLE_SECONDS
        while any(victim.left() for victim in self._victims) and time.monotonic() < deadline:
            time.sleep(_TURN_SECONDS)
        for victim in self._victims:
            for each in victim.left():
                victim.leaked[each] = f"{victim.name}, in the end: {each.command} [{each.pid}]"
            self.soaked.leaked += victim.leaked.values()
            self.soaked.fell += victim.fell

    def _pause(self) -> float:
        return self._sizes.kill_seconds * self._draw.uniform(0.5, 1.5)

    def _kill(self, victim: Victim) -> None:
        if self._draw.random() < 0.5 and victim.kill_worker():
            self.soaked.kills["worker"] += 1
        else:
            victim.kill()
            self.soaked.kills["trainer"] += 1

    def _ask(self, ready: list[Victim]) -> None:
        """Ask for as many jobs as may wait; one whose answer is lost is asked for again."""
        with TrainerClient(self._draw.choice(ready).address) as client:
            while self._asked < min(self._jobs, self._ended + _BACKLOG):
                tenant = _tenant(self._asked % self._sizes.tenants)
                request = f"soak-{self._asked}"
                try:
                    client.create_job(tenant, _spec(tenant, self._asked), request_id=request)
                except CallError as error:
                    self.soaked.refused[error.reason] += 1
                    return
                self._asked += 1

    def _look(self, began: float) -> None:
        self._ended, _ = asyncio.run(count(self._url))
        for victim in self._victims:
            victim.look_for_strays()
            if (sample := victim.sample(began)) is not None:
                self.soaked.samples.append(sample)


def _tenant(number: int) -> str:
    return f"tenants/soak-{number:03}"


def _spec(tenant: str, number: int) -> job_pb2.JobSpec:
    """Return a job of a few steps, each with a checkpoint, that nobody judges."""
    return job_pb2.JobSpec(
        training_dataset=f"{tenant}/datasets/chats",
        adapter=f"{tenant}/adapters/a-{number}",
        promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
        lora=job_pb2.LoraConfig(rank=8),
        hyperparameters=job_pb2.Hyperparameters(epochs=3, batch_tokens=128, checkpoint_interval=1),
        evaluation=job_pb2.EvaluationConfig(max_records=0),
    )


def _lines() -> Iterator[str]:
    for number in range(_RECORDS):
        messages = [
            {"role": "user", "content": f"Where is parcel {number}?"},
            {"role": "assistant", "content": f"Parcel {number} is on its way to you!"},
        ]
        yield json.dumps({"messages": messages}) + "\n"
