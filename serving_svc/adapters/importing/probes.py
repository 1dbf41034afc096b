"""The probes of an import: what the engine computes where the adapter's effect is largest."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from serving_svc.adapters.model import LoadedAdapter
from serving_svc.adapters.replay import ProbeEngine, effect, replay
from tailorbird.errors import AdapterRefused
from tailorbird.manifest import Probes, ProbeSequence

_CANDIDATES = 8
_KEPT = 4
_TOKENS = 24


def candidates(vocab_size: int, max_model_len: int, seed: str) -> list[tuple[int, ...]]:
    """Return token sequences spread over the vocabulary: the same ones for the same seed.

    They are text of no kind, so they need no tokenizer and show an adapter's effect on any.
    """
    drawn = random.Random(seed)  # noqa: S311
    # The engine wants room for one more token.
    length = min(_TOKENS, max_model_len - 1)
    return [tuple(drawn.choices(range(vocab_size), k=length)) for _ in range(_CANDIDATES)]


def unmeasured(sequences: Sequence[tuple[int, ...]]) -> Probes:
    """Return probes that say nothing yet of `sequences`, for checks made before measuring."""
    return Probes(
        sequences=tuple(
            ProbeSequence(
                token_ids=ids,
                base_logprobs=(0.0,) * (len(ids) - 1),
                adapter_logprobs=(0.0,) * (len(ids) - 1),
            )
            for ids in sequences[:_KEPT]
        )
    )


async def measured(
    engine: ProbeEngine,
    adapter: LoadedAdapter,
    sequences: Sequence[tuple[int, ...]],
    floor: float,
) -> Probes:
    """Return the four probes on which the adapter's effect is largest.

    AdapterRefused: NOT_FINITE, or EFFECT_ABSENT if no sequence's effect reaches `floor`, in nats
    per token, below which two logprobs count as equal.
    """
    base, served = await replay(engine, sequences, adapter)
    if not all(math.isfinite(value) for values in base for value in values):
        raise AdapterRefused(
            "the engine gives no numbers for the base itself",
            reason="PROBE_MISMATCH",
            retryable=True,
        )
    if not all(math.isfinite(value) for values in served for value in values):
        raise AdapterRefused("the served logprobs are not all numbers", reason="NOT_FINITE")
    probes = [
        ProbeSequence(
            token_ids=ids,
            base_logprobs=tuple(of_base),
            adapter_logprobs=tuple(of_adapter),
        )
        for ids, of_base, of_adapter in zip(sequences, base, served, strict=True)
    ]
    kept = sorted(probes, key=effect, reverse=True)[:_KEPT]
    if effect(kept[0]) < floor:
        raise AdapterRefused(
            f"the adapter changes the base by {effect(kept[0]):.4g} nats a token; an effect below "
            f"{floor:g} cannot be told from rounding",
            reason="EFFECT_ABSENT",
        )
    return Probes(sequences=tuple(kept))
