"""Which versions are in the engine: slots, turns, pins, swaps."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
import structlog.testing

from serving_svc.generation.queue import LOAD_TOKENS
from serving_svc.generation.slots import SlotState
from serving_svc.generation.ticket import Ticket
from tailorbird.errors import AdapterRefused, FailedPrecondition
from tests.unit.serving_svc.generation.scheduling import World, request, swap, version

QUANTUM = 64


def world(slots: int = 1, **limits: int | float) -> World:
    return World(slots, **({"slot_quantum_tokens": QUANTUM} | limits))


def test_a_version_is_loaded_once_for_all_who_wait_for_it() -> None:
    w = world()
    tickets = [request("a", 1) for _ in range(3)]
    for ticket in tickets:
        w.core.submit(ticket)
    assert w.loads == [version(1, "a")]
    assert not w.admitted
    w.run()
    assert w.admitted == tickets
    assert w.core.slots.get(version(1, "a")) is tickets[0].slot


def test_the_base_needs_no_slot() -> None:
    w = world()
    held, base = request("a", 1), request("a")
    w.submit(held, base)
    assert w.is_admitted(base)
    assert len(w.core.slots) == 1


def test_nobody_waits_beside_a_free_slot() -> None:
    w = world(3)
    tickets = [request("a", number) for number in range(4)]
    w.submit(*tickets)
    assert [w.is_admitted(ticket) for ticket in tickets] == [True, True, True, False]


def test_the_least_recently_used_idle_version_leaves() -> None:
    w = world(2)
    for number in (1, 2, 1, 3):
        ticket = request("a", number)
        w.submit(ticket)
        w.leave(ticket)
    assert w.unloads == [version(2, "a")]


def test_a_retired_version_leaves_first_until_it_is_asked_for_again() -> None:
    w = world(3)
    for number in (1, 2, 3):
        ticket = request("a", number)
        w.submit(ticket)
        w.leave(ticket)
    for number in (3, 2):
        w.core.retire(version(number, "a"))
    w.core.retire(version(9, "a"))
    back = swap(3, "a")
    w.submit(back)
    w.leave(back)
    w.submit(request("a", 4))
    assert w.unloads == [version(2, "a")]


def test_a_failed_load_fails_all_who_wait_for_it_and_frees_the_slot() -> None:
    w = world()
    failing = [request("a", 1), request("a", 1), swap(1, "a")]
    next_one = request("b", 2)
    for ticket in [*failing, next_one]:
        w.core.submit(ticket)
    refusal = AdapterRefused("no")
    w.finish(w.coming[0], refusal)
    assert [w.errors[ticket] for ticket in failing] == [refusal] * 3
    w.run()
    assert w.is_admitted(next_one)
    assert not w.unloads
    w.leave(next_one)
    w.assert_empty()


def test_a_load_that_everybody_left_is_kept() -> None:
    w = world()
    gone = request("a", 1)
    w.core.submit(gone)
    w.core.leave(gone)
    w.run()
    assert w.state(version(1, "a")) is SlotState.READY
    ticket = request("a", 1)
    w.core.submit(ticket)
    assert w.is_admitted(ticket)


def test_a_busy_version_leaves_after_its_quantum_and_not_before() -> None:
    w = world()
    holder, other = request("a", 1, prompt_tokens=QUANTUM // 2), request("b", 2)
    w.submit(holder, other)
    late = [request("a", 1, prompt_tokens=QUANTUM // 2) for _ in range(2)]
    w.submit(*late)
    assert [w.is_admitted(ticket) for ticket in late] == [True, False]
    assert w.state(version(1, "a")) is SlotState.DRAINING
    w.leave(holder)
    assert not w.is_admitted(other)
    w.leave(late[0])
    assert w.is_admitted(other)
    w.leave(other)
    assert w.is_admitted(late[1])


def test_a_version_that_had_its_turn_before_anybody_waited_leaves_at_once() -> None:
    w = world()
    w.submit(request("a", 1, prompt_tokens=QUANTUM), request("b", 2))
    assert w.state(version(1, "a")) is SlotState.DRAINING


def turn(*early: int, late: int = 0) -> tuple[list[bool], list[bool]]:
    """Whether those of a version are admitted that wait for it before its load, and after it.

    The short quantum is 10 tokens, the long one 50; `early` and `late` are prompts' tokens.
    """
    w = World(1, quantum_tokens=10, slot_quantum_tokens=50)
    before = [request("a", 1, prompt_tokens=tokens) for tokens in early]
    for ticket in [*before, request("b", 2)]:
        w.core.submit(ticket)
    w.run()
    after = [request("a", 1, prompt_tokens=late)] if late else []
    w.submit(*after)
    return [w.is_admitted(ticket) for ticket in before], [w.is_admitted(t) for t in after]


def test_who_waited_for_the_load_is_served_in_the_same_turn() -> None:
    assert turn(9, 9, 9, 9) == ([True] * 4, [])
    assert turn(3, 3, late=3) == ([True] * 2, [True])
    assert turn(9, 9, late=3) == ([True] * 2, [False])


def test_a_turn_ends_after_the_long_quantum_whoever_waits() -> None:
    assert turn(20, 20, 20, 20) == ([True] * 3 + [False], [])


def test_who_waited_for_the_load_and_left_lengthens_no_turn() -> None:
    w = World(1, quantum_tokens=10, slot_quantum_tokens=50, max_running=1)
    served, gone, other = request("a", 1, prompt_tokens=10), request("a", 1), request("b", 2)
    for ticket in (served, gone, other):
        w.core.submit(ticket)
    w.run()
    assert w.state(version(1, "a")) is SlotState.READY
    w.leave(gone)
    assert w.state(version(1, "a")) is SlotState.DRAINING


def test_generated_tokens_use_up_the_quantum() -> None:
    w = world()
    holder, other = request("a", 1), request("b", 2)
    w.submit(holder, other)
    w.core.charge(holder, QUANTUM - 2)
    early = request("a", 1)
    w.submit(early)
    assert w.is_admitted(early)
    late = request("a", 1)
    w.submit(late)
    assert not w.is_admitted(late)


def test_a_slow_version_keeps_its_slot_no_longer_than_the_others() -> None:
    w = world(2)
    slow, busy = request("a", 1), request("a")
    w.submit(slow, busy, request("b", 2), request("c", 3))
    w.core.charge(busy, 2 * QUANTUM)
    late = request("a", 1)
    w.submit(late)
    assert not w.is_admitted(late)


def test_a_drained_slot_opens_again_when_nobody_waits_for_it() -> None:
    w = world()
    holder, other = request("a", 1), request("b", 2)
    w.submit(holder, other)
    w.core.charge(holder, QUANTUM)
    late = request("a", 1)
    w.submit(late)
    assert not w.is_admitted(late)
    w.leave(other)
    assert w.is_admitted(late)
    assert w.state(version(1, "a")) is SlotState.READY


def test_no_more_slots_drain_than_are_wanted() -> None:
    w = world(3)
    holders = [request("a", number) for number in range(3)]
    w.submit(*holders, request("b", 9))
    for number, holder in enumerate(holders):
        w.core.charge(holder, QUANTUM + number)
    w.submit(*(request("a", number) for number in range(3)))
    # The one whose turn began first.
    assert [slot.version for slot in w.core.slots.draining()] == [version(0, "a")]


def test_a_long_answer_in_a_draining_slot_holds_up_nobody() -> None:
    w = world(2)
    long, short, other = request("a", 1), request("b", 2), request("c", 3)
    w.submit(long, short, other)
    w.core.charge(long, QUANTUM)
    w.submit(request("a", 1))
    assert w.state(version(1, "a")) is SlotState.DRAINING
    w.core.charge(long, 2 * QUANTUM)
    late = request("b", 2)
    w.submit(late)
    assert w.state(version(2, "b")) is SlotState.DRAINING
    w.leave(short)
    assert w.is_admitted(other)
    assert w.state(version(1, "a")) is SlotState.DRAINING
    w.leave(late)
    assert w.state(version(1, "a")) is SlotState.READY


def test_a_version_that_cannot_be_admitted_anyway_makes_nobody_leave() -> None:
    w = world(1, tenant_max_running=1)
    holder, base = request("a", 1), request("b")
    w.submit(holder, base, request("b", 2))
    w.core.charge(holder, 5 * QUANTUM)
    late = request("c")
    mine = request("a", 1)
    w.submit(late, mine)
    assert w.state(version(1, "a")) is SlotState.READY
    w.leave(holder)
    assert w.is_admitted(mine)
    w.leave(base)
    w.core.charge(mine, 5 * QUANTUM)
    w.leave(late)
    assert w.state(version(1, "a")) is SlotState.DRAINING


def test_a_version_whose_tenant_may_run_no_more_keeps_no_slot() -> None:
    w = world(1, tenant_max_running=1)
    held = request("a", 1)
    w.core.submit(held)
    base = request("a")
    w.core.submit(base)
    w.run()
    other = request("b", 2)
    w.submit(other)
    assert not w.is_admitted(held)
    assert w.is_admitted(other)


def test_requests_of_one_tenant_do_not_wait_for_its_others() -> None:
    w = world(1)
    held, stuck, free = request("a", 1), request("a", 2), request("a", 1)
    w.submit(held, stuck, free)
    assert w.is_admitted(free)
    assert not w.is_admitted(stuck)


def test_a_version_is_served_before_it_leaves_though_places_are_full() -> None:
    w = world(1, max_running=1, quantum_tokens=1000)
    running = request("x")
    w.submit(running)
    loaded, other = request("a", 1), request("b", 2)
    w.submit(loaded, other)
    w.core.charge(running, 10 * QUANTUM)
    w.submit(swap(3, "c"), request("x"))
    assert w.unloads == []
    w.leave(running)
    if not w.is_admitted(loaded):
        w.leave(w.admitted[-1])
    assert w.is_admitted(loaded)


def test_a_tenant_uses_a_slot_that_it_was_given() -> None:
    w = world(1, max_running=1)
    running = request("a")
    w.submit(running, request("a", 1), *(request("a", priority=9) for _ in range(5)))
    w.leave(running)
    assert w.admitted[-1].version == version(1, "a")
    w.leave(w.admitted[-1])
    assert w.admitted[-1].version is None


def test_slots_go_round_over_tenants() -> None:
    w = world(1, slot_quantum_tokens=LOAD_TOKENS // 4)
    holder = request("x", 0)
    w.submit(holder, *(request("flood", number) for number in range(1, 6)), request("b", 9))
    w.leave(holder)
    while w.core.running:
        w.leave(w.admitted[-1])
    # A load is paid for: after so many it is the next round.
    assert [name.tenant for name in w.loads][1:4] == ["flood", "b", "flood"]
    # Within a tenant the one that has waited longest.
    assert [int(n.adapter[-1]) for n in w.loads if n.tenant == "flood"] == [1, 2, 3, 4, 5]


def test_of_the_tenants_in_one_round_the_one_that_waited_longest_gets_the_slot() -> None:
    w = world(1, slot_quantum_tokens=10 * LOAD_TOKENS)
    holder = request("x", 0)
    w.submit(holder, request("b", 1), request("a", 2), request("a", 3), request("b", 4))
    w.leave(holder)
    while w.core.running:
        w.leave(w.admitted[-1])
    assert [int(name.adapter[-1]) for name in w.loads] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("base", "quantum"), [(False, 256), (True, 256), (False, 16)])
def test_a_flood_of_versions_gains_nothing_in_the_long_run(base: bool, quantum: int) -> None:
    w = world(2, max_running=2, slot_quantum_tokens=1024, quantum_tokens=quantum)
    turns, versions = Counter[str](), count()
    asked: dict[str, list[Ticket]] = {"flood": [], "modest": []}
    for _ in range(600):
        while len(asked["flood"]) < 60:
            asked["flood"].append(request("flood", next(versions)))
            w.submit(asked["flood"][-1])
        while len(asked["modest"]) < 5:
            asked["modest"].append(request("modest", None if base else next(versions)))
            w.submit(asked["modest"][-1])
        ticket = next(ticket for ticket in w.admitted[-9:] if w.is_admitted(ticket))
        turns[ticket.tenant] += 1
        w.core.charge(ticket, 300)
        w.leave(ticket)
        asked[ticket.tenant].remove(ticket)
    assert turns["modest"] >= 260


def test_who_has_versions_loaded_and_never_runs_pays_for_it() -> None:
    w = world(1, slot_quantum_tokens=LOAD_TOKENS // 4)
    served = request("b", prompt_tokens=40)
    holder = request("x", 0)
    gone = [request("gone", number) for number in range(1, 4)]
    for ticket in [served, holder]:
        w.submit(ticket)
    for ticket in [*gone, request("b", 9)]:
        w.core.submit(ticket)
    w.core.leave(holder)
    w.finish(w.going[0])
    w.core.leave(gone[0])
    w.run()
    assert w.loads[1:3] == [version(1, "gone"), version(9, "b")]


def test_no_slot_for_who_may_run_no_more() -> None:
    w = world(1, tenant_max_running=1)
    holder, other = request("x", 0), request("b", 2)
    w.submit(holder, request("a"), request("a", 1), other)
    w.leave(holder)
    assert w.is_admitted(other)
    assert w.loads == [version(0, "x"), version(2, "b")]


def test_a_flood_holds_up_another_tenant_for_a_quantum_and_what_it_has_running() -> None:
    w = world(1)
    running = [request("a", 1, prompt_tokens=20) for _ in range(4)]
    w.submit(*running)
    left = {ticket: 128 - 32 * number for number, ticket in enumerate(running)}
    other = request("b", 1, prompt_tokens=20)
    w.submit(other)
    served = 0
    while not w.is_admitted(other):
        for ticket in list(left):
            w.core.charge(ticket, 1)
            served += 1
            left[ticket] -= 1
            if left[ticket] == 0:
                del left[ticket]
                w.leave(ticket)
                again = request("a", 1, prompt_tokens=20)
                w.submit(again)
                if w.is_admitted(again):
                    served += 20
                    left[again] = 128
    assert served <= QUANTUM + 4 * (20 + 128)


def test_sixty_four_versions_on_sixteen_slots_all_make_progress() -> None:
    w = world(16, max_running=32)
    done = dict.fromkeys(range(64), 0)
    left: dict[Ticket, int] = {}
    ahead = 0
    for number in range(64):
        # Zipf: the first ones keep several open.
        for _ in range(1 + 16 // (number + 1)):
            w.submit(request(f"t{number % 8}", number, prompt_tokens=8))
    steps = 0
    while min(done.values()) < 3:
        steps += 1
        assert steps < 20_000, done
        for ticket in w.admitted[ahead:]:
            left[ticket] = 32
        ahead = len(w.admitted)
        for ticket in list(left):
            w.core.charge(ticket, 1)
            left[ticket] -= 1
            if left[ticket] == 0:
                del left[ticket]
                assert ticket.version is not None
                number = int(ticket.version.adapter.partition("-")[2])
                done[number] += 1
                w.leave(ticket)
                w.submit(request(ticket.tenant, number, prompt_tokens=8))


def test_pins_leave_one_slot_and_are_counted_once() -> None:
    w = world(2)
    w.core.pin(version(1))
    w.core.pin(version(1))
    with pytest.raises(FailedPrecondition) as caught:
        w.core.pin(version(2))
    assert caught.value.reason == "PINS_EXHAUSTED"
    assert caught.value.metadata["limit"] == "1"
    w.core.unpin(version(1))
    w.core.unpin(version(1))
    w.core.pin(version(2))
    with pytest.raises(FailedPrecondition):
        world(1).core.pin(version(1))


def test_a_pinned_version_stays_idle_or_busy() -> None:
    w = world(2)
    pinned = request("a", 1)
    w.core.pin(version(1, "a"))
    w.submit(pinned)
    w.leave(pinned)
    first = request("a", 2)
    w.submit(first, request("b", 3), swap(4, "c"))
    assert w.state(version(2, "a")) is SlotState.DRAINING
    w.leave(first)
    assert w.unloads[0] == version(2, "a")
    assert w.state(version(1, "a")) is SlotState.READY
    again = request("a", 1, prompt_tokens=5 * QUANTUM)
    w.submit(again, request("a", 1))
    assert len(w.core.slots.draining()) == 1
    assert w.core.slots.get(version(1, "a")) not in w.core.slots.draining()


def test_pinning_a_draining_version_opens_it_and_unpinning_lets_it_go() -> None:
    w = world(2)
    holder, other = request("a", 1), request("x", 9)
    w.submit(holder, other, request("b", 2))
    w.core.charge(holder, QUANTUM)
    late = request("a", 1)
    w.submit(late)
    assert not w.is_admitted(late)
    w.core.pin(version(1, "a"))
    assert w.is_admitted(late)
    w.leave(holder, late)
    assert not w.unloads
    w.core.unpin(version(1, "a"))
    assert w.unloads == [version(1, "a")]


def test_a_swap_costs_no_place_and_no_tokens() -> None:
    w = world(2, max_running=1, requests_per_second=0.5, tenant_max_running=1)
    w.submit(request("a", 1))
    swaps = [swap(2, "a"), swap(2, "a"), Ticket("a", None, swap=True)]
    w.submit(*swaps)
    assert all(map(w.is_admitted, swaps))
    w.core.charge(swaps[0], 100)
    assert w.core.total == 1
    assert w.core.running == 1
    w.leave(*swaps)
    assert w.state(version(2, "a")) is SlotState.READY


def test_a_swap_goes_before_requests_that_have_waited_longer() -> None:
    w = world(1)
    holder, waiting, promoted = request("a", 1), request("b", 2), swap(3, "c")
    w.submit(holder, waiting, promoted)
    w.leave(holder)
    assert w.is_admitted(promoted)
    assert not w.is_admitted(waiting)
    w.leave(promoted)
    assert w.is_admitted(waiting)


def test_swaps_do_not_starve_requests() -> None:
    w = world(1)
    holder, waiting = request("a", 1), request("b", 2)
    w.submit(holder, swap(3), waiting, swap(4))
    w.leave(holder)
    w.leave(w.admitted[-1])
    assert w.is_admitted(waiting)


def test_a_swap_closes_a_busy_slot_at_once() -> None:
    w = world(2)
    holders = [request("a", 1), request("b", 2)]
    w.submit(*holders)
    w.submit(request("a", 1, prompt_tokens=9))
    promoted = swap(3)
    w.submit(promoted)
    # The one whose last admission is the longest ago.
    assert [slot.version for slot in w.core.slots.draining()] == [version(2, "b")]
    w.leave(holders[1])
    assert w.is_admitted(promoted)


def test_a_swap_closes_a_retired_version_and_rather_not_one_that_a_swap_holds() -> None:
    w = world(3)
    w.submit(swap(1), request("a", 2), request("a", 3))
    w.submit(swap(4))
    assert w.state(version(2, "a")) is SlotState.DRAINING
    w.core.retire(version(1))
    w.submit(swap(5))
    assert w.state(version(1)) is SlotState.DRAINING


def test_a_swap_drains_the_version_that_it_replaces() -> None:
    w = world(3)
    holders = [request("a", number) for number in (1, 2, 3)]
    w.submit(*holders)
    w.core.charge(holders[2], 1)
    w.submit(swap(4, "a", replaces=version(1, "a")))
    assert [slot.version for slot in w.core.slots.draining()] == [version(1, "a")]


def test_a_swap_takes_an_idle_slot_rather_than_the_one_it_replaces() -> None:
    w = world(2)
    held, idle = request("a", 1), request("b", 2)
    w.submit(held, idle)
    w.leave(idle)
    promoted = swap(3, "a", replaces=version(1, "a"))
    w.submit(promoted)
    assert w.is_admitted(promoted)
    assert w.unloads == [version(2, "b")]


def test_the_only_slot_drains_for_a_swap_and_says_so() -> None:
    w = world(1)
    holder, promoted = request("a", 1), swap(2)
    with structlog.testing.capture_logs() as logs:
        w.submit(holder, promoted)
    assert [(log["event"], log["version"]) for log in logs] == [
        ("the only slot drains for a swap", str(version(1, "a")))
    ]
    late = request("a", 1)
    w.submit(late)
    assert not w.is_admitted(late)
    w.leave(holder)
    assert w.is_admitted(promoted)


def test_two_swaps_and_one_slot() -> None:
    w = world(1)
    first, second = swap(1), swap(2)
    w.submit(first, second)
    assert w.is_admitted(first)
    assert not w.is_admitted(second)
    w.leave(first)
    assert w.is_admitted(second)
    w.leave(second)
    w.assert_empty()


def test_requests_run_beside_the_swap_that_holds_the_slot() -> None:
    w = world(1)
    held = swap(1, "a")
    w.submit(held, request("b", 2))
    mine = request("a", 1)
    w.submit(mine)
    assert w.is_admitted(mine)


def test_a_swap_joins_a_version_that_drains() -> None:
    """Its holder may be the one who asks: waiting for the drain, it would wait for itself."""
    w = world(1)
    outer = swap(1)
    w.submit(outer, swap(2))
    assert w.state(version(1)) is SlotState.DRAINING
    inner = swap(1)
    w.submit(inner)
    assert w.is_admitted(inner)
    w.leave(inner)
    assert w.state(version(1)) is SlotState.DRAINING


def test_who_comes_while_its_version_leaves_has_it_loaded_again() -> None:
    w = world(1)
    holder, other = request("a", 1), request("b", 2)
    w.submit(holder, other)
    w.core.leave(holder)
    assert w.state(version(1, "a")) is SlotState.UNLOADING
    mine, warm = request("a", 1), swap(1, "a")
    w.core.submit(mine)
    w.core.submit(warm)
    w.run()
    assert w.is_admitted(warm)
    w.leave(warm)
    w.leave(*[ticket for ticket in (mine, other) if w.is_admitted(ticket)])
    assert w.is_admitted(other)
    assert mine in w.admitted


def test_a_swap_that_goes_asks_for_nothing() -> None:
    w = world(1)
    holder, gone, stays = request("a", 1), swap(2), swap(2)
    w.submit(holder, gone, stays)
    w.leave(gone)
    assert w.state(version(1, "a")) is SlotState.DRAINING
    w.leave(stays)
    assert w.state(version(1, "a")) is SlotState.READY
    assert w.loads == [version(1, "a")]
