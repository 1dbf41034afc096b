"""The number formats that a user of PEFT or TRL may choose."""

from __future__ import annotations

FLOAT32 = "float32"
AUTOCAST = "bfloat16_autocast"
"""Weights in float32, products in bfloat16."""
BFLOAT16 = "bfloat16"
"""The frozen weights in bfloat16, as the checkpoint is; what TRL does unasked."""

FORMATS = (FLOAT32, AUTOCAST, BFLOAT16)


def weights_dtype(number_format: str) -> str:
    """Return the dtype that the frozen weights are loaded in, by torch's name."""
    return BFLOAT16 if number_format == BFLOAT16 else FLOAT32
