"""The demo's general data is what its script writes, and what a trainer reads."""

from __future__ import annotations

from examples.demo.tenants import EXAMPLES
from trainer_svc.datasets.general import read_general


def test_the_general_data_can_be_read() -> None:
    data = read_general(EXAMPLES / "general.jsonl")
    assert (len(data.texts), len(data.questions)) == (40, 80)
