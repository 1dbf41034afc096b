"""Which worker a job goes to, which are made to wait, and for how long."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from tailorbird.names import JobName
from tailorbird.object_store import ObstoreStore
from tests.unit.trainer_svc.fakes import PREPARED, ScriptedWorker, step
from tests.unit.trainer_svc.values import make_job
from trainer_svc.dispatch.backoff import Pauses
from trainer_svc.dispatch.demand import Stock
from trainer_svc.dispatch.executor import WorkerLost
from trainer_svc.dispatch.inbox import Inbox
from trainer_svc.dispatch.place import Place
from trainer_svc.dispatch.placement import Look, Placement, Rules
from trainer_svc.jobs.events import CheckpointSaved, Evaluation
from trainer_svc.protocol import Evaluating, LeaseKey, Reported

ONE = JobName("acme", "one")
WORKER: Any = None


def place(*jobs: str, alone: bool = False, base: str = "sha256:base") -> Place:
    made = Place(WORKER, base)
    for job in jobs:
        made.take(LeaseKey(job=job, epoch=1), alone=alone)
    return made


def placement(limit: int = 2) -> Placement:
    rules = Rules(
        jobs_per_worker=limit,
        must_be_alone=lambda job: job.name.job.startswith("alone"),
        suspected=lambda job: job.name.job.endswith("suspected"),
        base_of=lambda job: job.spec.base_model_digest,
        refused=lambda _: None,
        sizes={"sha256:base": 8},
    )
    return Placement(rules)


def looked(rule: Placement, *places: Place, **stock: Any) -> Look:
    return rule.look(Stock(places, **stock))


def test_a_job_goes_to_the_emptiest_worker_with_room() -> None:
    full, one, closed = place("a", "b"), place("c"), place("d", alone=True)
    look = looked(placement(), full, one, closed)
    assert look.may_change_anything()
    assert look.fits(make_job())
    assert look.chosen is one
    assert not looked(placement(), closed).fits(make_job("alone"))
    look = looked(placement(), full, closed)
    assert not look.may_change_anything()
    assert not look.fits(make_job())


def test_a_job_waits_for_a_worker_that_starts_rather_than_join_others() -> None:
    busy, idle = place("a"), place()
    assert not looked(placement(), busy, expected=["sha256:base"]).may_change_anything()
    assert not looked(placement(), busy, expected=["sha256:base"]).fits(make_job())
    look = looked(placement(), busy, idle, expected=["sha256:base"])
    assert look.may_change_anything()
    assert look.fits(make_job())
    assert look.chosen is idle


def test_a_job_that_must_be_alone_closes_the_emptiest_worker() -> None:
    busy, nearly = place("a", "b"), place("c")
    rule = placement(limit=3)
    look = looked(rule, busy, nearly)
    assert not look.fits(make_job("alone"))
    assert look.fits(make_job("next"))
    assert look.chosen is busy

    # It stays that worker, also when another one is emptier meanwhile.
    busy.leave(LeaseKey(job="a", epoch=1))
    busy.leave(LeaseKey(job="b", epoch=1))
    nearly.take(LeaseKey(job="x", epoch=1), alone=False)
    busy.take(LeaseKey(job="y", epoch=1), alone=False)
    look = looked(rule, busy, nearly)
    assert not look.fits(make_job("alone"))
    assert look.fits(make_job("next"))
    assert look.chosen is busy

    for job in ("c", "x"):
        nearly.leave(LeaseKey(job=job, epoch=1))
    look = looked(rule, busy, nearly)
    assert look.fits(make_job("alone"))
    assert look.chosen is nearly


def test_a_closed_worker_that_is_lost_is_forgotten() -> None:
    rule = placement(limit=3)
    lost, other = place("a"), place("b", "c")
    assert not looked(rule, lost, other).fits(make_job("alone"))
    look = looked(rule, other)
    assert not look.fits(make_job("alone"))
    assert not look.fits(make_job("next"))


def test_two_that_must_be_alone_close_two_workers() -> None:
    look = looked(placement(limit=3), place("a"), place("b"))
    assert not look.fits(make_job("alone-1"))
    assert not look.fits(make_job("alone-2"))
    assert not look.fits(make_job("next"))


def test_a_place_is_idle_when_its_last_lease_has_left() -> None:
    here = place("a", "b", alone=True)
    here.leave(LeaseKey(job="a", epoch=1))
    assert (here.alone, here.idle.is_set()) == (True, False)
    here.leave(LeaseKey(job="b", epoch=1))
    assert (here.alone, here.idle.is_set()) == (False, True)


def test_pauses_grow_end_and_are_forgotten() -> None:
    now = 0.0
    pauses: Pauses[JobName] = Pauses(lambda: now)
    assert pauses.next_end() is None
    lengths = []
    for _ in range(10):
        pauses.add(ONE)
        assert pauses.paused() == {ONE}
        lengths.append(pauses.next_end() or 0.0)
        now += lengths[-1]
        assert pauses.paused() == set()
    assert lengths == pytest.approx([0.2, 0.5, 1, 2, 4, 8, 15, 30, 30, 30])
    pauses.forget(ONE)
    pauses.add(ONE)
    assert pauses.next_end() == pytest.approx(0.2)
    now += 3600
    assert pauses.paused() == set()
    assert not pauses._pauses


async def test_an_inbox_keeps_everything_but_old_steps() -> None:
    lease = LeaseKey(job="tenants/acme/jobs/one", epoch=1)
    inbox = Inbox()
    inbox.put(Evaluating(lease=lease))
    for number in range(5000):
        inbox.put(Reported(lease=lease, event=step(number)))
    inbox.put(Evaluating(lease=lease))
    inbox.close(WorkerLost("died"))
    taken = []
    with pytest.raises(WorkerLost, match="died"):
        while True:
            taken.append(await inbox.get())
    assert len(taken) < 200
    assert [report.kind for report in (taken[0], taken[-1])] == ["evaluating"] * 2
    assert taken[-2] == Reported(lease=lease, event=step(4999))


async def test_an_inbox_is_bounded_whatever_a_run_reports() -> None:
    lease = LeaseKey(job="tenants/acme/jobs/one", epoch=1)
    inbox = Inbox()
    sent: list[Reported | Evaluating] = [Reported(lease=lease, event=PREPARED)]
    for number in range(1, 1000):
        judged = Evaluation(step=number, validation_loss=1.0, perplexity=2.0)
        events = (step(number), judged, CheckpointSaved(step=number))
        sent += [Reported(lease=lease, event=event) for event in events]
    sent.append(Evaluating(lease=lease))
    for report in sent:
        inbox.put(report)
    inbox.close(WorkerLost("died"))
    taken: list[object] = []
    with pytest.raises(WorkerLost):
        while True:
            taken.append(await inbox.get())
    assert len(taken) == 100
    assert (taken[0], taken[-4:]) == (sent[0], sent[-4:])
    assert taken == [report for report in sent if report in taken]
    # The curve of the evaluations is what is kept longest.
    kinds = [report.event.kind for report in taken if isinstance(report, Reported)]
    assert (kinds.count("step_progress"), kinds.count("evaluation")) == (1, 96)


async def test_a_lease_that_comes_too_late_hears_that_its_worker_is_lost(
    object_store: ObstoreStore,
) -> None:
    worker = ScriptedWorker(object_store)
    here = Place(worker, "sha256:base")
    before = here.take(LeaseKey(job="a", epoch=1), alone=False)
    worker.die()
    with pytest.raises(WorkerLost):
        await here.read()
    for inbox in (before, here.take(LeaseKey(job="b", epoch=1), alone=False)):
        with pytest.raises(WorkerLost, match="died"):
            inbox.check_open()


LOST = WorkerLost("ended by SIGSEGV", printed="File adam.py, line 3")


@pytest.mark.parametrize(
    ("jobs", "reads"),
    [(["one"], True), (["one", "one"], True), (["one", "two"], False)],
    ids=["alone", "again", "shared"],
)
async def test_what_a_worker_printed_is_read_by_the_one_job_it_ever_had(
    jobs: list[str], reads: bool, object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(_: ScriptedWorker) -> NoReturn:
        raise LOST

    monkeypatch.setattr(ScriptedWorker, "receive", crash)
    here = Place(ScriptedWorker(object_store), "sha256:base")
    for epoch, job in enumerate(jobs):
        lease = LeaseKey(job=f"tenants/acme/jobs/{job}", epoch=epoch)
        inbox = here.take(lease, alone=False)
        if epoch < len(jobs) - 1:
            here.leave(lease)
    with pytest.raises(WorkerLost):
        await here.read()
    for heard in (inbox, here.take(LeaseKey(job="tenants/acme/jobs/late", epoch=9), alone=False)):
        with pytest.raises(WorkerLost, match="SIGSEGV") as caught:
            await heard.get()
        assert ("adam.py" in caught.value.message) == (reads and heard is inbox)
