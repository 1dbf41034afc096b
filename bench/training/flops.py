"""How much arithmetic a step is, and how much a device can do. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from bench.training.sizes import LlamaShape

_PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.4,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "L40S": 362.0,
    "A100": 312.0,
    "A10G": 70.0,
    "L4": 121.0,
}
"""Dense bfloat16 on tensor cores, from NVIDIA's data sheets; more special names come first."""


def product_parameters(shape: LlamaShape) -> int:
    """Return the weights that every token is multiplied by, the head's included."""
    query = shape.heads * shape.head_dim
    key_value = 2 * shape.key_value_heads * shape.head_dim
    attention = shape.hidden_size * (2 * query + key_value)
    feed_forward = 3 * shape.hidden_size * shape.intermediate_size
    head = shape.hidden_size * shape.vocabulary
    return shape.layers * (attention + feed_forward) + head


def step_flops(shape: LlamaShape, lengths: Iterable[int]) -> float:
    """Return the floating-point operations of training adapters on records of these lengths.

    4 per parameter and token, since frozen weights need no gradient; and causal attention's: two
    products of length²/2 · width forward, four backward, 2 operations each. The adapters' own
    products, and what is computed twice to save memory, do not count.
    """
    lengths = list(lengths)
    width = shape.heads * shape.head_dim
    attention = shape.layers * 6 * width * sum(length**2 for length in lengths)
    return 4.0 * product_parameters(shape) * sum(lengths) + attention


def peak_tflops(device_name: str) -> float | None:
    """Return what the device can do in bfloat16, or None for one that is not known."""
    for name, peak in _PEAK_TFLOPS.items():
        if name.lower() in device_name.lower():
            return peak
    return None
