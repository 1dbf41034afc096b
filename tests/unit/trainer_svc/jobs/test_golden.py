"""The job store's records as an earlier release wrote them, and as a later one might."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from tailorbird.names import JobName
from tests.unit.trainer_svc.golden import sample, widened
from trainer_svc.api.convert_events import event_to_proto
from trainer_svc.jobs.events import EventPayload, JobEvent
from trainer_svc.jobs.model import (
    DataPolicy,
    Isolation,
    Job,
    JobSpec,
    JobState,
    PromotionPolicy,
    TooLong,
)
from trainer_svc.jobs.publication import Publication
from trainer_svc.jobs.store import JobStore
from trainer_svc.jobs.tables import events
from trainer_svc.jobs.tables import jobs as table

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
# Free maps: what stands in them is the caller's.
MAPS = ("labels", "metadata", "reasons", "tensors", "files", "metrics", "scores", "answers")


def later(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with unknown fields everywhere but in free maps and in the row itself."""
    wide: dict[str, Any] = widened(record)
    _restore(wide, record)
    return {key: wide[key] for key in record}


def _restore(wide: Any, plain: Any) -> None:
    if isinstance(plain, dict):
        for key, value in plain.items():
            if key in MAPS:
                wide[key] = value
            else:
                _restore(wide[key], value)
    elif isinstance(plain, list):
        for one, other in zip(wide, plain, strict=True):
            _restore(one, other)


async def stored(jobs: JobStore, row: dict[str, Any], payloads: list[Any]) -> Job:
    async with jobs._database.write() as connection:
        await connection.execute(sa.insert(table).values(row | {"create_time": NOW}))
        for number, payload in enumerate(payloads, start=1):
            values = {"tenant": "acme", "job": "one", "sequence": number, "time": NOW}
            await connection.execute(sa.insert(events).values(values | {"payload": payload}))
    return await jobs.get(JobName("acme", "one"))


async def test_a_stored_job_is_read(jobs: JobStore) -> None:
    job = await stored(jobs, sample("job_row.json"), [])
    assert (job.state, job.lease_epoch) == (JobState.PAUSED, 2)
    assert job.error is not None
    assert (job.error.reason, job.error.metadata) == ("DISK_FULL", {"free": "0"})
    assert job.progress is not None
    assert (job.progress.step, job.progress.validation_loss) == (3, 1.25)
    assert job.effective_hyperparameters is not None
    assert job.effective_hyperparameters.learning_rate == 2e-4
    assert (job.spec.lora.rank, job.spec.lora.target_modules) == (8, ("q_proj",))
    assert job.spec.promotion_policy is PromotionPolicy.MANUAL
    assert job.spec.isolation is Isolation.EXCLUSIVE
    assert job.spec.labels == {"team": "voice"}


async def test_a_job_of_a_later_release_is_read_the_same(jobs: JobStore) -> None:
    row = sample("job_row.json")
    job = await stored(jobs, later(row), [])
    wanted = Job.model_validate(row | {"name": JobName("acme", "one"), "create_time": NOW})
    assert job == wanted
    assert job.spec.sha256() == wanted.spec.sha256()


async def test_the_specification_is_never_rewritten(jobs: JobStore) -> None:
    row = later(sample("job_row.json"))
    job = await stored(jobs, row, [])
    await jobs.request_resume(job.name)
    claimed = await jobs.claim("here")
    assert claimed is not None
    await jobs.release(claimed[0].write())
    async with jobs._database.read() as connection:
        found = (await connection.execute(sa.select(table))).one()
    assert found.spec == row["spec"]


@pytest.mark.parametrize("change", [lambda payload: payload, later], ids=["today's", "later"])
async def test_every_kind_of_event_is_read(jobs: JobStore, change: Any) -> None:
    payloads = [
        *sample("events.json"), sample("step_figures.json"), sample("data_account.json"),
        sample("judged.json"), *sample("sweep_events.json"),
    ]  # fmt: skip
    job = await stored(jobs, sample("job_row.json"), [change(one) for one in payloads])
    found = await jobs.events(job.name, 0, 100)
    assert [event.sequence for event in found] == list(range(1, len(payloads) + 1))
    assert [
        event.payload.model_dump(mode="json", exclude_unset=True) for event in found
    ] == payloads
    kinds = {kind.model_fields["kind"].default for kind in EventPayload.__origin__.__args__}  # type: ignore[attr-defined]
    assert kinds == {payload["kind"] for payload in payloads}


def test_figures_that_an_earlier_release_did_not_report_are_unset() -> None:
    early = next(one for one in sample("events.json") if one["kind"] == "step_progress")
    for payload, has in ((early, False), (sample("step_figures.json"), True)):
        event = JobEvent.model_validate({"sequence": 1, "time": NOW, "payload": payload})
        message = event_to_proto(event).step_progress
        assert message.HasField("update_to_weight_ratio") is has
        assert message.HasField("worker_memory_bytes") is has


def test_records_that_an_earlier_release_did_not_cut_are_none() -> None:
    early = next(one for one in sample("events.json") if one["kind"] == "prepared")
    for payload, cut, lines in ((early, 0, []), (sample("data_account.json"), 2, [5, 9])):
        event = JobEvent.model_validate({"sequence": 1, "time": NOW, "payload": payload})
        report = event_to_proto(event).prepared.training
        assert (report.truncated, list(report.truncated_lines)) == (cut, lines)
        left = report.dropped_too_long + report.dropped_nothing_to_train
        assert report.kept + left == report.records


async def test_a_job_of_an_earlier_release_may_leave_out_as_much_as_it_did(jobs: JobStore) -> None:
    row = sample("job_row.json")
    job = await stored(jobs, row, [])
    assert job.spec.data == DataPolicy(too_long=TooLong.DROP, max_too_long_fraction=1.0)
    spec = row["spec"] | {"data": sample("data_policy.json")}
    asked = JobSpec.model_validate(spec).data
    assert asked == DataPolicy(too_long=TooLong.TRUNCATE, max_too_long_fraction=0.1)


@pytest.mark.parametrize(
    "payload",
    [{"kind": "sample", "text": "a"}, {"kind": "evaluation", "score": 1}, {}],
    ids=["kind", "fields", "nothing"],
)
def test_an_event_that_is_not_understood_has_its_place(payload: dict[str, Any]) -> None:
    event = JobEvent.model_validate({"sequence": 4, "time": NOW, "payload": payload})
    assert type(event.payload).__name__ == "Unknown"


def test_a_state_of_a_later_release_in_the_history_is_read() -> None:
    payload = {"kind": "state_changed", "state": "JUDGED"}
    event = JobEvent.model_validate({"sequence": 4, "time": NOW, "payload": payload})
    assert event.payload.model_dump()["state"] is JobState.UNSPECIFIED


def test_a_publication_is_read_and_its_manifest_kept_whole() -> None:
    plain = sample("publication.json")
    read = Publication.model_validate(plain).model_dump(mode="json")
    assert read == plain | {"refusal": ""}
    wide = later(plain)
    found = Publication.model_validate(wide)
    assert found.version_name == Publication.model_validate(plain).version_name
    # What is published is what was committed, to the last field.
    assert found.model_dump(mode="json")["manifest"] == wide["manifest"]
