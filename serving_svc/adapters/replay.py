"""What the engine makes of probe sequences, with and without an adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from serving_svc.adapters.model import LoadedAdapter
from tailorbird.manifest import ProbeSequence

Logprobs = list[list[float]]


class ProbeEngine(Protocol):
    """What a replay needs of the engine."""

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        """Return the logprob of each token but the first, given those before it, in nats."""


async def replay(
    engine: ProbeEngine, sequences: Sequence[Sequence[int]], adapter: LoadedAdapter
) -> tuple[Logprobs, Logprobs]:
    """Return the logprobs of each sequence under the base, and under the adapter.

    When one fails the others have ended before its error is raised: no probe still runs when the
    adapter is removed.
    """
    try:
        async with asyncio.TaskGroup() as group:
            base, served = (
                [group.create_task(engine.prompt_logprobs(ids, of)) for ids in sequences]
                for of in (None, adapter)
            )
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in base], [task.result() for task in served]


def effect(probe: ProbeSequence) -> float:
    """Return the mean distance between adapter and base, in nats a token."""
    pairs = zip(probe.base_logprobs, probe.adapter_logprobs, strict=True)
    return sum(abs(adapter - base) for base, adapter in pairs) / len(probe.base_logprobs)
