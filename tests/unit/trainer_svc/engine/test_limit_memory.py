"""A worker on a GPU takes its share of the memory, and no more."""

from __future__ import annotations

import pytest
import torch

from trainer_svc.engine.base import limit_memory


@pytest.mark.parametrize(
    ("device", "share", "limits"),
    [("cuda", 0.35, [0.35]), ("cuda", 1.0, []), ("cpu", 0.35, [])],
)
def test_the_share_is_of_the_gpus_memory(
    monkeypatch: pytest.MonkeyPatch, device: str, share: float, limits: list[float]
) -> None:
    taken: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    limit_memory(device, share)
    assert taken == limits
