"""Our LoRA kernels for a CPU against vLLM's own and against float64."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.layers.column_parallel_linear import MergedQKVParallelLinearWithLoRA
from vllm.lora.punica_wrapper.punica_base import PunicaWrapperBase
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.utils.import_utils import resolve_obj_by_qualname

from serving_svc.engine import cpu_lora, grouped_lora
from serving_svc.engine.grouped_lora import GroupedLora
from serving_svc.engine.packed_weights import LinearWeights

SLOTS, CAP, INPUTS = 4, 32, 64
IDS: list[int | None] = [11, 12, 13, 14]
RANKS = (8, 3, 32, 16)
FULL = tuple(range(SLOTS))
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
# Those whose products vLLM's own kernels can make in bfloat16 (vnni.py), and those they cannot.
WIDTHS = [(64,), (64, 32, 32), (32, 32), (40,), (40, 24, 24), (24, 24), (64, 24, 24)]


class Layer:
    """A linear layer's adapters, written and cleared by vLLM's own code."""

    def __init__(self, widths: Sequence[int] = (40, 24, 24), dtype: torch.dtype = torch.float32):
        self.tp_size, self.n_slices, self.output_slices = 1, len(widths), tuple(widths)
        self.lora_a_stacked = tuple(torch.zeros(SLOTS, 1, CAP, INPUTS, dtype=dtype) for _ in widths)
        self.lora_b_stacked = tuple(
            torch.zeros(SLOTS, 1, width, CAP, dtype=dtype) for width in widths
        )

    def reset_lora(self, slot: int) -> None:
        MergedQKVParallelLinearWithLoRA.reset_lora(self, slot)

    def fill(self, slot: int, rank: int, seed: int = 0, scale: float = 1.0) -> None:
        random = torch.Generator().manual_seed(100 * seed + slot)
        a = [torch.randn(rank, INPUTS, generator=random) for _ in self.output_slices]
        b = [torch.randn(w, rank, generator=random) * scale / 8 for w in self.output_slices]
        MergedQKVParallelLinearWithLoRA.set_lora(self, slot, a, b)

    def filled(self, ranks: Sequence[int] = RANKS) -> Layer:
        for slot, rank in enumerate(ranks):
            self.fill(slot, rank)
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self.lora_a_stacked[0].dtype

    def inputs(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        random = torch.Generator().manual_seed(7)
        x = torch.randn(tokens, INPUTS, generator=random)
        y = torch.randn(tokens, sum(self.output_slices), generator=random)
        return x.to(self.dtype), y.to(self.dtype)

    def exact(self, x: torch.Tensor, y: torch.Tensor, slots: Sequence[int]) -> torch.Tensor:
        rows = []
        for row, base, slot in zip(x.double(), y.double(), slots, strict=True):
            pairs = zip(self.lora_a_stacked, self.lora_b_stacked, strict=True)
            parts = [row @ a[slot, 0].double().T @ b[slot, 0].double().T for a, b in pairs]
            rows.append(base if slot < 0 else base + torch.cat(parts))
        return torch.stack(rows)

    def added(self, wrapper: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y = y.clone()
        wrapper.add_lora_linear(
            y, x, self.lora_a_stacked, self.lora_b_stacked, 1.0, self.output_slices
        )
        return y


def step(wrapper: Any, slots: Sequence[int]) -> None:
    ids = tuple(0 if slot < 0 else int(IDS[slot] or 0) for slot in slots)
    wrapper.update_metadata(LoRAMapping(ids, ids, is_prefill=True), IDS, SLOTS + 1, 100)


def ours(slots: Sequence[int]) -> GroupedLora:
    wrapper = GroupedLora(256, 256, "cpu")
    step(wrapper, slots)
    return wrapper


BATCHES = {
    "prompts": [0] * 9 + [2] * 5 + [3] * 7,
    "prompts with the base between": [1] * 4 + [-1] * 3 + [0] * 6 + [-1] * 2,
    "decoding": [3, 0, 1, 0, 2, 3, 3, 1],
    "decoding with the base": [-1, 0, 3, -1, 0, 2, 3, -1],
    "one adapter": [1] * 5,
    "one adapter and the base, mixed": [1, -1, 1, -1],
    "one token": [2],
    "the base": [-1] * 6,
}


@pytest.fixture(params=["dense", "grouped"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    cost = 10**12 if request.param == "dense" else 0
    monkeypatch.setattr(grouped_lora, "_GROUP_COST", dict.fromkeys(DTYPES, cost))
    monkeypatch.setattr(grouped_lora, "_GROUP_COST_LAID", cost)
    return str(request.param)


@pytest.fixture(params=["float32", "bfloat16", "laid out"])
def make(request: pytest.FixtureRequest) -> Callable[[], Layer]:
    """Makes layers that torch multiplies, and one that vLLM's own products do (vnni.py)."""
    widths = (64, 32, 32) if request.param == "laid out" else (40, 24, 24)
    dtype = torch.float32 if request.param == "float32" else torch.bfloat16
    return lambda: Layer(widths, dtype)


