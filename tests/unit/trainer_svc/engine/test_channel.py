"""The way of reports to the socket."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from trainer_svc.engine.channel import Outbox
from trainer_svc.jobs.events import CheckpointSaved, StepProgress
from trainer_svc.protocol import Alive, Evaluating, LeaseKey, Reported
from trainer_svc.record import Record


def lease(job: str) -> LeaseKey:
    return LeaseKey(job=f"tenants/acme/jobs/{job}", epoch=1)


def progress(job: str, step: int) -> Reported:
    event = StepProgress(
        step=step,
        total_steps=9,
        epoch=0.5,
        loss=1.0,
        learning_rate=1e-3,
        gradient_norm=1.0,
        tokens=8,
        tokens_per_second=8.0,
        eta_seconds=1.0,
    )
    return Reported(lease=lease(job), event=event)


def saved(job: str, step: int) -> Reported:
    return Reported(lease=lease(job), event=CheckpointSaved(step=step))


def through(outbox: Outbox, reports: list[Record]) -> list[Record]:
    for report in reports:
        outbox.put(report)
    return [outbox.take() for _ in range(len(outbox))]


def fill(outbox: Outbox) -> None:
    for step in range(50):
        outbox.put(saved("a", step))


def test_reports_go_out_in_the_order_in_which_they_were_put() -> None:
    reports: list[Record] = [
        progress("a", 1),
        saved("a", 1),
        progress("b", 1),
        progress("a", 2),
        Evaluating(lease=lease("a")),
    ]
    assert through(Outbox(), reports) == reports


def test_the_newest_progress_of_each_lease_is_what_waits_for_a_slow_service() -> None:
    reports: list[Record] = [saved("a", 0), progress("a", 1), progress("b", 1)]
    later: list[Record] = [progress("a", 2), saved("a", 2), progress("a", 3), progress("b", 2)]
    found = through(Outbox(crowded=3), reports + later)
    assert found == [saved("a", 0), saved("a", 2), progress("a", 3), progress("b", 2)]


def test_progress_that_was_taken_stays_taken() -> None:
    outbox = Outbox(crowded=1)
    outbox.put(progress("a", 1))
    assert outbox.take() == progress("a", 1)
    assert through(outbox, [saved("a", 1), progress("a", 2), progress("a", 3)]) == [
        saved("a", 1),
        progress("a", 3),
    ]


def test_who_puts_into_a_full_outbox_waits_for_the_service() -> None:
    outbox = Outbox(full=1)
    outbox.put(saved("a", 1))
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(outbox.put, saved("a", 2))
        assert outbox.take() == saved("a", 1)
        second.result(timeout=10)
    assert outbox.take() == saved("a", 2)


def test_an_outbox_is_never_more_than_full() -> None:
    outbox = Outbox(full=2)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(fill, outbox)
        for step in range(50):
            assert outbox.take() == saved("a", step)
            assert len(outbox) <= 2


def test_a_worker_says_that_it_lives_while_nothing_else_waits_to_be_said() -> None:
    outbox = Outbox()
    assert outbox.put_alone(Alive())
    assert not outbox.put_alone(Alive())
    assert outbox.take() == Alive()
    outbox.put(saved("a", 1))
    assert not outbox.put_alone(Alive())
    assert through(outbox, []) == [saved("a", 1)]
