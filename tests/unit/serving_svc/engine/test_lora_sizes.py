"""In how few sizes the LoRA kernels multiply, and what a swap costs them."""

from __future__ import annotations

import pytest
import torch

from serving_svc.engine.packed_weights import LinearWeights
from serving_svc.engine.sizes import few_sizes
from serving_svc.engine.token_groups import TokenGroups
from tests.unit.serving_svc.engine.test_grouped_lora import IDS, RANKS, Layer


def test_sizes_are_few_and_little_larger() -> None:
    sizes = [few_sizes(count) for count in range(1, 257)]
    assert sorted(set(sizes)) == [16, 32, 48, 64, 96, 128, 192, 256]
    for count, size in enumerate(sizes, 1):
        assert count <= size <= max(16, 2 * count - 1)
        assert few_sizes(size) == size
    assert {few_sizes(count, 32) for count in range(1, 129)} == {32, 64, 96, 128}


@pytest.mark.parametrize("slots", [[0] * 16 + [1] * 32, [0] * 5 + [-1] * 3 + [1] * 40])
def test_each_slots_tokens_are_laid_in_such_a_size(slots: list[int]) -> None:
    groups = TokenGroups(torch.tensor(slots))
    laid = groups.arrangement
    for slot, (begin, end) in laid.ranges.items():
        assert end - begin == few_sizes(slots.count(slot))
    if slots.count(1) == 32:
        assert laid.order is laid.places is None
        return
    assert laid.order is not None
    assert laid.places is not None
    assert torch.equal(laid.order[laid.places], torch.arange(len(slots)))
    for slot, (begin, end) in laid.ranges.items():
        assert {slots[token] for token in laid.order[begin:end].tolist()} == {slot}


def test_columns_are_padded_with_zeros() -> None:
    layer = Layer((40, 24, 24)).filled()
    packed = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked).packed(
        (0, 1, 2), torch.float32, IDS
    )
    used = sum(RANKS[:3])
    assert packed.a.size(1) == few_sizes(used, 32) == len(packed.slot_of_column)
    assert not packed.a[:, used:].any()
    for run in packed.runs:
        assert not run.b[:, used:].any()


def test_a_slot_filled_at_the_same_rank_is_written_over() -> None:
    layer = Layer().filled()
    weights = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked)
    before = weights.packed((0, 1, 2, 3), torch.float32, IDS)
    layer.fill(1, RANKS[1], seed=5)
    after = weights.packed((0, 1, 2, 3), torch.float32, [11, 99, 13, 14])
    assert after is before
    again = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked).packed(
        (0, 1, 2, 3), torch.float32, IDS
    )
    assert torch.equal(after.a, again.a)
    for run, expected in zip(after.runs, again.runs, strict=True):
        assert torch.equal(run.b, expected.b)
    layer.fill(1, RANKS[1] + 1, seed=6)
    assert weights.packed((0, 1, 2, 3), torch.float32, [11, 98, 13, 14]) is not before


def test_another_adapter_with_the_same_first_row_is_seen() -> None:
    # As adapters are that were trained with A frozen.
    layer = Layer().filled()
    weights = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked)
    weights.packed((0, 1), torch.float32, IDS)
    for b in layer.lora_b_stacked:
        b[1] *= 2
    layer.fill(3, 4, seed=1)
    after = weights.packed((0, 1), torch.float32, [11, 50, 13, 51])
    first, past = after.columns[1]
    for run in after.runs:
        held = layer.lora_b_stacked[run.first][1, 0, :, : past - first].t()
        assert torch.equal(run.b[0, first:past], held)


def test_the_same_adapter_filled_again_is_read_again() -> None:
    layer = Layer().filled()
    weights = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked)
    weights.packed((0, 1), torch.float32, IDS)
    layer.lora_b_stacked[0][0] *= 2
    after = weights.packed((0, 1), torch.float32, IDS)
    first, past = after.columns[0]
    held = layer.lora_b_stacked[0][0, 0, :, : past - first].t()
    assert torch.equal(after.runs[0].b[0, first:past], held)


def test_an_adapter_that_is_no_longer_finite_and_is_again() -> None:
    layer = Layer().filled()
    weights = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked)
    assert not weights.packed((0, 1), torch.float32, IDS).not_finite
    layer.fill(1, RANKS[1], seed=2)
    layer.lora_b_stacked[0][1, 0, 0, 0] = float("inf")
    assert weights.packed((0, 1), torch.float32, [11, 70]).not_finite == {1}
    layer.fill(1, RANKS[1], seed=3)
    assert not weights.packed((0, 1), torch.float32, [11, 71]).not_finite


def test_an_adapter_that_leaves_the_layer_alone_gives_way_to_another_such() -> None:
    layer = Layer()
    layer.fill(0, 4)
    weights = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked)
    before = weights.packed((0, 1), torch.float32, IDS)
    layer.reset_lora(1)
    assert weights.packed((0, 1), torch.float32, [11, 90]) is before
    assert set(before.columns) == {0}