def is_near(found: torch.Tensor, exact: torch.Tensor) -> bool:
    """Return whether they are the same but for the rounding of the first's number format."""
    precise = found.dtype is torch.float32
    rtol, atol = (1e-5, 1e-4) if precise else (0.02, 0.2)
    return torch.allclose(found.double(), exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("slots", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_further_from_exact_than_vllm(
    dtype: torch.dtype, widths: tuple[int, ...], slots: list[int], way: str
) -> None:
    layer = Layer(widths, dtype).filled()
    x, y = layer.inputs(len(slots))
    exact = layer.exact(x, y, slots)
    theirs = PunicaWrapperCPU(256, 256, "cpu")
    # vLLM's takes -1 for the last slot: what it should be for them is left out.
    step(theirs, [max(slot, 0) for slot in slots])
    adapted = torch.tensor(slots) >= 0
    stock_error = (layer.added(theirs, x, y) - exact)[adapted].square().mean().sqrt()
    result = layer.added(ours(slots), x, y)
    error = (result - exact)[adapted].square().mean().sqrt()
    assert torch.equal(result[~adapted], y[~adapted])
    if adapted.any():
        # In float32 both round differently and as little.
        assert error <= (5e-6 if dtype is torch.float32 else 1.1 * stock_error)
        assert not torch.equal(result[adapted], y[adapted])


def test_the_way_depends_on_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("_add_dense", "_add_grouped"):
        monkeypatch.setattr(grouped_lora, name, lambda *_, name=name: taken.append(name))
    layer = Layer().filled()
    for slots in ([0, 1, 2, 3], [0, 1] * 60, [2] * 4):
        layer.added(ours(slots), *layer.inputs(len(slots)))
    monkeypatch.setitem(grouped_lora._GROUP_COST, torch.float32, 10_000)
    layer.added(ours([0, 1] * 60), *layer.inputs(120))
    assert taken == ["_add_dense", "_add_dense", "_add_grouped", "_add_grouped"]


def test_scale(way: str) -> None:
    layer, slots = Layer().filled(), [0, 3, 1]
    x, y = layer.inputs(3)
    result = y.clone()
    ours(slots).add_lora_linear(
        result, x, layer.lora_a_stacked, layer.lora_b_stacked, 0.25, layer.output_slices
    )
    assert torch.allclose(result - y, (layer.exact(x, y, slots) - y).float() / 4, atol=1e-5)


def test_a_large_scaling_in_b(way: str, make: Callable[[], Layer]) -> None:
    # What rsLoRA gives: vLLM multiplies B by alpha / sqrt(rank) when it loads.
    layer, slots = make(), [0, 1, 0, 2, 3]
    for slot, rank in enumerate(RANKS):
        layer.fill(slot, rank, scale=64 / rank**0.5)
    x, y = layer.inputs(5)
    exact = layer.exact(x, y, slots)
    assert torch.allclose(layer.added(ours(slots), x, y).double(), exact, rtol=0.02, atol=0.5)


def test_weights_in_another_number_format(way: str) -> None:
    layer, slots = Layer().filled(), [0, 1, 2]
    x, y = layer.inputs(3)
    result = layer.added(ours(slots), x.bfloat16(), y.bfloat16())
    exact = layer.exact(x, y, slots)
    assert result.dtype is torch.bfloat16
    assert torch.allclose(result.double(), exact, rtol=0.02, atol=0.1)


@pytest.mark.parametrize("inference", [False, True])
def test_a_slot_filled_again_at_any_time(
    way: str, inference: bool, make: Callable[[], Layer]
) -> None:
    # The engine fills slots between steps and inside of them, under inference mode; the mapping may
    # stay as it is meanwhile.
    layer, slots = make(), [2, 0, 2, 1]
    x, y = layer.inputs(len(slots))
    wrapper = ours(slots)

    def check() -> None:
        assert is_near(layer.added(wrapper, x, y), layer.exact(x, y, slots))

    with torch.inference_mode(inference):
        check()
        for rank in (4, CAP, 1, 16):
            layer.fill(2, rank, seed=rank)
            check()
        layer.fill(0, 8)
        layer.fill(1, 8)
        check()
        layer.reset_lora(2)
        check()
        layer.fill(2, 2)
        layer.reset_lora(0)
        step(wrapper, slots)
        check()


def test_a_slot_that_this_step_leaves_out_is_filled(way: str, make: Callable[[], Layer]) -> None:
    layer = make().filled()
    wrapper = ours([0, 1, 2])
    x, y = layer.inputs(3)
    layer.added(wrapper, x, y)
    step(wrapper, [0, 1, 0])
    layer.added(wrapper, x, y)
    layer.fill(2, 5, seed=9)
    for slots in ([0, 1, 0], [2, 1, 0]):
        step(wrapper, slots)
        assert is_near(layer.added(wrapper, x, y), layer.exact(x, y, slots))


def test_only_true_ranks_are_multiplied() -> None:
    layer = Layer().filled()
    weights = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked)
    packed = weights.packed((0, 1), torch.float32)
    assert packed.columns == {0: (0, 8), 1: (8, 11)}
    # The next of the few sizes after 11 that vLLM's products can have: 32.
    assert packed.size == 32 * (3 * INPUTS + 40 + 24 + 24)


def test_slots_are_packed_again_only_for_need() -> None:
    layer = Layer().filled()
    weights = LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked)
    few = weights.packed((0, 1), torch.float32)
    assert weights.packed((0,), torch.float32) is few
    more = weights.packed((2, 3), torch.float32)
    assert more.slots == {0, 1, 2, 3}
    assert weights.packed(FULL, torch.float32) is more
    layer.fill(3, 1)
    assert weights.packed((1,), torch.float32).slots == {1}
    # Three would be more than twice what the step needs.
    weights.packed((1, 2), torch.float32)
    assert weights.packed((3,), torch.float32).slots == {3}


