"""The trainer, stopped and started while a job runs and a caller watches."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.rollout.pods import Ended, Pod
from bench.rollout.sizes import Sizes
from bench.rollout.watching import Seen, Watcher, gaps_and_repeats
from bench.serving.processes import free_port
from bench.serving.servers import Folders
from bench.serving.targets import say
from tailorbird.cli.tokens import add_token
from tailorbird.client import TrainerClient, is_terminal
from tailorbird.tuning.v1 import job_pb2

_TENANT = "wrenfield"
_ADAPTER = f"tenants/{_TENANT}/adapters/support"
_DATASET = Path(__file__).parents[2] / "examples" / "support" / "train.jsonl"
_RECORDS = 240
"""Taken of it: some seventy steps, of which every trainer is left a few."""
_SEEN_SECONDS = 240.0
_JOB_SECONDS = 600.0
_PROGRESS_BETWEEN = 2
"""Progress events that the watcher sees of each trainer before it is stopped."""


@dataclass(frozen=True, slots=True)
class TrainerRestart:
    """One stop and start of the trainer. Seconds."""

    signal: str
    ended: Ended
    ready_seconds: float
    """From the new process's start to its readiness."""
    silent_seconds: float
    """Between the watcher's last event before the signal and its first one of the new trainer."""
    last_step_seen: int
    resumed_from_step: int


@dataclass(frozen=True, slots=True)
class Round:
    """One job, what its watcher saw, and what there is in the end."""

    restarts: Sequence[TrainerRestart]
    events: int
    watch_gaps: int
    watch_repeats: int
    watch_error: str
    history_differs: bool
    """What a second watcher is told afterwards is not what the first one saw."""
    job_states: Sequence[str]
    ends: int
    """Events that end the job."""
    published_events: int
    versions: int
    """Versions of the adapter in the store."""
    final_state: str


class TrainerRound:
    """One job on a trainer whose data and address outlive its processes."""

    def __init__(self, folders: Folders, number: int, stack: ExitStack) -> None:
        self._folders = folders
        self._name = f"trainer-{number}"
        self._data = folders.work / self._name
        self._data.mkdir()
        self._token = add_token(self._data / "tokens.json", "bench", [_TENANT])
        self._port = free_port()
        self._stack = stack
        self._started = 0

    def run(self, signals: Sequence[signal.Signals]) -> Round:
        """Train one job to its end, with a restart for each of `signals`; BenchFailed."""
        pod = self._start()
        job = self._create_job(pod)
        watcher = Watcher(pod.address, self._token, job)
        self._stack.callback(watcher.close)
        restarts = []
        for number in signals:
            restart, pod = self._restart(pod, number, watcher)
            restarts.append(restart)
        watcher.wait_until_ended(_JOB_SECONDS, pod.process)
        return self._told(restarts, watcher, pod, job)

    def _start(self) -> Pod:
        self._started += 1
        name = f"{self._name}.{self._started}"
        settings = {
            "DATA_DIR": str(self._data),
            "OBJECT_STORE": self._store.as_uri(),
            "BASE_MODEL": str(self._folders.base),
            "TOKENS_FILE": str(self._data / "tokens.json"),
        }
        pod = Pod(name, "trainer_svc", settings, self._folders.log(name), self._port)
        self._stack.callback(pod.process.stop)
        pod.wait_until_ready()
        return pod

    def _create_job(self, pod: Pod) -> str:
        spec = job_pb2.JobSpec(
            promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
            training_dataset=f"tenants/{_TENANT}/datasets/support",
            adapter=_ADAPTER,
            lora=job_pb2.LoraConfig(rank=8),
            hyperparameters=job_pb2.Hyperparameters(
                epochs=1, batch_tokens=512, checkpoint_interval=5
            ),
        )
        dataset = self._data / "dataset.jsonl"
        dataset.write_text("".join(_DATASET.read_text().splitlines(keepends=True)[:_RECORDS]))
        with TrainerClient(pod.address, self._token) as client:
            client.upload_dataset(f"tenants/{_TENANT}", "support", dataset)
            return client.create_job(f"tenants/{_TENANT}", spec).name

    def _restart(
        self, pod: Pod, number: signal.Signals, watcher: Watcher
    ) -> tuple[TrainerRestart, Pod]:
        since = len(watcher.seen)
        # Killed, it has what its last checkpoint has: there is to be one.
        enough = _has_checkpoint if number is signal.SIGKILL else _has_steps
        watcher.wait_for(
            lambda seen: enough(seen[since:]),
            f"the steps before {number.name}",
            _SEEN_SECONDS,
            pod.process,
        )
        ended = pod.end(number)
        before, began = len(watcher.seen), time.monotonic()
        new = self._start()
        ready = time.monotonic() - began
        watcher.wait_for(
            lambda seen: bool(_resumed(seen[before:])), "its resumption", _SEEN_SECONDS, new.process
        )
        restart = TrainerRestart(
            number.name,
            ended,
            ready,
            watcher.seen[before].at - watcher.seen[before - 1].at,
            _steps(watcher.seen[:before])[-1],
            _resumed(watcher.seen[before:])[0],
        )
        say(
            f"{self._name}: {number.name} ended it after {ended.seconds:.1f} s; ready again in "
            f"{ready:.1f} s, resumed from step {restart.resumed_from_step}"
        )
        return restart, new

    def _told(
        self, restarts: Sequence[TrainerRestart], watcher: Watcher, pod: Pod, job: str
    ) -> Round:
        events = [seen.event for seen in watcher.seen]
        gaps, repeats = gaps_and_repeats([event.sequence for event in events])
        with TrainerClient(pod.address, self._token) as client:
            history = list(client.watch_job(job))
            state = client.get_job(job).state
        changes = [event.state_changed.state for event in events if event.HasField("state_changed")]
        return Round(
            restarts=restarts,
            events=len(events),
            watch_gaps=gaps,
            watch_repeats=repeats,
            watch_error=watcher.error,
            history_differs=history != events,
            job_states=[_state_name(change) for change in changes],
            ends=sum(map(is_terminal, changes)),
            published_events=sum(event.HasField("published") for event in events),
            versions=len(list(self._store.glob(f"{_ADAPTER}/versions/*/manifest.json"))),
            final_state=_state_name(state),
        )

    @property
    def _store(self) -> Path:
        return self._data / "store"


def run_trainer_rounds(folders: Folders, sizes: Sizes) -> list[Round]:
    """Run a job for each round of signals; BenchFailed."""
    rounds = []
    for number, signals in enumerate(sizes.trainer_rounds):
        say(f"a job while the trainer gets {', '.join(each.name for each in signals)}")
        with ExitStack() as stack:
            rounds.append(TrainerRound(folders, number, stack).run(signals))
    return rounds


def _has_steps(seen: Sequence[Seen]) -> bool:
    return len(_steps(seen)) >= _PROGRESS_BETWEEN


def _has_checkpoint(seen: Sequence[Seen]) -> bool:
    return any(one.event.HasField("checkpoint_saved") for one in seen)


def _steps(seen: Sequence[Seen]) -> list[int]:
    return [one.event.step_progress.step for one in seen if one.event.HasField("step_progress")]


def _resumed(seen: Sequence[Seen]) -> list[int]:
    return [one.event.resumed.resumed_from_step for one in seen if one.event.HasField("resumed")]


def _state_name(state: job_pb2.JobState.ValueType) -> str:
    return job_pb2.JobState.Name(state).removeprefix("JOB_STATE_")
