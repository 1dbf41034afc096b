"""Prompts, what is made of them, and which of them begin alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_WORTH = 64
"""Tokens that must be saved by a prefix of its own: it is one more pass, and more calls a step."""


@dataclass(frozen=True)
class Prompt:
    """What to go on from. `job` names the attached adapter; None: the base alone."""

    token_ids: Sequence[int]
    """One at least."""
    job: str | None
    max_new_tokens: int


@dataclass(frozen=True)
class Generated:
    """An answer. It ended by a stop token, by a bound, or because the adapter is broken."""

    token_ids: Sequence[int]
    """Without the stop token."""
    stopped: bool
    truncated: bool
    """By max_new_tokens or by the base's context."""
    broken: bool
    """Logits were not finite after these tokens."""


@dataclass(frozen=True)
class Alike:
    """Prompts of one job that share their first `prefix` tokens; each has at least one more."""

    job: str | None
    prefix: int
    members: Sequence[int]
    """Their numbers, shorter prompts first."""


def alike(prompts: Sequence[Prompt], numbers: Sequence[int], *, share: bool) -> list[Alike]:
    """Put prompts together so that shared prefixes save most tokens; without `share`, by job.

    `numbers` are of those to place.
    """
    by_job: dict[str | None, list[int]] = {}
    for number in numbers:
        by_job.setdefault(prompts[number].job, []).append(number)
    found = []
    for job, members in by_job.items():
        groups = _groups([prompts[n].token_ids for n in members]) if share else [(members, 0)]
        for places, prefix in groups:
            of_group = [members[place] for place in places] if share else places
            of_group.sort(key=lambda number: len(prompts[number].token_ids))
            found.append(Alike(job, prefix, of_group))
    return found


def _groups(prompts: Sequence[Sequence[int]]) -> list[tuple[list[int], int]]:
    """Return the places of prompts that share a prefix, and its length.

    Sorted, prompts that begin alike are neighbours. Where neighbours share least, a group may fall
    into parts: a part leaves it if by a longer prefix it saves more.
    """
    ids = [tuple(prompt) for prompt in prompts]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    common = [_common(ids[one], ids[other]) for one, other in pairwise(order)]
    groups: list[tuple[list[int], int]] = []
    left = [(0, len(order))]
    while left:
        start, stop = left.pop()
        least = min(common[start : stop - 1], default=0)
        rest: list[int] = []
        cuts = [at for at in range(start, stop - 1) if common[at] == least]
        for first, last in pairwise([start, *(at + 1 for at in cuts), stop]):
            own = min(common[first : last - 1], default=0)
            if (last - first - 1) * own > (last - first) * least + _WORTH:
                left.append((first, last))
            else:
                rest += order[first:last]
        if rest:
            groups.append((rest, least if (len(rest) - 1) * least >= _WORTH else 0))
    return groups


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many first tokens are the same, one token less than either has at most."""
    low, high = 0, min(len(one), len(other)) - 1
    # By halves, for long prompts are compared as a whole much faster than token by token.
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
