"""vLLM's small products against torch's, and the layout of their weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from serving_svc.engine import grouped_lora, vnni
from serving_svc.engine.grouped_lora import GroupedLora
from serving_svc.engine.packed_weights import LinearWeights
from tests.unit.serving_svc.engine.test_grouped_lora import FULL, IDS, RANKS, Layer, ours

BF16 = torch.bfloat16
needs_kernels = pytest.mark.skipif(
    not vnni.can_multiply(BF16, 32, 32), reason="no AVX-512 with bfloat16 here"
)


@pytest.fixture
def another_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    vnni._is_here.cache_clear()
    yield
    vnni._is_here.cache_clear()


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape))).to(BF16)


@needs_kernels
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 31, 32, 33, 257])
def test_products_are_torchs(tokens: int) -> None:
    weights, x = random(96, 64), random(tokens, 64)
    made = vnni.multiply(x, vnni.lay_out(weights))
    assert torch.allclose(made, x @ weights.t(), rtol=0.01, atol=0.1)
    slices, parts = random(3, 32, 64), random(tokens, 3, 64)
    made = vnni.multiply_slices(parts, vnni.lay_out(slices))
    assert made.shape == (tokens, 3, 32)
    expected = torch.einsum("tsi,soi->tso", parts, slices)
    assert torch.allclose(made, expected, rtol=0.01, atol=0.1)


@needs_kernels
def test_a_part_of_wider_rows_is_multiplied() -> None:
    weights, wide = vnni.lay_out(random(32, 64)), random(5, 128)
    made = vnni.multiply(wide[:, 64:], weights)
    assert torch.equal(made, vnni.multiply(wide[:, 64:].contiguous(), weights))
    slices, parts = vnni.lay_out(random(2, 32, 32)), random(5, 4, 32)
    made = vnni.multiply_slices(parts[:, 1:3], slices)
    assert torch.equal(made, vnni.multiply_slices(parts[:, 1:3].contiguous(), slices))


@needs_kernels
def test_a_part_is_laid_out_as_the_whole() -> None:
    weights = random(96, 64)
    whole = vnni.lay_out(weights)
    assert torch.equal(whole[32:64], vnni.lay_out(weights[32:64]))
    slices = random(2, 64, 128)
    laid = vnni.lay_out(slices)
    changed = slices.clone()
    changed[:, :, 32:96] *= 3
    vnni.lay_inputs_anew(laid, 32, changed[:, :, 32:96])
    assert torch.equal(laid, vnni.lay_out(changed))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_formats_are_left_to_torch(dtype: torch.dtype) -> None:
    # In float16 they would end the process.
    assert not vnni.can_multiply(dtype, 32, 32)


@needs_kernels
@pytest.mark.parametrize(("outputs", "inputs"), [(16, 32), (32, 16), (48, 64), (64, 40)])
def test_other_sizes_are_left_to_torch(outputs: int, inputs: int) -> None:
    assert not vnni.can_multiply(BF16, outputs, inputs)


def test_other_machines_are_left_to_torch(another_machine: None) -> None:
    assert not vnni.can_multiply(BF16, 32, 32)


@needs_kernels
@pytest.mark.parametrize("name", ["OMP_DYNAMIC", "OMP_THREAD_LIMIT", "ONEDNN_MAX_CPU_ISA"])
def test_settings_under_which_they_go_wrong(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    vnni._is_here.cache_clear()
    assert not vnni.can_multiply(BF16, 32, 32)
    monkeypatch.undo()
    vnni._is_here.cache_clear()
    assert vnni.can_multiply(BF16, 32, 32)


def packed_of(layer: Layer) -> LinearWeights:
    return LinearWeights(layer.lora_a_stacked, layer.lora_b_stacked)


@needs_kernels
@pytest.mark.parametrize(
    ("widths", "dtype", "laid"),
    [
        ((64, 32, 32), BF16, True),
        ((64, 32, 32), torch.float32, False),
        # A product that cannot be made so leaves the layer to torch.
        ((64, 24, 24), BF16, False),
    ],
)
def test_which_layers_are_laid_out(widths: tuple[int, ...], dtype: torch.dtype, laid: bool) -> None:
    packed = packed_of(Layer(widths, dtype).filled()).packed(FULL, dtype, IDS)
    assert (packed.laid is not None) == laid


@needs_kernels
@pytest.mark.parametrize("slot", range(4))
def test_a_swapped_adapter_is_laid_out_anew(slot: int) -> None:
    # The slots begin and end within blocks of 32 columns.
    layer = Layer((64, 32, 32), BF16).filled()
    weights = packed_of(layer)
    before = weights.packed(FULL, BF16, IDS)
    layer.fill(slot, RANKS[slot], seed=5)
    ids = [99 if at == slot else one for at, one in enumerate(IDS)]
    after, fresh = weights.packed(FULL, BF16, ids), packed_of(layer).packed(FULL, BF16, IDS)
    assert after is before
    assert after.laid is not None
    assert fresh.laid is not None
    assert torch.equal(after.laid.a, fresh.laid.a)
    for laid, expected in zip(after.laid.b, fresh.laid.b, strict=True):
        assert torch.equal(laid, expected)


@needs_kernels
def test_the_way_depends_on_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for name in ("_add_dense", "_add_grouped"):
        monkeypatch.setattr(grouped_lora, name, lambda *_, name=name: taken.append(name))
    layer = Layer((64, 32, 32), BF16).filled()
    for slots in ([2] * 4, [0, 1, 2, 3], [0, 1] * 60):
        layer.added(ours(slots), *layer.inputs(len(slots)))
    monkeypatch.setattr(grouped_lora, "_GROUP_COST_LAID", 10_000)
    layer.added(ours([0, 1] * 60), *layer.inputs(120))
    assert taken == ["_add_dense", "_add_dense", "_add_dense", "_add_grouped"]


def _answers(slots: list[int]) -> list[torch.Tensor]:
    wrapper: GroupedLora = ours(slots)
    answers = []
    for widths in ((64, 32, 32), (64, 24, 24)):
        layer = Layer(widths, BF16).filled()
        answers.append(layer.added(wrapper, *layer.inputs(len(slots))))
    return answers


@needs_kernels
def test_layers_of_both_kinds_in_one_step(request: pytest.FixtureRequest) -> None:
    # They share what is known of the step's tokens, and want it in another size.
    slots = [0, 3, 1, -1, 2]
    here = _answers(slots)
    request.getfixturevalue("another_machine")
    for one, other in zip(here, _answers(slots), strict=True):
        assert torch.allclose(one, other, rtol=0.02, atol=0.1)
