from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from trainer_svc.engine.step.loss import summed_losses

ROWS, WIDTH, VOCABULARY, JOBS = 23, 16, 50, 3


def head(bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(WIDTH, VOCABULARY, bias=bias).requires_grad_(False)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(ROWS, WIDTH, generator=generator) * 3
    targets = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return hidden, targets, torch.randint(JOBS, (ROWS,), generator=generator).sort().values


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 7 * VOCABULARY + 3, 2**26])
def test_it_is_cross_entropy(chunk: int, bias: bool) -> None:
    layer, (hidden, targets, owners) = head(bias), batch()
    weights = torch.tensor([0.5, 2.0, -1.0])
    found, expected = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    losses = summed_losses(found, layer, targets, owners, JOBS, chunk_logits=chunk)
    rows = cross_entropy(layer(expected), targets, reduction="none")
    wanted = torch.stack([rows[owners == job].sum() for job in range(JOBS)])
    torch.testing.assert_close(losses, wanted, rtol=1e-6, atol=1e-6)
    (losses * weights).sum().backward()  # type: ignore[no-untyped-call]
    (wanted * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert found.grad is not None
    assert expected.grad is not None
    assert (found.grad - expected.grad).norm() <= 1e-6 * expected.grad.norm()


def test_large_logits_stay_finite() -> None:
    layer, (hidden, targets, owners) = head(), batch()
    losses = summed_losses(hidden * 1e4, layer, targets, owners, JOBS)
    assert torch.isfinite(losses).all()


def test_a_poisoned_row_stays_with_its_job() -> None:
    layer, (hidden, targets, owners) = head(), batch()
    clean = summed_losses(hidden, layer, targets, owners, JOBS)
    hidden[owners == 1] = float("nan")
    losses = summed_losses(hidden, layer, targets, owners, JOBS)
    assert losses[1].isnan()
    assert torch.equal(losses[[0, 2]], clean[[0, 2]])


class Widest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the products and remembers the largest tensor that any operation gave."""

    products = 0
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        name = str(function)
        self.products += name.startswith(("aten.mm", "aten.addmm"))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def watched() -> Widest:
    return Widest()  # type: ignore[no-untyped-call]


def test_no_chunk_is_larger_than_asked_and_the_head_is_not_computed_again() -> None:
    layer, (hidden, targets, owners) = head(), batch()
    limit = 10 * VOCABULARY
    hidden.requires_grad_()
    with watched() as forward:
        losses = summed_losses(hidden, layer, targets, owners, JOBS, chunk_logits=limit)
    assert VOCABULARY * WIDTH <= forward.elements <= max(limit, VOCABULARY * WIDTH)
    assert forward.products == 2 * 3
    with watched() as backward:
        losses.sum().backward()  # type: ignore[no-untyped-call]
    assert backward.products == 0


def test_without_gradients_the_head_runs_once_a_chunk() -> None:
    layer, (hidden, targets, owners) = head(), batch()
    with watched() as forward, torch.no_grad():
        losses = summed_losses(hidden, layer, targets, owners, JOBS)
    assert forward.products == 1
    assert not losses.requires_grad


def test_16_bit_products_are_summed_in_32() -> None:
    layer, (hidden, targets, owners) = head(), batch()
    exact = summed_losses(hidden, layer, targets, owners, JOBS)
    rounded = hidden.bfloat16().requires_grad_()
    losses = summed_losses(rounded, layer, targets, owners, JOBS)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, exact, rtol=0.02, atol=0)
    assert rounded.grad is not None
    assert rounded.grad.dtype == torch.bfloat16