def test_layers_are_told_apart(way: str) -> None:
    slots = [0, 1]
    wrapper = ours(slots)
    for layer in (Layer().filled(), Layer((24, 24)).filled((1, 2, 3, 4))):
        x, y = layer.inputs(2)
        exact = layer.exact(x, y, slots)
        assert torch.allclose(layer.added(wrapper, x, y).double(), exact, atol=1e-4)


def test_a_layer_that_an_adapter_leaves_alone(way: str, make: Callable[[], Layer]) -> None:
    layer, slots = make(), [0, 1, 0]
    x, y = layer.inputs(3)
    wrapper = ours(slots)
    assert torch.equal(layer.added(wrapper, x, y), y)
    layer.fill(1, 8)
    result = layer.added(wrapper, x, y)
    assert torch.equal(result[[0, 2]], y[[0, 2]])
    assert not torch.equal(result[1], y[1])


@pytest.mark.parametrize("part", ["lora_a_stacked", "lora_b_stacked"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), 3e38])
def test_no_adapter_reaches_anothers_tokens(
    number: float, part: str, way: str, make: Callable[[], Layer]
) -> None:
    layer, slots = make().filled(), [0, 1, -1, 0, 2]
    x, y = layer.inputs(5)
    before = layer.added(ours(slots), x, y)
    getattr(layer, part)[1][1, 0, :3, :3] = number
    after = layer.added(ours(slots), x, y)
    others = [0, 2, 3, 4]
    # What is not finite is multiplied in groups, which round otherwise.
    assert torch.allclose(after[others], before[others], rtol=0.02, atol=0.1)
    assert not torch.equal(after[1], before[1])


def test_no_token_reaches_anothers(way: str, make: Callable[[], Layer]) -> None:
    layer, slots = make().filled(), [0, 1, -1, 0]
    x, y = layer.inputs(4)
    before = layer.added(ours(slots), x, y)
    x[1] = float("nan")
    after = layer.added(ours(slots), x, y)
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])


def test_another_number_of_tokens_than_announced(way: str) -> None:
    layer, wrapper = Layer().filled(), ours([0, 1, 0])
    for tokens in (2, 4):
        with pytest.raises(ValueError, match=f"{tokens} tokens, where the step was to have 3"):
            layer.added(wrapper, *layer.inputs(tokens))


def test_before_the_first_step_nothing_is_added() -> None:
    layer = Layer().filled()
    x, y = layer.inputs(2)
    assert torch.equal(layer.added(GroupedLora(8, 8, "cpu"), x, y), y)


def test_vllm_calls_what_we_override_as_we_expect() -> None:
    def parameters(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert parameters(PunicaWrapperCPU.add_lora_linear) == [
        *("self", "y", "x", "lora_a_stacked", "lora_b_stacked", "scale", "output_slices"),
        *("buffer", "kwargs"),
    ]
    assert parameters(PunicaWrapperCPU.update_metadata) == [
        *("self", "mapping", "lora_index_to_id", "max_loras", "vocab_size", "kwargs")
    ]
    assert isinstance(PunicaWrapperBase.token_lora_indices, property)
    # vLLM's own has ours' meaning of a slot's index, and none of another's.
    assert resolve_obj_by_qualname(cpu_lora.WRAPPER) is GroupedLora
