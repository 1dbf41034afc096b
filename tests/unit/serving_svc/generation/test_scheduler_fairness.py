"""Whose turn it is, among tenants and within one."""

from __future__ import annotations

import pytest

from serving_svc.generation.fairness import DEBT_ROUNDS, Account, Crowd, Rounds
from serving_svc.generation.ticket import Ticket
from tailorbird.errors import ResourceExhausted
from tests.unit.serving_svc.generation.scheduling import World, request

QUANTUM = 100


def world(**limits: int | float) -> World:
    given = {"max_running": 1, "quantum_tokens": QUANTUM, "slot_quantum_tokens": QUANTUM}
    return World(1, **(given | limits))


def order(w: World, holder: Ticket, tokens: int = 0) -> list[str]:
    """End one after the other, each after `tokens`; return whose tickets came on."""
    start = len(w.admitted)
    w.leave(holder)
    while w.core.running:
        w.serve(w.admitted[-1], tokens)
    return [ticket.tenant for ticket in w.admitted[start:]]


def test_without_contention_everybody_is_admitted_at_once() -> None:
    w = world(max_running=8)
    flood = [request("a", prompt_tokens=10**6) for _ in range(5)]
    w.submit(*flood)
    assert all(map(w.is_admitted, flood))
    assert w.core.running == 5


def test_at_most_so_many_run() -> None:
    w = world(max_running=2)
    tickets = [request("a") for _ in range(3)]
    w.submit(*tickets)
    assert [w.is_admitted(ticket) for ticket in tickets] == [True, True, False]
    w.leave(tickets[0])
    assert w.is_admitted(tickets[2])


def test_tenants_take_turns_however_many_wait() -> None:
    w = world()
    holder = request("x")
    w.submit(holder, *(request("a") for _ in range(4)), request("b"), request("c"))
    assert order(w, holder) == ["a", "b", "c", "a", "a", "a"]


def test_turns_are_by_tokens_not_by_requests() -> None:
    w = world()
    holder = request("x")
    w.submit(holder)
    w.submit(*(request("long", prompt_tokens=200) for _ in range(3)))
    w.submit(*(request("short", prompt_tokens=50) for _ in range(8)))
    # Two rounds for each prompt of 200; four prompts of 50 in as many.
    assert order(w, holder)[:10] == ["long", *["short"] * 4, "long", *["short"] * 4]


def test_completion_tokens_count_as_much() -> None:
    w = world()
    holder = request("x")
    w.submit(holder)
    first = [request("a", prompt_tokens=1), request("b", prompt_tokens=1)]
    w.submit(*first, *(request(tenant, prompt_tokens=1) for tenant in "abbbb"))
    w.leave(holder)
    w.serve(first[0], 3 * QUANTUM)
    w.serve(first[1], 0)
    assert [ticket.tenant for ticket in w.admitted[-2:]] == ["b", "b"]
    assert order(w, w.admitted[-1]) == ["b", "b", "b", "a"]


def test_what_was_charged_while_lining_up_is_seen() -> None:
    w = world(max_running=2)
    running = [request("a", prompt_tokens=1), request("x")]
    w.submit(*running, request("a", prompt_tokens=1), request("b"))
    w.core.charge(running[0], 2 * QUANTUM)
    w.leave(running[1])
    assert w.admitted[-1].tenant == "b"


def test_a_flood_that_began_alone_does_not_profit_later() -> None:
    w = world()
    tickets = [request("flood", prompt_tokens=1) for _ in range(4)]
    w.submit(*tickets)
    for ticket in tickets[:2]:
        w.serve(ticket, 5 * QUANTUM)
    w.submit(*(request("late", prompt_tokens=QUANTUM) for _ in range(5)))
    assert order(w, tickets[2]) == [*["late"] * 5, "flood"]


def test_a_debt_is_bounded() -> None:
    w = world()
    flood = [request("flood", prompt_tokens=1000 * QUANTUM) for _ in range(3)]
    w.submit(*flood)
    w.submit(*(request("late", prompt_tokens=QUANTUM) for _ in range(3 * DEBT_ROUNDS)))
    assert order(w, flood[0])[: DEBT_ROUNDS + 1] == [*["late"] * DEBT_ROUNDS, "flood"]


def test_who_was_away_has_no_credit() -> None:
    w = world(max_running=2)
    w.submit(request("away"), request("x"))
    w.submit(*(request(tenant, prompt_tokens=QUANTUM) for tenant in "ab" * 10))
    for _ in range(10):
        w.leave(w.admitted[-1])
    w.submit(*(request("away", prompt_tokens=QUANTUM) for _ in range(5)))
    for _ in range(6):
        w.leave(w.admitted[-1])
    assert [ticket.tenant for ticket in w.admitted[-6:]].count("away") == 2


def test_a_credit_is_bounded() -> None:
    rounds = Rounds(QUANTUM)
    waited = Account("a", 0)
    rounds.reach(10 * DEBT_ROUNDS * QUANTUM)
    assert rounds.served(waited) == 9 * DEBT_ROUNDS * QUANTUM


def test_an_idle_tenant_is_forgotten() -> None:
    w = world(max_running=4)
    for number in range(100):
        ticket = request(f"tenant-{number}", prompt_tokens=50)
        w.submit(ticket)
        assert list(w.core.queue.accounts) == [f"tenant-{number}"]
        w.leave(ticket)
    w.assert_empty()


