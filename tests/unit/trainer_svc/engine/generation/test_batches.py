"""Lanes get about as many rows each."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import pytest

from tests.unit.trainer_svc.engine.generation.plainly import ids, run
from trainer_svc.engine.base import Base
from trainer_svc.engine.generation.batches import Limits, Reader
from trainer_svc.engine.generation.prompts import Prompt
from trainer_svc.engine.generation.rows import Rows
from trainer_svc.engine.step.bank import AdapterBank


@pytest.mark.parametrize(
    ("lanes", "rows", "expected"),
    [(1, 8, [8]), (1, 5, [4, 4]), (2, 8, [4, 4]), (2, 3, [2, 2, 2, 2]), (4, 100, [2, 2, 2, 2])],
)
def test_batches_are_as_large_as_each_other(
    base: Base, lanes: int, rows: int, expected: list[int]
) -> None:
    sizes: list[int] = []

    def work(_: Rows, numbers: Sequence[int]) -> Generator[None, None, Mapping[int, int]]:
        sizes.append(len(numbers))
        yield
        return dict.fromkeys(numbers, len(numbers))

    prompts = [Prompt(ids(4 + at, at), None, 3) for at in range(8)]
    reader = Reader(AdapterBank(base, lanes=lanes), prompts, Limits(64, rows))
    done = run(reader.run(work))
    assert sizes == expected
    assert sorted(done) == list(range(8))
