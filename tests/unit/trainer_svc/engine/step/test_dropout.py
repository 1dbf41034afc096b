from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer_svc.engine.step.dropout import Dropout, dropout_mask, row_keys


def mask(seed: int = 1, step: int = 2, record: int = 3, layer: int = 4) -> torch.Tensor:
    return dropout_mask(row_keys(Dropout(seed, step, [record]), [200]), layer, 101, 0.3)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 2},
        {"seed": 1 + 2**32},
        {"step": 3},
        {"record": 4},
        {"layer": 5},
    ],
)
def test_everything_it_depends_on_gives_another_mask(other: dict[str, int]) -> None:
    one, two = mask(), mask(**other)
    assert torch.equal(one, mask())
    # Independent masks agree in 0.3 * 0.3 + 0.7 * 0.7 of the places.
    assert float((one == two).float().mean()) == pytest.approx(0.58, abs=0.02)


def test_rows_and_columns_are_independent() -> None:
    kept = mask().float()
    assert float((kept[1:] == kept[:-1]).float().mean()) == pytest.approx(0.58, abs=0.02)
    assert float((kept[:, 1:] == kept[:, :-1]).float().mean()) == pytest.approx(0.58, abs=0.02)
    assert float(kept.mean(0).std()) == pytest.approx((0.21 / 200) ** 0.5, rel=0.3)
    assert float(kept.mean(1).std()) == pytest.approx((0.21 / 101) ** 0.5, rel=0.3)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 0.99, 0.99999, 1 - 1e-12])
def test_the_share_is_dropped(share: float) -> None:
    keys = row_keys(Dropout(0, 0, range(4)), [250] * 4)
    kept = dropout_mask(keys, 0, 256, share)
    assert 1 - float(kept.float().mean()) == pytest.approx(share, abs=0.004)


def test_a_record_has_its_keys_wherever_it_stands() -> None:
    together = row_keys(Dropout(7, 1, [5, 9, 2]), [3, 4, 5])
    assert torch.equal(together[3:7], row_keys(Dropout(7, 1, [9]), [4]))
    assert torch.equal(together[3:5], row_keys(Dropout(7, 1, [9]), [2]))
    assert len(set(together.tolist())) == 12


def test_each_example_needs_its_number() -> None:
    with pytest.raises(ValueError, match="2 examples, but 1 record"):
        row_keys(Dropout(0, 0, [1]), [3, 4])


class _Devices(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Which devices the results of every operation are on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves(result) if isinstance(each, torch.Tensor)]
        self.seen |= {each.device.type for each in tensors}
        return result


def test_a_mask_is_made_where_its_keys_are() -> None:
    keys = torch.empty(200, dtype=torch.int32, device="meta")
    with _Devices() as devices:
        found = dropout_mask(keys, 4, 101, 0.3)
    assert (found.shape, devices.seen) == ((200, 101), {"meta"})
