"""The learning rate of a job that names none. Pure."""

from __future__ import annotations

import math

from trainer_svc.jobs.model import LoraSpec

_USUAL_SCALING = 2.0
_MOST_CORRECTION = 4.0


def lora_scaling(lora: LoraSpec) -> float:
    """Return the factor of the low-rank update: alpha / rank, or with rsLoRA alpha / sqrt(rank)."""
    return lora.alpha / (math.sqrt(lora.rank) if lora.use_rslora else lora.rank)


def auto_learning_rate(hidden_size: int, lora: LoraSpec) -> float:
    """Return LoRA's peak learning rate for a base of this width.

    About ten times full fine-tuning's and nearly independent of rank: LoRA Without Regret
    (Thinking Machines, 2025) and Tinker's `get_lr` for Llama-like models, for alpha = 2 * rank.
    AdamW's steps have one size, so that the update grows as scaling times rate: another scaling
    gets the rate that keeps their product, but no more than four times as high or low.
    """
    # An alpha next to 0 has a scaling of 0.
    least = _USUAL_SCALING / _MOST_CORRECTION
    correction = _USUAL_SCALING / max(lora_scaling(lora), least)
    bounded = max(correction, 1 / _MOST_CORRECTION)
    return float(5e-4 * (2000 / hidden_size) ** 0.78) * bounded
