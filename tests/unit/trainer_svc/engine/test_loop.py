"""Jobs on the step thread: they join and leave at boundaries; nothing asked of it hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from tailorbird.errors import FailedPrecondition, Unavailable
from tests.unit.trainer_svc.engine.reference import ReferenceBank, finish, make_run, weights
from trainer_svc.engine.loop import StepThread
from trainer_svc.engine.step.run import Run, RunState, Snapshot
from trainer_svc.engine.training.group import Group
from trainer_svc.engine.training.member import Ending, Member
from trainer_svc.engine.training.memory import WorkerMemory
from trainer_svc.jobs.events import Evaluation, EventPayload, StepProgress

ONE, TWO = "tenants/acme/jobs/one", "tenants/blue/jobs/two"
WAIT = 30.0


class Heard:
    """What a member reports and keeps; `at` runs in the middle of a report or a copy."""

    def __init__(self, run: Run, at: Callable[[Any], None] | None = None) -> None:
        self.events: list[EventPayload] = []
        self.kept: list[tuple[int, bool]] = []
        self.snapshots: dict[int, Snapshot] = {}
        self._at = at
        self.busy = False
        self.member = Member(run, self._report, self._keep, lambda: self.busy)

    def _report(self, event: EventPayload) -> None:
        self.events.append(event)
        if self._at is not None:
            self._at(event)

    def _keep(self, snapshot: Snapshot, best: bool) -> None:
        self.kept.append((snapshot.step, best))
        self.snapshots[snapshot.step] = snapshot
        if self._at is not None:
            self._at(snapshot)

    @property
    def losses(self) -> dict[int, float]:
        return {e.step: e.validation_loss for e in self.events if isinstance(e, Evaluation)}

    @property
    def steps(self) -> list[int]:
        return [event.step for event in self.events if isinstance(event, StepProgress)]


@pytest.fixture
def bank() -> ReferenceBank:
    return ReferenceBank(crossing=True, dropout=0.2)


@pytest.fixture
def steps(bank: ReferenceBank) -> Iterator[StepThread]:
    thread = StepThread(bank, micro_tokens=80, progress_interval=0)
    yield thread
    thread.close()


def timeless(state: RunState) -> RunState:
    """The figures that do not depend on how fast the machine was."""
    curve = state.curve.model_copy(update={"throughput": ()})
    return state.model_copy(update={"curve": curve})


def train(steps: StepThread, run: Run) -> Heard:
    heard = Heard(run)
    assert steps.join(heard.member).result(WAIT) is Ending.FINISHED
    return heard


def test_a_job_steps_until_it_is_done(bank: ReferenceBank, steps: StepThread) -> None:
    run = make_run(bank, ONE)
    heard = train(steps, run)
    total = run.plan.total_steps
    assert run.state.step == total
    assert heard.steps == list(range(1, total + 1))
    assert heard.kept[-1] == (total, False)
    again = make_run(bank, ONE)
    finish(Group(bank, 80), [again])
    assert torch.equal(weights(run), weights(again))


def test_progress_is_throttled_but_for_the_first_and_last_step(bank: ReferenceBank) -> None:
    steps = StepThread(bank, micro_tokens=1000, progress_interval=60.0)
    run = make_run(bank, ONE)
    progress = [event for event in train(steps, run).events if isinstance(event, StepProgress)]
    steps.close()
    assert [event.step for event in progress] == [1, run.plan.total_steps]
    assert progress[-1].eta_seconds == 0
    assert progress[-1].tokens_per_second > 0
    assert run.state.curve.throughput == tuple(
        (event.step, event.tokens_per_second) for event in progress
    )
    assert progress[-1].epoch == 2.0
    assert all(0 < (each.update_to_weight_ratio or 0) < 1 for each in progress)
    assert all((each.worker_memory_bytes or 0) > 2**20 for each in progress)


def test_a_job_that_leaves_is_forgotten_where_memory_is_counted(
    bank: ReferenceBank, steps: StepThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[str] = []
    monkeypatch.setattr(WorkerMemory, "left", lambda _, job: left.append(job))
    train(steps, make_run(bank, ONE))
    assert left == [ONE]


def test_a_job_joins_and_leaves_while_another_steps(bank: ReferenceBank, steps: StepThread) -> None:
    long, short = make_run(bank, ONE, epochs=400), make_run(bank, TWO, seed=1)
    stepped = threading.Event()
    first = steps.join(Heard(long, lambda _: stepped.set()).member)
    assert stepped.wait(WAIT)
    train(steps, short)
    assert not first.done()
    steps.interrupt(ONE, Ending.CANCELLED)
    assert first.result(WAIT) is Ending.CANCELLED
    assert any(len(each) == 2 for each in bank.passes)
    bank = ReferenceBank(dropout=0.2)
    alone = make_run(bank, TWO, seed=1)
    finish(Group(bank, 1000), [alone])
    change = (weights(short) - weights(alone)).norm() / weights(alone).norm()
    assert float(change) < 1e-5


@pytest.mark.parametrize("ending", [Ending.CANCELLED, Ending.SUSPENDED])
def test_who_is_asked_to_leave_does_so_at_the_next_boundary(
    bank: ReferenceBank, steps: StepThread, ending: Ending
) -> None:
    run = make_run(bank, ONE, epochs=400, checkpoint_interval=1000)

    def at(event: object) -> None:
        if isinstance(event, StepProgress) and event.step == 3:
            steps.interrupt(ONE, ending)

    heard = Heard(run, at)
    assert steps.join(heard.member).result(WAIT) is ending
    assert run.state.step == 3
    assert heard.kept == ([(3, False)] if ending is Ending.SUSPENDED else [])


def test_who_leaves_in_the_middle_of_a_step_goes_on_from_the_last_whole_one(
    bank: ReferenceBank,
) -> None:
    run = make_run(bank, ONE, batch_tokens=1000, epochs=5)
    steps = StepThread(bank, micro_tokens=20, progress_interval=0)
    middle = threading.Event()

    def at(event: object) -> None:
        if isinstance(event, StepProgress) and event.step == 2:
            steps.call(lambda: None).add_done_callback(in_the_middle)

    def interrupt() -> None:
        middle.set()
        steps.interrupt(ONE, Ending.SUSPENDED)

    def in_the_middle(_: Future[None]) -> None:
        steps.call(lambda: None).add_done_callback(lambda _: interrupt())

    heard = Heard(run, at)
    assert steps.join(heard.member).result(WAIT) is Ending.SUSPENDED
    steps.close()
    assert middle.is_set()
    assert heard.kept[-1] == (2, False)
    whole = make_run(bank, ONE, batch_tokens=1000, epochs=5)
    finish(Group(bank, 20), [whole])
    resumed = make_run(bank, ONE, batch_tokens=1000, epochs=5)
    resumed.restore(heard.snapshots[2], None)
    finish(Group(bank, 20), [resumed])
    assert torch.equal(weights(resumed), weights(whole))


def test_a_job_that_does_not_step_is_interrupted_without_effect(
    bank: ReferenceBank, steps: StepThread
) -> None:
    steps.interrupt("tenants/acme/jobs/nobody", Ending.CANCELLED)
    first, second = make_run(bank, ONE), make_run(bank, ONE)
    train(steps, first)
    steps.interrupt(ONE, Ending.CANCELLED)
    train(steps, second)
    assert first.done
    assert second.done


def test_a_job_that_steps_already_does_not_join_again(
    bank: ReferenceBank, steps: StepThread
) -> None:
    run = make_run(bank, ONE, epochs=400)
    first = steps.join(Heard(run).member)
    with pytest.raises(ValueError, match="steps already"):
        steps.join(Heard(run).member).result(WAIT)
    steps.interrupt(ONE, Ending.CANCELLED)
    assert first.result(WAIT) is Ending.CANCELLED


def test_others_step_on_while_one_is_judged(bank: ReferenceBank, steps: StepThread) -> None:
    """Its own steps wait for the figure; a cancellation does not."""
    judged = make_run(bank, ONE, validation=400)
    other = make_run(bank, TWO, seed=1, epochs=400)
    seen = threading.Event()

    def at(_: object) -> None:
        if len(bank.evaluated) > 3:
            seen.set()

    second = Heard(other, at)
    first = Heard(judged)
    ended = steps.join(first.member)
    going_on = steps.join(second.member)
    assert seen.wait(WAIT)
    steps.interrupt(ONE, Ending.CANCELLED)
    assert ended.result(WAIT) is Ending.CANCELLED
    assert (judged.state.step, first.events, first.kept) == (0, [], [])
    assert len(bank.evaluated) < 50
    assert all(ONE not in each for each in bank.passes)
    count = len(bank.evaluated)
    steps.interrupt(TWO, Ending.CANCELLED)
    assert going_on.result(WAIT) is Ending.CANCELLED
    assert len(bank.evaluated) == count


def test_evaluations_and_copies_come_at_their_intervals(
    bank: ReferenceBank, steps: StepThread
) -> None:
    run = make_run(bank, ONE, validation=3, epochs=4, evaluation_interval=3, checkpoint_interval=2)
    heard = train(steps, run)
    total = run.plan.total_steps
    assert list(heard.losses) == [0, *range(3, total, 3), *([total])]
    due = set(range(2, total + 1, 2)) | {total}
    best: dict[int, bool] = {}
    lowest = float("inf")
    for step, loss in heard.losses.items():
        if step and loss < lowest:
            best[step], lowest = True, loss
    assert dict(heard.kept) == {step: step in best for step in sorted(due | set(best))}
    assert [step for step, _ in heard.kept] == sorted({step for step, _ in heard.kept})
    assert all(heard.snapshots[step].state.evaluated_step == step for step in best)


def test_no_copy_is_made_for_an_interval_while_one_waits(
    bank: ReferenceBank, steps: StepThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(bank, ONE, validation=3, epochs=4, evaluation_interval=4, checkpoint_interval=1)
    heard = Heard(run)
    heard.busy = True
    copies: list[int] = []
    copy = run.snapshot

    def counted() -> Snapshot:
        copies.append(run.state.step)
        return copy()

    monkeypatch.setattr(run, "snapshot", counted)
    assert steps.join(heard.member).result(WAIT) is Ending.FINISHED
    total = run.plan.total_steps
    best = [step for step, is_best in heard.kept if is_best]
    assert best
    assert copies == [step for step, _ in heard.kept] == sorted({*best, total})
    assert total > len(copies)


def overfits(bank: ReferenceBank, **asked: Any) -> Run:
    """Its validation loss falls, then rises."""
    return make_run(
        bank,
        ONE,
        records=4,
        validation=3,
        epochs=60,
        learning_rate=0.03,
        batch_tokens=10_000,
        evaluation_interval=2,
        checkpoint_interval=5,
        **asked,
    )


def test_the_best_weights_win(bank: ReferenceBank, steps: StepThread) -> None:
    run = overfits(bank)
    heard = train(steps, run)
    losses = {step: loss for step, loss in heard.losses.items() if step}
    best = min(losses, key=lambda step: losses[step])
    assert 0 < best < run.plan.total_steps
    assert run.state.step == run.plan.total_steps
    assert (run.state.best_step, run.state.validation_loss) == (best, losses[best])
    assert run.best is not None
    for name, tensor in run.best.adapter.items():
        assert torch.equal(run.adapter.parameters[name].detach(), tensor)
    assert heard.kept[-1] == (run.plan.total_steps, False)
    last = heard.snapshots[run.plan.total_steps].adapter
    assert any(not torch.equal(last[name], run.best.adapter[name]) for name in last)


@pytest.mark.parametrize("patience", [1, 3])
def test_a_run_stops_when_validation_gets_no_better(
    bank: ReferenceBank, steps: StepThread, patience: int
) -> None:
    run = overfits(bank, early_stopping_patience=patience)
    heard = train(steps, run)
    assert run.state.step < run.plan.total_steps
    assert run.state.best_step == run.state.step - 2 * patience
    assert list(heard.losses)[-1] == run.state.step
    assert heard.kept[-1] == (run.state.step, False)


@pytest.mark.parametrize("stop", [0, 1, 2, 5, 6, 7])
def test_a_suspended_run_goes_on_as_if_it_had_not_been(
    bank: ReferenceBank, steps: StepThread, stop: int
) -> None:
    whole = overfits(bank, early_stopping_patience=3)
    heard = train(steps, whole)
    run = overfits(bank, early_stopping_patience=3)

    def at(event: object) -> None:
        if isinstance(event, StepProgress) and event.step == stop:
            steps.interrupt(ONE, Ending.SUSPENDED)

    first = Heard(run, at)
    ended = steps.join(first.member)
    if stop == 0:
        steps.interrupt(ONE, Ending.SUSPENDED)
    assert ended.result(WAIT) is Ending.SUSPENDED
    again = overfits(bank, early_stopping_patience=3)
    best = [step for step, best in first.kept if best]
    again.restore(first.snapshots[stop], first.snapshots[best[-1]] if best else None)
    second = train(steps, again)
    assert {**first.losses, **second.losses} == heard.losses
    assert timeless(again.state) == timeless(whole.state)
    assert torch.equal(weights(again), weights(whole))


def test_a_run_that_is_done_already_ends_at_once(bank: ReferenceBank, steps: StepThread) -> None:
    whole = overfits(bank)
    heard = train(steps, whole)
    again = overfits(bank)
    again.restore(heard.snapshots[whole.state.step], whole.best)
    passes = len(bank.passes) + len(bank.evaluated)
    second = train(steps, again)
    assert (second.events, second.kept) == ([], [])
    assert len(bank.passes) + len(bank.evaluated) == passes
    assert torch.equal(weights(again), weights(whole))


def test_a_validation_loss_that_is_not_finite_ends_the_job(
    bank: ReferenceBank, steps: StepThread
) -> None:
    run = make_run(bank, ONE, validation=2)
    for parameter in run.adapter.parameters.values():
        parameter.data.fill_(1e38)
    with pytest.raises(FailedPrecondition) as caught:
        steps.join(Heard(run).member).result(WAIT)
    assert (caught.value.reason, caught.value.metadata["step"]) == ("NON_FINITE", "0")


def test_an_evaluation_without_memory_ends_its_job_alone(
    bank: ReferenceBank, steps: StepThread
) -> None:
    bank.memory = 30
    run = make_run(bank, ONE, validation=2)
    run.validation[0].token_ids.resize_(40).fill_(7)
    run.validation[0].trained.resize_(40).fill_(True)
    ended = steps.join(Heard(run).member)
    train(steps, make_run(bank, TWO, seed=1))
    with pytest.raises(FailedPrecondition) as caught:
        ended.result(WAIT)
    assert caught.value.reason == "OUT_OF_MEMORY"


@pytest.mark.parametrize("kind", [StepProgress, Evaluation, Snapshot])
def test_who_cannot_be_heard_ends_alone(bank: ReferenceBank, steps: StepThread, kind: type) -> None:
    def at(event: object) -> None:
        if isinstance(event, kind):
            raise OSError("nobody listens")

    ended = steps.join(Heard(make_run(bank, ONE, validation=2), at).member)
    other = train(steps, make_run(bank, TWO, seed=1))
    assert other.steps
    with pytest.raises(OSError, match="nobody listens"):
        ended.result(WAIT)


def test_who_cannot_be_heard_at_the_end_ends_alone(bank: ReferenceBank, steps: StepThread) -> None:
    def at(event: object) -> None:
        if isinstance(event, Snapshot):
            raise OSError("nobody listens")

    run = make_run(bank, ONE, checkpoint_interval=1000)
    with pytest.raises(OSError, match="nobody listens"):
        steps.join(Heard(run, at).member).result(WAIT)
    train(steps, make_run(bank, TWO))


def test_an_offender_hears_why(bank: ReferenceBank, steps: StepThread) -> None:
    bank.faults[(ONE, 2)] = "loss"
    ended = steps.join(Heard(make_run(bank, ONE)).member)
    train(steps, make_run(bank, TWO, seed=1))
    with pytest.raises(FailedPrecondition) as caught:
        ended.result(WAIT)
    assert (caught.value.reason, caught.value.metadata) == ("NON_FINITE", {"step": "3"})


def test_a_run_that_cannot_begin_ends_alone(bank: ReferenceBank, steps: StepThread) -> None:
    run = make_run(bank, ONE)
    run.restart = None  # type: ignore[assignment, method-assign]
    with pytest.raises(TypeError):
        steps.join(Heard(run).member).result(WAIT)
    train(steps, make_run(bank, TWO))


def test_a_call_runs_on_the_thread_between_two_steps(
    bank: ReferenceBank, steps: StepThread
) -> None:
    ended = steps.join(Heard(make_run(bank, ONE, epochs=400)).member)
    name = steps.call(lambda: threading.current_thread().name).result(WAIT)
    assert name == "steps"
    with pytest.raises(ZeroDivisionError):
        steps.call(lambda: 1 / 0).result(WAIT)
    with pytest.raises(SystemExit):
        steps.call(exit).result(WAIT)
    assert not ended.done()
    steps.interrupt(ONE, Ending.CANCELLED)
    assert ended.result(WAIT) is Ending.CANCELLED


def test_calls_that_lead_to_calls_do_not_hold_up_the_steps(
    bank: ReferenceBank, steps: StepThread
) -> None:
    stop = threading.Event()

    def again() -> None:
        if not stop.is_set():
            steps.call(again)

    steps.call(again)
    run = make_run(bank, ONE)
    train(steps, run)
    stop.set()
    assert run.done


def counting(steps_seen: list[int], run: Run, pieces: int) -> Generator[None, None, str]:
    for _ in range(pieces):
        steps_seen.append(run.state.step)
        yield
    return "done"


def test_others_step_between_two_pieces(bank: ReferenceBank) -> None:
    steps = StepThread(bank, micro_tokens=10_000, progress_interval=0, clock=lambda: 0.0)
    run = make_run(bank, ONE, epochs=400)
    ended = steps.join(Heard(run).member)
    one: list[int] = []
    two: list[int] = []
    first, second = steps.pieces(counting(one, run, 5)), steps.pieces(counting(two, run, 5))
    assert (first.result(WAIT), second.result(WAIT)) == ("done", "done")
    steps.interrupt(ONE, Ending.CANCELLED)
    ended.result(WAIT)
    steps.close()
    assert len(set(one + two)) == 10
    assert all(abs(a - b) == 1 for a, b in zip(one, two, strict=True))


def test_pieces_that_fail_end_alone(bank: ReferenceBank, steps: StepThread) -> None:
    def broken() -> Generator[None, None, None]:
        yield
        raise KeyError("piece")

    failed = steps.pieces(broken())
    with pytest.raises(KeyError):
        failed.result(WAIT)
    assert steps.pieces(counting([], make_run(bank, ONE), 2)).result(WAIT) == "done"


def test_what_is_cancelled_before_its_boundary_does_nothing(
    bank: ReferenceBank, steps: StepThread
) -> None:
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(WAIT)

    holding = steps.call(hold)
    assert held.wait(WAIT)
    called: list[int] = []
    run = make_run(bank, ONE)
    futures: list[Future[Any]] = [
        steps.call(lambda: called.append(1)),
        steps.pieces(counting(called, run, 2)),
        steps.join(Heard(run).member),
    ]
    assert all(future.cancel() for future in futures)
    assert not holding.cancel()
    go_on.set()
    holding.result(WAIT)
    train(steps, make_run(bank, TWO))
    assert (called, run.state.step) == ([], 0)
    for future in futures:
        with pytest.raises(CancelledError):
            future.result()


def test_after_its_close_nothing_hangs(bank: ReferenceBank) -> None:
    steps = StepThread(bank, micro_tokens=80, progress_interval=0)
    judged = Heard(make_run(bank, TWO, validation=400))

    def endless() -> Generator[None, None, None]:
        while True:
            yield

    pending: list[Future[Any]] = [
        steps.join(Heard(make_run(bank, ONE, epochs=400)).member),
        steps.join(judged.member),
        steps.pieces(endless()),
    ]
    steps.call(lambda: None).result(WAIT)
    cancelled = steps.call(lambda: None)
    cancelled.cancel()
    steps.close()
    pending += [
        steps.join(Heard(make_run(bank, ONE)).member),
        steps.pieces(endless()),
        steps.call(lambda: None),
    ]
    for future in pending:
        with pytest.raises(Unavailable) as caught:
            future.result(WAIT)
        assert caught.value.reason == "STEP_THREAD_CLOSED"
    steps.close()
    steps.interrupt(ONE, Ending.CANCELLED)


def test_a_thread_that_dies_leaves_nobody_waiting(
    bank: ReferenceBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Group, "step", die)
    steps = StepThread(bank, micro_tokens=80)
    with pytest.raises(Unavailable):
        steps.join(Heard(make_run(bank, ONE)).member).result(WAIT)
    with pytest.raises(Unavailable):
        steps.call(lambda: None).result(WAIT)
    steps.close()


def test_it_may_be_closed_from_its_own_thread(bank: ReferenceBank) -> None:
    steps = StepThread(bank, micro_tokens=80)
    steps.call(steps.close).result(WAIT)
    with pytest.raises(Unavailable):
        steps.call(lambda: None).result(WAIT)


def test_a_close_is_not_told_as_a_death(bank: ReferenceBank) -> None:
    with capture_logs() as logs:
        StepThread(bank).close()
    assert logs == []


def test_a_thread_shows_that_it_turns_and_that_it_waits_for_work(
    steps: StepThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int | None] = []

    def work() -> Generator[None, None, None]:
        for _ in range(3):
            seen.append(steps.turn)
            yield

    steps.pieces(work()).result(WAIT)
    seen.append(steps.call(lambda: steps.turn).result(WAIT))
    assert None not in seen
    assert len({*seen}) == 4
    waits = threading.Event()
    turn = StepThread._turn

    def noted(thread: StepThread, *, idle: bool) -> None:
        turn(thread, idle=idle)
        if thread.turn is None:
            waits.set()

    monkeypatch.setattr(StepThread, "_turn", noted)
    steps.call(int).result(WAIT)
    assert waits.wait(WAIT)
