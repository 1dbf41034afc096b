"""Which workers end, and which start, for a job whose base no worker holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.unit.trainer_svc.values import make_job
from trainer_svc.dispatch.demand import Demand, Stock
from trainer_svc.dispatch.place import Place
from trainer_svc.dispatch.placement import Look, Placement, Rules
from trainer_svc.jobs.model import Job, JobError
from trainer_svc.protocol import LeaseKey

WORKER: Any = None
SIZES = {"sha256:a": 8, "sha256:b": 8, "sha256:c": 16}


def place(base: str, *jobs: str, fresh: bool = False, alone: bool = False) -> Place:
    made = Place(WORKER, f"sha256:{base}")
    made.fresh = fresh
    for job in jobs:
        made.take(LeaseKey(job=job, epoch=1), alone=alone)
    return made


def leave(place: Place, *jobs: str) -> None:
    for job in jobs:
        place.leave(LeaseKey(job=job, epoch=1))


def job(base: str, name: str = "one") -> Job:
    return make_job(name, base=base)


def placement(limit: int = 2, refused: Callable[[Job], JobError | None] = lambda _: None) -> Any:
    rules = Rules(
        jobs_per_worker=limit,
        must_be_alone=lambda job: job.name.job.startswith("alone"),
        suspected=lambda job: job.name.job.endswith("suspected"),
        base_of=lambda job: job.spec.base_model_digest,
        refused=refused,
        sizes=SIZES,
    )
    return Placement(rules)


def look(*places: Place, rule: Any = None, **stock: Any) -> Look:
    made: Look = (rule or placement()).look(Stock(places, **stock))
    return made


def test_a_job_goes_only_to_a_worker_with_its_base() -> None:
    empty, busy = place("a"), place("b", "x")
    one = look(empty, busy)
    assert one.fits(job("b"))
    assert one.chosen is busy
    one = look(empty)
    assert not one.fits(job("b"))
    assert not look(empty).fits(job("b", "alone"))


def test_a_free_slot_takes_the_base_of_the_oldest_job_that_waits() -> None:
    one = look(place("a", "x", "y"), slots=1)
    assert not one.fits(job("b"))
    assert not one.fits(job("c", "two"))
    assert (one.demand.base, one.demand.ended) == ("sha256:b", ())


def test_a_job_waits_for_a_worker_that_gets_ready_with_its_base() -> None:
    idle = place("a")
    one = look(idle, starting=["sha256:b"], slots=1)
    assert not one.fits(job("b"))
    assert (one.demand.base, one.demand.ended, one.demand.settled) == ("", (), False)
    # A younger one's base may still be started beside it.
    assert not one.fits(job("c", "two"))
    assert one.demand.base == "sha256:c"


def test_an_idle_worker_ends_for_another_base() -> None:
    idle = place("a")
    one = look(idle)
    assert not one.fits(job("b"))
    assert one.demand.ended == (idle,)
    # It takes no younger job meanwhile, nor does a second worker end for a younger one.
    assert not one.fits(job("a", "two"))
    assert one.demand.ended == (idle,)


def test_the_longest_idle_worker_ends_and_one_of_a_pair_before_the_only_one() -> None:
    only, old, new = place("c"), place("a"), place("a")
    only.idle_since, old.idle_since, new.idle_since = 1.0, 2.0, 3.0
    one = look(only, new, old)
    assert not one.fits(job("b"))
    assert one.demand.ended == (old,)


def test_a_busy_worker_is_closed_until_it_is_idle() -> None:
    rule = placement()
    busy, fuller = place("a", "x"), place("a", "y", "z")
    one = look(busy, fuller, rule=rule)
    assert not one.fits(job("b"))
    assert not one.fits(job("a", "two"))
    assert (one.demand.leaving, one.demand.ended) == ((busy,), ())

    # It stays that one, although another has become emptier.
    busy.take(LeaseKey(job="w", epoch=1), alone=False)
    leave(fuller, "y")
    one = look(busy, fuller, rule=rule)
    assert not one.fits(job("b"))
    assert one.fits(job("a", "two"))
    assert one.chosen is fuller

    leave(busy, "x", "w")
    one = look(busy, fuller, rule=rule)
    assert not one.fits(job("b"))
    assert one.demand.ended == (busy,)


def test_an_idle_worker_ends_before_a_busy_one_is_closed() -> None:
    busy, idle = place("a", "x"), place("c")
    one = look(busy, idle)
    assert not one.fits(job("b"))
    assert one.demand.ended == (idle,)
    assert one.fits(job("a", "two"))


def test_a_base_that_is_held_closes_no_other_and_takes_only_the_idle() -> None:
    full, busy, idle = place("b", "x", "y"), place("a", "z"), place("c")
    one = look(full, busy)
    assert not one.fits(job("b"))
    assert one.fits(job("a", "two"))
    one = look(full, busy, idle)
    assert not one.fits(job("b"))
    assert one.demand.ended == (idle,)
    # A younger job may still take it: then nobody ends.
    assert one.fits(job("c", "two"))
    assert one.chosen is idle


def test_a_worker_that_has_just_got_ready_first_takes_what_waits_for_it() -> None:
    rule = placement(limit=3)
    fresh = place("a", "x", fresh=True)
    one = look(fresh, rule=rule)
    assert not one.fits(job("b"))
    assert one.fits(job("a", "two"))
    one = look(fresh, rule=rule)
    assert not one.fits(job("b"))
    assert one.demand.leaving == ()
    assert one.end()
    one = look(fresh, rule=rule)
    assert not one.fits(job("b"))
    assert not one.fits(job("a", "three"))
    assert one.demand.leaving == (fresh,)
    assert not one.end()


def test_a_worker_is_fresh_until_it_is_first_full() -> None:
    rule = placement(limit=2)
    fresh = place("a", "x", fresh=True)
    one = look(fresh, rule=rule)
    assert one.fits(job("a", "two"))
    fresh.take(LeaseKey(job="y", epoch=1), alone=False)
    leave(fresh, "x")
    one = look(fresh, rule=rule)
    assert not one.fits(job("b"))
    assert not one.fits(job("a", "three"))


def test_workers_end_until_there_is_memory_enough() -> None:
    small, other, big = place("a"), place("b"), place("c")
    small.idle_since, other.idle_since, big.idle_since = 1.0, 2.0, 3.0
    one = look(small, other, slots=1, memory=4)
    assert not one.fits(job("c"))
    assert set(one.demand.ended) == {small, other}
    # What would not be enough is not ended for nothing, nor is more than enough.
    one = look(small, slots=1, memory=4)
    assert not one.fits(job("c"))
    assert (one.demand.ended, one.demand.settled) == ((), True)
    one = look(small, big, slots=1, memory=0)
    assert not one.fits(job("b"))
    assert one.demand.ended == (small,)


def test_one_that_is_too_small_is_not_ended_beside_one_that_is_enough() -> None:
    small, big = place("a"), place("d")
    small.idle_since = 0.0
    demand = Demand(Stock([small, big], slots=1, memory=0), {**SIZES, "sha256:d": 16}, ())
    demand.need("sha256:c", [small, big])
    assert demand.ended == (big,)


def test_all_that_must_end_end_together() -> None:
    idle, busy = place("a"), place("b", "x")
    one = look(idle, busy, slots=1, memory=0)
    assert not one.fits(job("c"))
    assert set(one.demand.leaving) == {idle, busy}
    assert one.demand.ended == ()
    assert not one.fits(job("a", "two"))


def test_a_worker_that_ends_is_waited_for() -> None:
    idle = place("a")
    one = look(idle, ending=["sha256:b"])
    assert not one.fits(job("c"))
    assert one.demand.ended == ()
    assert (one.demand.base, one.demand.settled) == ("", True)
    one = look(idle, ending=["sha256:b"], memory=0)
    assert not one.fits(job("c"))
    assert one.demand.ended == (idle,)


def test_a_base_that_rests_is_not_started_and_holds_up_no_other() -> None:
    one = look(slots=1, resting={"sha256:b"})
    assert not one.fits(job("b"))
    assert (one.demand.base, one.demand.deferred) == ("", True)
    assert not one.fits(job("c", "two"))
    assert one.demand.base == "sha256:c"


def test_a_broken_base_closes_no_busy_worker_and_holds_up_no_other_base() -> None:
    busy, full = place("a", "x"), place("a", "y", "z")
    one = look(busy, full, broken={"sha256:b"})
    assert not one.fits(job("b"))
    assert (one.demand.leaving, one.demand.settled, one.demand.deferred) == ((), False, True)
    assert not one.fits(job("c", "two"))
    assert one.demand.settled
    one = look(busy, full, broken={"sha256:b"})
    assert not one.fits(job("b"))
    assert one.fits(job("a", "three"))
    assert one.chosen is busy


def test_a_broken_base_is_tried_where_that_costs_nobody_anything() -> None:
    busy, idle = place("a", "x", "y"), place("c")
    one = look(busy, slots=1, broken={"sha256:b"})
    assert not one.fits(job("b"))
    assert one.demand.base == "sha256:b"
    one = look(busy, idle, broken={"sha256:b"})
    assert not one.fits(job("b"))
    assert one.demand.ended == (idle,)
    # A younger job may still take it: then nobody ends.
    assert one.fits(job("c", "two"))
    assert one.chosen is idle


def test_a_worker_with_a_job_that_is_alone_keeps_no_other_from_its_turn() -> None:
    alone, busy = place("b", "x", alone=True), place("a", "y")
    one = look(alone, busy)
    assert not one.fits(job("b"))
    assert one.demand.leaving == (busy,)
    assert not one.fits(job("a", "two"))
    # It is waited for where it is the only one that could end.
    one = look(alone)
    assert not one.fits(job("b"))
    assert one.demand.leaving == ()


def test_one_that_must_be_alone_does_not_end_the_worker_it_waits_for() -> None:
    busy, idle = place("a", "x"), place("b")
    one = look(busy, idle)
    assert not one.fits(job("a", "alone"))
    assert one.demand.ended == ()
    one = look(busy)
    assert not one.fits(job("a", "alone"))
    assert not one.fits(job("b", "two"))
    assert one.demand.leaving == ()


def test_a_look_says_of_which_bases_it_places_no_more_jobs() -> None:
    full, busy = place("a", "x", "y"), place("b", "z")
    one = look(full, busy)
    # It waits for its worker, but others of its base are still heard by the demand.
    assert not one.fits(job("b", "alone"))
    assert one.passed == set()
    assert not one.fits(job("a", "two"))
    assert not one.fits(job("c", "three"))
    assert one.passed == {("a", "sha256:a"), ("c", "sha256:c")}


def test_a_job_that_is_refused_goes_nowhere() -> None:
    error = JobError(reason="BASE_NOT_HELD", message="gone")
    idle = place("a")
    one = look(idle, rule=placement(refused=lambda job: error if job.name.job == "one" else None))
    assert one.fits(job("a"))
    assert (one.chosen, one.refusal) == (None, error)
    assert one.fits(job("a", "two"))
    assert (one.chosen, one.refusal) == (idle, None)
