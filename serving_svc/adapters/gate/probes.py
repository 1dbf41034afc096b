"""The certificate of a version: read before it is loaded, judged after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from serving_svc.adapters.gate.untrusted import read_small
from tailorbird.errors import AdapterRefused, DataCorrupt
from tailorbird.manifest import MAX_PROBES_BYTES, PROBES, Probes

PROBE_FLOORS = {"float32": 1e-4}
"""Nats per token below which two logprobs count as equal, by the engine's number format."""
PROBE_FLOOR_DEFAULT = 0.02

_NOISE_FACTOR = 3.0
_MAX_NOISE_LIMIT = 0.25
_ABSENT_SHARE = 0.1
_NEAR = 2.0
# Beyond what any softmax gives; a logprob just above 0 is rounding.
_LOGPROBS = (-1e4, 1e-2)


def read_probes(path: Path, vocab_size: int, max_model_len: int) -> Probes:
    """Return the probes; AdapterRefused (PROBES_INVALID) if the engine could not replay them."""
    try:
        probes = Probes.from_json(read_small(path, MAX_PROBES_BYTES))
    except DataCorrupt as error:
        raise _invalid(error.message) from error
    except ValueError as error:
        raise _invalid(f"{PROBES}: {error}") from error
    for probe in probes.sequences:
        # The engine wants room for one more token.
        if len(probe.token_ids) >= max_model_len:
            raise _invalid(
                f"a probe has {len(probe.token_ids)} tokens; at most {max_model_len - 1} fit"
            )
        if not all(0 <= token < vocab_size for token in probe.token_ids):
            raise _invalid(f"a probe has token ids outside [0, {vocab_size})")
        low, high = _LOGPROBS
        # Written so that NaN is refused as well.
        if not all(low <= told <= high for told in (*probe.base_logprobs, *probe.adapter_logprobs)):
            raise _invalid(f"a probe has logprobs outside [{low:g}, 0]")
    return probes


def judge_probes(
    probes: Probes,
    served_base: Sequence[Sequence[float]],
    served_adapter: Sequence[Sequence[float]],
    floor: float,
) -> None:
    """Compare what the engine computes with what the trainer computed, in nats per token.

    Two programs that compute the same model differ by rounding: how much is seen on the base alone.
    Refused: an error above 3 x the base's error, which counts as at most 0.25 and at least `floor`;
    less than a tenth of an effect that is at least `floor`; anything that is no number. A share of
    the effect is no measure: with two layers' names swapped, or half as much again of its scaling,
    an adapter is off by less than a fifth of its effect.

    Retryable, since the engine rounds otherwise in another batch: an error up to twice the limit,
    and a base that gives no numbers, which no adapter is to blame for.
    """
    told_base = [value for probe in probes.sequences for value in probe.base_logprobs]
    told = [value for probe in probes.sequences for value in probe.adapter_logprobs]
    base = [value for values in served_base for value in values]
    served = [value for values in served_adapter for value in values]
    _check_finite(base, served)
    noise = _mean_distance(base, told_base)
    error = _mean_distance(served, told)
    effect = _mean_distance(told, told_base)
    served_effect = _mean_distance(served, base)
    if effect >= floor and served_effect < _ABSENT_SHARE * effect:
        raise AdapterRefused(
            f"the adapter's effect is absent: {served_effect:.4g} nats a token are served where "
            f"training saw {effect:.4g}",
            reason="EFFECT_ABSENT",
        )
    limit = max(min(_NOISE_FACTOR * noise, _MAX_NOISE_LIMIT), floor)
    if error > limit:
        raise AdapterRefused(
            f"the served logprobs are {error:.4g} nats a token away from training's; at most "
            f"{limit:.4g} is accepted, where the base alone is {noise:.4g} away",
            reason="PROBE_MISMATCH",
            retryable=error <= _NEAR * limit,
        )


def _check_finite(base: Sequence[float], served: Sequence[float]) -> None:
    if not all(map(math.isfinite, base)):
        raise AdapterRefused(
            "the engine gives no numbers for the base itself",
            reason="PROBE_MISMATCH",
            retryable=True,
        )
    if not all(map(math.isfinite, served)):
        raise AdapterRefused("the served logprobs are not all numbers", reason="NOT_FINITE")


def _mean_distance(left: Sequence[float], right: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(left, right, strict=True)) / len(left)


def _invalid(message: str) -> AdapterRefused:
    return AdapterRefused(message, reason="PROBES_INVALID")
