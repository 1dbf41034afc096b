"""One trainer as a user has it, on the demo's base: datasets go up, jobs run, and all is heard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from bench.judgement.faults import Found
from bench.rollout.pods import Pod
from bench.serving.processes import Process
from examples.demo.tenants import EXAMPLES
from tailorbird.adapters.v1 import judgement_pb2
from tailorbird.cli.tokens import add_token
from tailorbird.client import CallError, TrainerClient
from tailorbird.tuning.v1 import dataset_pb2, job_pb2

TENANT = "tenants/bench"
SAFETY_LISTS = {"violence": {"words": ["strangle", "stab"], "patterns": ["how to make a bomb"]}}
"""The operator's, over every upload and job here."""
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Ran:
    """A job that has ended: all its events, and what it was warned of when it was asked for."""

    name: str
    events: Sequence[job_pb2.JobEvent]
    warned: Sequence[Found] = field(default=())

    @property
    def judgement(self) -> judgement_pb2.Judgement | None:
        """What was found out about the version, if it was judged."""
        told = [event.judged for event in self.events if event.HasField("judged")]
        return told[-1] if told else None

    @property
    def promoted(self) -> bool:
        """Whether the version takes the traffic."""
        return any(event.published.promoted for event in self.events)

    def time_of(self, state: job_pb2.JobState.ValueType) -> float:
        """Return when the job came into a state, in seconds; ValueError if it never did."""
        for event in self.events:
            if event.state_changed.state == state:
                return seconds(event)
        raise ValueError(f"{self.name} was never {job_pb2.JobState.Name(state)}")

    @property
    def trained_at(self) -> float:
        """When the last validation loss was known, that of the weights to be published.

        ValueError without one.
        """
        losses = [seconds(event) for event in self.events if event.HasField("evaluation")]
        if not losses:
            raise ValueError(f"{self.name} has no validation loss")
        return losses[-1]

    @property
    def judged_at(self) -> float:
        """When the judgement was there, in seconds; ValueError if it never was."""
        for event in self.events:
            if event.HasField("judged"):
                return seconds(event)
        raise ValueError(f"{self.name} was not judged")

    def found(self) -> list[Found]:
        """Return all that was said against the data or the version."""
        said = list(self.warned)
        for event in self.events:
            kind = event.WhichOneof("event")
            if kind == "warning":
                said.append(Found(event.warning.reason, event.warning.message))
            elif kind == "state_changed" and event.state_changed.HasField("error"):
                error = CallError.from_status(event.state_changed.error)
                said.append(Found(error.reason, error.message))
            elif kind == "prepared":
                said += _left_out(event.prepared)
            elif kind == "judged":
                decision = event.judged.decision
                said += [Found(reason, decision.message) for reason in decision.reasons]
                said += [Found("JUDGEMENT_NOTE", note) for note in event.judged.notes]
                said += [_safety(finding) for finding in event.judged.safety]
        return list(dict.fromkeys(said))


class Trainer:
    """`python -m trainer_svc` with the general data of the demo and safety lists; a context."""

    def __init__(self, base: Path, work: Path) -> None:
        work.mkdir(parents=True)
        lists = work / "safety.json"
        lists.write_text(json.dumps(SAFETY_LISTS))
        self.token = add_token(work / "tokens.json", "bench", [TENANT.partition("/")[2]])
        settings = {
            "DATA_DIR": str(work),
            "OBJECT_STORE": (work / "store").as_uri(),
            "BASE_MODEL": str(base),
            "TOKENS_FILE": str(work / "tokens.json"),
            "GENERAL_DATA": str(EXAMPLES / "general.jsonl"),
            "SAFETY_LISTS": str(lists),
        }
        self._files = work / "uploads"
        self._files.mkdir()
        self._pod = Pod("the trainer", "trainer_svc", settings, work / "trainer.log")
        self.client = TrainerClient(self.address, self.token)

    def __enter__(self) -> Trainer:
        try:
            self._pod.wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def address(self) -> str:
        """Where it is called."""
        return self._pod.address

    @property
    def process(self) -> Process:
        """The service's own; its workers are its children."""
        return self._pod.process

    def upload(
        self,
        name: str,
        lines: Sequence[str],
        personal_data: dataset_pb2.PersonalDataMode.ValueType = (
            dataset_pb2.PERSONAL_DATA_MODE_SCAN
        ),
    ) -> tuple[str, list[Found]]:
        """Upload a file; return the dataset's name, "" if it was refused, and what was said."""
        path = self._files / f"{name}.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        try:
            dataset = self.client.upload_dataset(TENANT, name, path, personal_data=personal_data)
        except CallError as error:
            lines_told = [
                Found(error.reason, f"{v.field}: {v.description}") for v in error.violations
            ]
            return "", lines_told or [Found(error.reason, error.message)]
        said = [Found(each.reason, each.message) for each in dataset.report.warnings]
        for each in dataset.personal_data.kinds:
            at = ", ".join(map(str, each.lines))
            said.append(Found(f"personal_data.{each.kind}", f"lines {at}"))
        return dataset.name, said

    def check(self, spec: job_pb2.JobSpec) -> list[Found]:
        """Ask what would be said of a job, without making it."""
        said: list[Found] = []

        def warned(warning: dataset_pb2.DataWarning) -> None:
            said.append(Found(warning.reason, warning.message))

        try:
            self.client.create_job(TENANT, spec, validate_only=True, warned=warned)
        except CallError as error:
            said.append(Found(error.reason, error.message))
        return said

    def create(self, spec: job_pb2.JobSpec) -> tuple[str, list[Found]]:
        """Make a job; return its name and what it was warned of. CallError."""
        said: list[Found] = []
        job = self.client.create_job(
            TENANT, spec, warned=lambda each: said.append(Found(each.reason, each.message))
        )
        return job.name, said

    def run(
        self,
        specs: Mapping[str, job_pb2.JobSpec],
    ) -> dict[str, Ran]:
        """Run jobs together until all have ended. CallError."""
        made = {key: self.create(spec) for key, spec in specs.items()}
        with ThreadPoolExecutor(_AT_ONCE) as pool:

            def watched(key: str) -> Ran:
                name, warned = made[key]
                return Ran(name, list(self.client.watch_job(name)), warned)

            try:
                return dict(zip(made, pool.map(watched, made), strict=True))
            except BaseException:
                # Or the pool would wait for the jobs' ends.
                self.client.close()
                raise

    def _stop(self) -> None:
        self.client.close()
        self._pod.process.stop()


def seconds(event: job_pb2.JobEvent) -> float:
    """Return when an event was written."""
    return event.time.seconds + event.time.nanos / 1e9


def _left_out(prepared: job_pb2.JobEvent.Prepared) -> list[Found]:
    said = []
    for report in (prepared.training, prepared.validation):
        for reason, lines in (
            ("dropped_too_long", report.dropped_lines),
            ("truncated", report.truncated_lines),
            ("dropped_nothing_to_train", report.nothing_to_train_lines),
        ):
            if lines:
                said.append(Found(reason, f"lines {', '.join(map(str, lines))}"))
    return said


def _safety(finding: judgement_pb2.Judgement.SafetyFinding) -> Found:
    lines = ", ".join(map(str, finding.lines))
    where = f"{finding.category} in {finding.count} of {finding.where}: lines {lines}"
    return Found("SAFETY_FINDING", where)
