"""Lanes get about as many rows each, and of these no more than there is memory for."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.families import FAMILIES, make_family
from tests.unit.trainer_svc.engine.generation.plainly import ids, run
from trainer_svc.engine.base import Base, load_base
from trainer_svc.engine.generation import batches
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


def test_prefixes_count_among_what_rows_take(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def work(_: Rows, numbers: Sequence[int]) -> Generator[None, None, Mapping[int, int]]:
        sizes.append(len(numbers))
        yield
        return dict.fromkeys(numbers, 0)

    # Two questions about each of four texts.
    prompts = [
        Prompt([*ids(100, text), question], None, 3) for text in range(4) for question in (5, 6)
    ]
    reader = Reader(AdapterBank(base), prompts, Limits(8192, 100))
    monkeypatch.setattr(batches, "CACHE_BYTES", 2 * (100 + 2 * 4) * reader._token_bytes)
    run(reader.run(work))
    assert sizes == [4, 4]


def test_a_row_with_a_cache_of_its_own_takes_the_prefix_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(make_family(FAMILIES["StarCoder2"], tmp_path / "base")), "cpu")
    sizes: list[int] = []

    def work(_: Rows, numbers: Sequence[int]) -> Generator[None, None, Mapping[int, int]]:
        sizes.append(len(numbers))
        yield
        return dict.fromkeys(numbers, 0)

    text = ids(100)
    prompts = [Prompt([*text, question], None, 3) for question in (5, 6, 7, 8)]
    reader = Reader(AdapterBank(base), prompts, Limits(8192, 100))
    monkeypatch.setattr(batches, "CACHE_BYTES", 2 * (100 + 4) * reader._token_bytes)
    run(reader.run(work))
    assert sizes == [2, 2]
