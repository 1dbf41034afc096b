"""Rates, deadlines, and the estimate of a wait."""

from __future__ import annotations

import pytest

from serving_svc.generation.limits import Bucket
from serving_svc.generation.ticket import Ticket, TicketState
from tailorbird.errors import DeadlineExceeded, ResourceExhausted
from tests.unit.serving_svc.generation.scheduling import World, request


def refused(w: World, ticket: Ticket) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as caught:
        w.submit(ticket)
    assert ticket.state is not TicketState.WAITING
    return caught.value


def test_a_bucket_fills_up_to_its_burst() -> None:
    bucket = Bucket(rate=2, burst=2, now=0)
    bucket.level -= 4
    assert bucket.wait(0) == 0.5
    assert bucket.wait(0.5) == 0
    assert not bucket.is_full(1.5)
    assert bucket.is_full(100)
    assert bucket.level == 4
    assert Bucket(rate=0.1, burst=2, now=0).wait(0) == 0


def test_requests_per_second_are_limited_per_tenant_with_the_exact_wait() -> None:
    w = World(max_running=100, requests_per_second=2)
    w.submit(*(request("a") for _ in range(4)))
    error = refused(w, request("a"))
    assert error.reason == "RATE_LIMITED"
    assert error.retry_after == pytest.approx(0.5)
    assert error.metadata["quota"] == "requests_per_second"
    assert error.metadata["subject"] == "tenants/a"
    assert error.metadata["limit"] == "2"
    w.submit(request("b"))
    w.now += 0.49
    refused(w, request("a"))
    w.now += 0.01
    w.submit(request("a"))
    refused(w, request("a"))


def test_tokens_per_minute_count_prompts_and_answers() -> None:
    w = World(max_running=100, tokens_per_minute=600)
    ticket = request("a", prompt_tokens=500)
    w.submit(ticket)
    w.submit(request("a", prompt_tokens=50))
    w.core.charge(ticket, 60)
    error = refused(w, request("a"))
    assert error.reason == "RATE_LIMITED"
    assert error.retry_after == pytest.approx(1.1)
    assert error.metadata["quota"] == "tokens_per_minute"
    assert error.metadata["limit"] == "600"
    w.submit(request("b"))
    w.now += error.retry_after
    w.submit(request("a"))


def test_being_idle_gives_no_tokens_back() -> None:
    w = World(max_running=100, tokens_per_minute=600)
    ticket = request("a", prompt_tokens=700)
    w.submit(ticket)
    w.leave(ticket)
    assert not w.core.queue.accounts
    assert refused(w, request("a")).retry_after == pytest.approx(10.1)


def test_a_refusal_for_tokens_costs_no_request() -> None:
    w = World(max_running=100, tokens_per_minute=60, requests_per_second=0.5)
    w.submit(request("a", prompt_tokens=60))
    w.now += 0.5
    refused(w, request("a"))
    w.now += 1.5
    allowed = request("a")
    w.submit(allowed)
    assert w.is_admitted(allowed)


def test_buckets_are_forgotten_once_they_are_full() -> None:
    w = World(max_running=100, requests_per_second=1)
    stays = request("stays")
    w.submit(stays)
    for number in range(200):
        w.now += 1
        ticket = request(f"tenant-{number}")
        w.submit(ticket)
        w.leave(ticket)
        # The ones that stay, and those of the last two seconds.
        assert len(w.core.quotas) <= 6
    w.leave(stays)


def test_a_bucket_that_may_yet_be_charged_is_kept() -> None:
    w = World(max_running=100, tokens_per_minute=600)
    ticket = request("a")
    w.submit(ticket)
    w.now += 100
    w.submit(request("b"), request("c"))
    w.core.charge(ticket, 10_000)
    assert refused(w, request("a")).reason == "RATE_LIMITED"


def test_no_limits_keep_no_books() -> None:
    w = World(max_running=2)
    w.submit(request("a"))
    assert len(w.core.quotas) == 0


def test_a_deadline_that_has_passed_is_refused() -> None:
    w = World()
    with pytest.raises(DeadlineExceeded) as caught:
        w.submit(request("a", deadline=w.now))
    assert caught.value.reason == "DEADLINE_EXCEEDED"
    w.assert_empty()


def test_who_waits_past_the_deadline_is_removed_and_nobody_else() -> None:
    w = World(max_running=1)
    holder, late = request("a"), request("a", deadline=w.now + 5)
    w.submit(holder, late)
    w.now += 5
    w.core.expire(late)
    assert isinstance(w.errors[late], DeadlineExceeded)
    w.core.expire(late)
    w.core.expire(holder)
    assert w.is_admitted(holder)
    w.leave(holder)
    w.assert_empty()


def test_a_version_that_only_the_expired_waited_for_makes_nobody_drain() -> None:
    w = World(1, slot_quantum_tokens=1)
    holder, late = request("a", 1), request("b", 2, deadline=w.now + 5)
    w.submit(holder, late)
    mine = request("a", 1)
    w.core.charge(holder, 1)
    w.submit(mine)
    assert not w.is_admitted(mine)
    w.core.expire(late)
    assert w.is_admitted(mine)


def busy(leaves: int, seconds: float) -> World:
    """One place, a long queue of `a`, and so many measured leaves, one every `seconds`."""
    w = World(max_running=1, max_waiting=100, quantum_tokens=10**6)
    w.submit(*(request("a") for _ in range(60)))
    for _ in range(leaves):
        w.now += seconds
        w.leave(w.admitted[-1])
    return w


def test_a_call_that_cannot_meet_its_deadline_is_refused_early() -> None:
    w = busy(leaves=20, seconds=1.0)
    waiting = w.core.queue.crowd.total
    error = refused(w, request("a", deadline=w.now + 10))
    assert error.reason == "DEADLINE_TOO_SHORT"
    assert error.metadata["estimated_wait_seconds"] == f"{waiting + 0.0:.1f}"
    assert error.retry_after == pytest.approx(waiting - 10)
    # An estimate may be off by half.
    w.submit(request("a", deadline=w.now + waiting / 2))
    # Its turn comes soon: one of the other tenant goes first.
    w.submit(request("b", deadline=w.now + 2))


def test_nobody_is_refused_on_a_guess() -> None:
    w = busy(leaves=16, seconds=1.0)
    w.submit(request("a", deadline=w.now + 1))
    w = busy(leaves=17, seconds=1.0)
    assert refused(w, request("a", deadline=w.now + 1)).reason == "DEADLINE_TOO_SHORT"
    w.submit(request("a"))


def test_an_estimate_is_not_kept_for_another_time() -> None:
    w = busy(leaves=20, seconds=1.0)
    while w.core.running:
        w.leave(w.admitted[-1])
    w.submit(*(request("a") for _ in range(30)))
    hopeful = request("a", deadline=w.now + 1)
    w.submit(hopeful)
    assert hopeful in w.core.queue.tickets() or w.is_admitted(hopeful)


def test_the_retry_of_a_full_queue_follows_the_measured_pace() -> None:
    w = busy(leaves=20, seconds=0.5)
    assert refused_full(w).retry_after == pytest.approx(100 * 0.5, rel=0.02)
    assert refused_full(busy(leaves=2, seconds=0.5)).retry_after == 1.0
    assert refused_full(busy(leaves=20, seconds=0.0)).retry_after == 0.1
    assert refused_full(busy(leaves=20, seconds=9.0)).retry_after == 60.0


def refused_full(w: World) -> ResourceExhausted:
    w.submit(*(request("a") for _ in range(100 - w.core.queue.crowd.total)))
    return refused(w, request("a"))
