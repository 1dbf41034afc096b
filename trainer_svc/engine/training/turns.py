"""Whose records go into the next forward pass: deficit round robin over tokens. Pure.

M. Shreedhar, G. Varghese: Efficient Fair Queuing Using Deficit Round Robin (1996).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Turns:
    """Gives each job its equal share of every pass, and saves up for records longer than that.

    No job takes more than it has saved up, so that one with small steps does not wait for one with
    large ones, nor one with short records for one with long ones, nor the other way round.
    """

    def __init__(self) -> None:
        self._credit: dict[str, int] = {}
        """Tokens saved up by each job; its order is the order of the turns."""

    def take(self, waiting: Mapping[str, Sequence[int]], room: int) -> dict[str, int]:
        """Return how many of its waiting records each job gets into a pass of `room` tokens.

        `waiting` holds each job's record lengths, in order, at least one a job. At least one
        record is taken, even if it is longer than `room`; a job that gets none is left out.
        """
        order = [job for job in self._credit if job in waiting]
        order += [job for job in waiting if job not in self._credit]
        share = max(1, room // len(waiting))
        credit = {job: self._credit.get(job, 0) for job in order}
        counts: dict[str, int] = {}
        left = room
        while not counts:
            refused: list[str] = []
            for job, lengths in ((job, waiting[job]) for job in order):
                credit[job] = min(credit[job] + share, 2 * max(room, lengths[0]))
                count = _affordable(lengths, credit[job])
                fitting = _affordable(lengths[:count], left) or int(count > 0 and not counts)
                if fitting:
                    counts[job] = fitting
                    used = sum(lengths[:fitting])
                    left -= used
                    credit[job] -= used
                elif count:
                    refused.append(job)
                if fitting == len(lengths):
                    credit[job] = 0
        first = [*refused, *(job for job in order if job not in counts and job not in refused)]
        self._credit = {job: credit[job] for job in [*first, *counts]}
        return counts


def _affordable(lengths: Sequence[int], tokens: int) -> int:
    """Return how many of the first records are `tokens` tokens or fewer together."""
    for count, length in enumerate(lengths):
        tokens -= length
        if tokens < 0:
            return count
    return len(lengths)
