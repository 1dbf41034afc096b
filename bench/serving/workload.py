"""The plans of the cells: who asks what, how often, how much at once. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

from bench.serving.plan import Ask, Group, Plan
from bench.serving.stats import zipf

_LIMIT_SECONDS = 240.0

# Every prompt of a run is another one, so that no server has it in its prefix cache.
_numbers: Iterator[int] = count(1)


def base_plan(tenants: Sequence[str], streams: int, rounds: int, tokens: int) -> Plan:
    """Return `streams` streams of the base, each of `rounds` requests of `tokens` tokens."""
    return _even(tenants, streams, rounds, tokens, adapted=False)


def chats_plan(tenants: Sequence[str], streams: int, rounds: int, tokens: int) -> Plan:
    """Return the same as chats."""
    (group,) = base_plan(tenants, streams, rounds, tokens).groups
    chats = tuple(tuple(replace(ask, chat=True) for ask in stream) for stream in group.streams)
    return Plan((replace(group, streams=chats),), _LIMIT_SECONDS)


def adapters_plan(tenants: Sequence[str], streams: int, rounds: int, tokens: int) -> Plan:
    """Return the same over the adapters of `tenants`, each with an equal share of the streams."""
    return _even(tenants, streams, rounds, tokens, adapted=True)


def one_by_one(tenants: Sequence[str], tokens: int, pause: float = 0.0) -> Plan:
    """Return one stream that asks each tenant's adapter once."""
    asks = tuple(_ask(tenant, tokens) for tenant in tenants)
    return Plan((Group("only", (asks,), pause=pause),), _LIMIT_SECONDS)


def zipf_plan(tenants: Sequence[str], streams: int, rounds: int, tokens: int, seed: int) -> Plan:
    """Return streams whose every request draws its adapter by Zipf's law."""
    draws = iter(zipf(streams * rounds, len(tenants), seed))
    made = tuple(
        tuple(_ask(tenants[next(draws)], tokens) for _ in range(rounds)) for _ in range(streams)
    )
    return Plan((Group("only", made),), _LIMIT_SECONDS)


def flood_plan(flooding: str, other: str, seconds: float) -> Plan:
    """Return four open requests of 128 tokens of one tenant, and one at a time of another.

    The other's group is "other". The four begin apart, as callers do that know nothing of each
    other: begun together they would end together, with nothing open for that moment.
    """
    flood = [
        Group("flood", ((_ask(flooding, 128),),), repeat_seconds=seconds, delay=number / 4)
        for number in range(4)
    ]
    quiet = ((_ask(other, 8),),)
    groups = (*flood, Group("other", quiet, repeat_seconds=seconds, delay=1.0, pause=1.0))
    return Plan(groups, seconds + _LIMIT_SECONDS)


def background_plan(
    background: Sequence[str], streams: int, tokens: int, guests: Sequence[str], seconds: float
) -> Plan:
    """Return streams over the adapters of `background`, and beside them one request per guest.

    The groups are "background" and "guests".
    """
    steady = tuple(
        (_ask(background[number % len(background)], tokens),) for number in range(streams)
    )
    visits = tuple(_ask(tenant, 8) for tenant in guests)
    groups = (
        Group("background", steady, repeat_seconds=seconds),
        Group("guests", (visits,), delay=1.0, pause=0.5),
    )
    return Plan(groups, seconds + _LIMIT_SECONDS)


def _even(tenants: Sequence[str], streams: int, rounds: int, tokens: int, *, adapted: bool) -> Plan:
    made = tuple(
        tuple(_ask(tenants[number % len(tenants)], tokens, adapted) for _ in range(rounds))
        for number in range(streams)
    )
    return Plan((Group("only", made),), _LIMIT_SECONDS)


def _ask(tenant: str, tokens: int, adapted: bool = True) -> Ask:
    number = next(_numbers)
    prompt = f"Order {number:05d}: say when it will arrive, and where it is now."
    return Ask(tenant, adapted, prompt, tokens)
