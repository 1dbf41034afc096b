"""A job's history read back: pages from its end, and checkpoints with their losses."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tailorbird.names import JobName
from tests.unit.trainer_svc.fakes import step
from trainer_svc.jobs import history
from trainer_svc.jobs.events import CheckpointSaved, Evaluation, EventPayload, JobEvent
from trainer_svc.jobs.history import History

NAME = JobName("acme", "one")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Store:
    """A job store that has one history; `appended` comes while it is read."""

    def __init__(self, *payloads: EventPayload) -> None:
        self.all = [
            JobEvent(sequence=number, time=NOW, payload=payload)
            for number, payload in enumerate(payloads, 1)
        ]
        self.appended: list[JobEvent] = []
        self.reads: list[int] = []

    async def events(self, name: JobName, after_sequence: int, limit: int) -> list[JobEvent]:
        found = [event for event in self.all if event.sequence > after_sequence][:limit]
        self.reads.append(len(found))
        return found

    async def last_sequence(self, name: JobName) -> int:
        last = len(self.all)
        self.all += self.appended
        return last


@pytest.mark.parametrize(
    ("before", "limit", "expected"),
    [
        (None, 3, [10, 9, 8]),
        (8, 3, [7, 6, 5]),
        (3, 3, [2, 1]),
        (1, 3, []),
        (0, 3, []),
        (10**17, 2, [10, 9]),
        (None, 100, list(range(10, 0, -1))),
    ],
)
async def test_a_page_is_read_from_the_end(
    before: int | None, limit: int, expected: list[int]
) -> None:
    store = Store(*(step(number) for number in range(1, 11)))
    # What comes meanwhile is on no page.
    store.appended = [JobEvent(sequence=11, time=NOW, payload=step(11))]
    found = await History(store).page(NAME, before, limit)
    assert [event.sequence for event in found] == expected
    assert store.reads == [len(expected)]


async def test_checkpoints_have_the_latest_losses_at_their_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(history, "_EVENTS_PER_READ", 2)
    store = Store(
        Evaluation(step=0, validation_loss=3.0, perplexity=20.0),
        CheckpointSaved(step=1),
        step(1),
        # One that is done again after the worker was lost has the later figure.
        Evaluation(step=2, validation_loss=2.5, perplexity=12.0),
        step(2),
        Evaluation(step=2, validation_loss=2.0, perplexity=7.4),
        step(3),
        CheckpointSaved(step=3),
        step(4),
    )
    store.appended = [JobEvent(sequence=10, time=NOW, payload=CheckpointSaved(step=4))]
    found = await History(store).checkpoints(NAME)
    assert [(one.sequence, one.step, one.train_loss, one.valid_loss) for one in found] == [
        (8, 3, 1.0, 2.0),
        (2, 1, 1.0, 3.0),
    ]
    assert max(store.reads) == 2


async def test_a_job_without_checkpoints_has_none() -> None:
    assert await History(Store()).checkpoints(NAME) == []
    (only,) = await History(Store(CheckpointSaved(step=1))).checkpoints(NAME)
    assert (only.train_loss, only.valid_loss) == (None, None)


async def test_a_job_that_is_deleted_meanwhile_has_none() -> None:
    store = Store(CheckpointSaved(step=1))

    async def none(name: JobName, after_sequence: int, limit: int) -> list[JobEvent]:
        return []

    store.events = none  # type: ignore[method-assign]
    assert await History(store).checkpoints(NAME) == []
    assert await History(store).page(NAME, None, 5) == []
