"""What is left of the base's general ability after tuning: losses on general texts, questions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer_svc.judgement.model import EvaluationSpec, Retention

_MAX_LOSS = 1000.0
"""Nats per token; what a loss that is not a number is told as, since JSON knows none."""


def retention_of(
    base_losses: Sequence[float],
    tuned_losses: Sequence[float],
    tokens: Sequence[int],
    base_right: Sequence[bool],
    tuned_right: Sequence[bool],
) -> Retention:
    """Return what was kept, of each text's loss (nats per token) and length, and each question.

    Texts weigh by their tokens. Only questions that the base gets right can be forgotten.
    ValueError: the lists are not of one length.
    """
    weighed = list(zip(base_losses, tuned_losses, tokens, strict=True))
    known = [tuned for base, tuned in zip(base_right, tuned_right, strict=True) if base]
    return Retention(
        texts=len(weighed),
        base_loss=_mean([(base, count) for base, _, count in weighed]),
        tuned_loss=_mean([(tuned, count) for _, tuned, count in weighed]),
        questions=len(known),
        forgotten=known.count(False),
    )


def retention_failures(spec: EvaluationSpec, retention: Retention) -> list[tuple[str, str]]:
    """Return the reason and message of each bound that is broken: RETENTION_LOSS, FORGOTTEN."""
    failures = []
    rise = retention.tuned_loss - retention.base_loss
    if rise > spec.max_retention_loss:
        failures.append(
            (
                "RETENTION_LOSS",
                f"the loss on {retention.texts} general texts rose by {rise:.3f} nats per token"
                f" ({retention.base_loss:.3f} to {retention.tuned_loss:.3f});"
                f" at most {spec.max_retention_loss:g} is allowed",
            )
        )
    if retention.forgotten > spec.max_forgotten * retention.questions:
        failures.append(
            (
                "FORGOTTEN",
                f"{retention.forgotten} of {retention.questions} general questions that the base"
                f" gets right are now wrong; at most {spec.max_forgotten:.0%} may be",
            )
        )
    return failures


def _mean(losses: Sequence[tuple[float, int]]) -> float:
    total = sum(count for _, count in losses)
    if not total:
        return 0.0
    mean = sum(loss * count for loss, count in losses) / total
    return min(mean, _MAX_LOSS) if math.isfinite(mean) else _MAX_LOSS