def test_who_asks_for_nothing_has_had_a_turn_all_the_same() -> None:
    w = world(quantum_tokens=1)
    holder = request("x")
    w.submit(holder, *(request("nothing") for _ in range(3)), request("b", prompt_tokens=1))
    assert order(w, holder)[:2] == ["nothing", "b"]


def test_within_a_tenant_priority_goes_before_arrival() -> None:
    w = world()
    holder = request("x")
    priorities = [0, 1, -1, 1, 0]
    tickets = [request("a", priority=priority) for priority in priorities]
    w.submit(holder, *tickets)
    order(w, holder)
    assert [tickets.index(ticket) for ticket in w.admitted[1:]] == [1, 3, 0, 4, 2]


def test_priority_is_of_no_use_against_other_tenants() -> None:
    w = world()
    holder = request("x")
    w.submit(holder, request("a"), *(request("b", priority=9) for _ in range(2)))
    assert order(w, holder) == ["a", "b", "b"]


def test_a_tenant_runs_at_most_so_many_and_the_others_go_on() -> None:
    w = world(max_running=8, tenant_max_running=2)
    mine = [request("a") for _ in range(3)]
    other = request("b")
    w.submit(*mine, other)
    assert [w.is_admitted(ticket) for ticket in mine] == [True, True, False]
    assert w.is_admitted(other)
    w.leave(other)
    assert not w.is_admitted(mine[2])
    w.leave(mine[0])
    assert w.is_admitted(mine[2])


def test_a_ticket_may_leave_the_queue_and_twice() -> None:
    w = world()
    holder, gone, last = request("x"), request("a"), request("a")
    w.submit(holder, gone, last)
    w.leave(gone, gone, holder, holder)
    assert w.is_admitted(last)
    w.leave(last)
    w.assert_empty()


def test_what_comes_after_leaving_is_charged_to_nobody() -> None:
    w = world()
    ticket = request("a")
    w.submit(ticket)
    w.leave(ticket)
    total = w.core.total
    w.core.charge(ticket, 5)
    assert w.core.total == total


def test_a_ticket_is_used_once() -> None:
    w = world()
    ticket = request("a")
    w.submit(ticket)
    with pytest.raises(ValueError, match="once"):
        w.core.submit(ticket)
    w.leave(ticket)
    with pytest.raises(ValueError, match="once"):
        w.core.submit(ticket)


def test_the_queue_of_a_tenant_is_bounded() -> None:
    w = world(tenant_max_waiting=2)
    w.submit(request("x"), request("a"), request("a"), request("b"))
    with pytest.raises(ResourceExhausted) as caught:
        w.submit(request("a"))
    error = caught.value
    assert error.reason == "TENANT_QUEUE_FULL"
    assert error.retry_after > 0
    assert error.metadata == {
        "quota": "tenant_max_waiting",
        "subject": "tenants/a",
        "limit": "2",
    }
    w.submit(request("b"))


def test_a_full_queue_refuses_who_fills_it() -> None:
    w = world(max_waiting=3)
    w.submit(request("x"), *(request("a") for _ in range(3)))
    with pytest.raises(ResourceExhausted) as caught:
        w.submit(request("a"))
    assert caught.value.reason == "QUEUE_FULL"
    assert caught.value.metadata["subject"] == "tenants/a"
    assert caught.value.metadata["quota"] == "max_waiting"


def test_in_a_full_queue_the_largest_makes_room_with_its_newest() -> None:
    w = world(max_waiting=3)
    mine = [request("a", priority=number) for number in range(3)]
    w.submit(request("x"), *mine, request("b"))
    error = w.errors[mine[2]]
    assert isinstance(error, ResourceExhausted)
    assert error.reason == "QUEUE_FULL"
    assert error.metadata["subject"] == "tenants/a"
    assert w.core.queue.crowd.total == 3
    # Now nobody has more than one too many: who comes is the one too many.
    with pytest.raises(ResourceExhausted):
        w.submit(request("b"))
    with pytest.raises(ResourceExhausted):
        w.submit(request("a"))


def test_many_small_tenants_do_not_push_one_another_out() -> None:
    w = world(max_waiting=3)
    w.submit(request("x"), *(request(tenant) for tenant in "abc"))
    with pytest.raises(ResourceExhausted):
        w.submit(request("d"))
    assert w.core.queue.crowd.total == 3


def test_a_full_queue_lets_in_who_need_not_wait() -> None:
    w = world(max_running=4, max_waiting=1, tenant_max_running=1)
    w.submit(request("a"), request("a"))
    other = request("b")
    w.submit(other)
    assert w.is_admitted(other)


def test_a_crowd_knows_who_goes_first() -> None:
    crowd = Crowd()
    accounts = {name: Account(name, 0) for name in "abc"}
    for number, name in enumerate("aaaaabbc"):
        accounts[name].waiting[number] = request(name)
        crowd.added(accounts[name])
    # As many of each as the tenant's own, and one.
    assert [crowd.ahead(own) for own in range(7)] == [3, 5, 6, 7, 8, 8, 8]
    assert crowd.largest() is accounts["a"]
    for _ in range(4):
        accounts["a"].waiting.popitem()
        crowd.removed(accounts["a"])
    assert crowd.largest() is accounts["b"]
    assert crowd.total == 4
