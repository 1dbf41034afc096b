"""What serving would refuse for its numbers is not published."""

from __future__ import annotations

import torch

from tailorbird.adapter_numbers import LARGEST, Numbers, check_numbers, scaling_of
from tailorbird.errors import AdapterRefused, FailedPrecondition
from trainer_svc.engine.result.judging import Judged


def check_servable(judged: Judged, dtype: torch.dtype) -> None:
    """Put the weights through the check that serving's gate puts them through; blocking.

    `dtype` is the base checkpoint's, in which it is served. Raises FailedPrecondition with the
    gate's reason, NOT_FINITE.
    """
    config = judged.config
    served = str(dtype).removeprefix("torch.")
    matrices = {
        name: Numbers(tuple(tensor.shape), (rows.float().numpy() for rows in [tensor]))
        for name, tensor in judged.tensors.items()
    }
    try:
        check_numbers(
            matrices,
            scaling_of(config.r, config.lora_alpha, config.use_rslora),
            served if served in LARGEST else "float32",
        )
    except AdapterRefused as refusal:
        raise FailedPrecondition(
            f"serving would refuse the adapter: {refusal.message}; try a lower learning rate or "
            "lora.alpha",
            reason=refusal.reason,
            dtype=served,
        ) from refusal
