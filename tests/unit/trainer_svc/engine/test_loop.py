from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from obstore.store import from_url

from tailorbird.errors import FailedPrecondition, StoreUnavailable
from tailorbird.names import JobName
from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.engine.runs import JOB, make_run
from tests.unit.trainer_svc.engine.tiny import examples
from trainer_svc.engine.loop import Ending, Member, StepLoop, evaluate
from trainer_svc.engine.result.checkpoint import Checkpoints
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.model import CheckpointSaved, EventPayload, JobWarning, StepProgress


class BrokenStore(ObstoreStore):
    async def put(self, key: str, data: bytes) -> None:
        raise StoreUnavailable("the object store failed")


def train(
    bank: AdapterBank,
    store: ObstoreStore,
    *,
    interval: float = 0.0,
    leave: Ending | None = None,
    after: int = 3,
) -> tuple[list[EventPayload], Ending, int]:
    events: list[EventPayload] = []
    with asyncio.Runner() as runner:
        run = make_run(bank)
        checkpoints = Checkpoints(store, runner, JobName.parse(JOB), "a" * 64)
        loop = StepLoop(bank, lambda _: leave if run.state.step >= after else None, interval)
        ending = loop.train([Member(run, checkpoints, events.append)])[JOB]
    bank.detach(JOB)
    return events, ending, run.state.step


@pytest.fixture
def store(store_folder: Path) -> ObstoreStore:
    return ObstoreStore(from_url(store_folder.as_uri()))


def saved(events: list[EventPayload]) -> list[int]:
    return [event.step for event in events if isinstance(event, CheckpointSaved)]


def test_the_last_step_is_saved_once(bank: AdapterBank, store: ObstoreStore) -> None:
    events, ending, steps = train(bank, store)
    assert ending is Ending.FINISHED
    assert saved(events) == sorted(set(saved(events)))
    assert saved(events)[-1] == steps


def test_progress_is_throttled_but_for_the_first_and_last_step(
    bank: AdapterBank, store: ObstoreStore
) -> None:
    events, _, steps = train(bank, store, interval=60.0)
    progress = [event for event in events if isinstance(event, StepProgress)]
    assert [event.step for event in progress] == [1, steps]
    assert progress[-1].eta_seconds == 0
    assert progress[-1].tokens_per_second > 0


def test_a_suspended_run_is_saved_and_a_cancelled_one_is_not(
    bank: AdapterBank, store: ObstoreStore
) -> None:
    events, ending, steps = train(bank, store, leave=Ending.SUSPENDED, after=2)
    assert (ending, steps, saved(events)[-1]) == (Ending.SUSPENDED, 2, 2)
    events, ending, steps = train(bank, store, leave=Ending.CANCELLED, after=0)
    assert (ending, steps, saved(events)) == (Ending.CANCELLED, 0, [])


def test_training_goes_on_when_a_checkpoint_cannot_be_written(
    bank: AdapterBank, store_folder: Path
) -> None:
    events, ending, _ = train(bank, BrokenStore(from_url(store_folder.as_uri())))
    warnings = [event.reason for event in events if isinstance(event, JobWarning)]
    assert ending is Ending.FINISHED
    assert set(warnings) == {"CHECKPOINT_FAILED"}
    assert not saved(events)


def test_a_validation_loss_that_is_not_finite_fails_the_job(bank: AdapterBank) -> None:
    run = make_run(bank)
    run.validation = examples(2)
    for parameter in run.adapter.parameters.values():
        parameter.data.fill_(1e38)
    with pytest.raises(FailedPrecondition) as caught:
        evaluate(bank, run, lambda _: None)
    bank.detach(JOB)
    assert caught.value.reason == "NON_FINITE"
