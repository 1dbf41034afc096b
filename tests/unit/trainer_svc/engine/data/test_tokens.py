from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from trainer_svc.engine.data.token_files import TokenWriter
from trainer_svc.engine.data.tokens import TokenDataset


def written(folder: Path) -> TokenDataset:
    with TokenWriter(folder) as writer:
        writer.append(1, [([5, 6], False), ([7], True)])
        writer.append(3, [([8], True), ([9, 10, 70_000], True)])
        writer.append(3, [([4], False), ([], False), ([3, 2], True)])
    return TokenDataset.open(folder)


def test_examples_come_back_as_they_were_written(tmp_path: Path) -> None:
    dataset = written(tmp_path)
    assert len(dataset) == 3
    assert [example.token_ids.tolist() for example in dataset] == [
        [5, 6, 7],
        [8, 9, 10, 70_000],
        [4, 3, 2],
    ]
    assert [example.trained.tolist() for example in dataset] == [
        [False, False, True],
        [False, True, True, True],
        [False, True, True],
    ]
    assert [example.line for example in dataset] == [1, 3, 3]
    assert str(dataset[0].token_ids.dtype) == "torch.int64"
    assert dataset.lengths.tolist() == [3, 4, 3]
    assert dataset.lengths.dtype == np.int32
    assert int(dataset.rows["trained"].sum()) == 6


def test_an_example_is_a_copy(tmp_path: Path) -> None:
    dataset = written(tmp_path)
    example = dataset[0]
    example.token_ids[0] = 0
    example.trained[0] = True
    assert dataset[0].token_ids[0] == 5
    assert not dataset[0].trained[0]


def test_it_is_a_sequence(tmp_path: Path) -> None:
    dataset = written(tmp_path)
    assert dataset[-1].token_ids.tolist() == [4, 3, 2]
    with pytest.raises(IndexError):
        dataset[3]
    assert [example.line for example in dataset[:2]] == [1, 3]


def test_views_share_the_tokens(tmp_path: Path) -> None:
    dataset = written(tmp_path)
    view = dataset.where(dataset.lines == 3)
    assert view.lengths.tolist() == [4, 3]
    assert view[1].token_ids.tolist() == [4, 3, 2]
    assert view[1:][0].line == 3
    assert np.shares_memory(view._token_ids, dataset._token_ids)
    assert int(view.rows["trained"].sum()) == 5


def test_what_is_held_lives_as_long_as_the_last_view(tmp_path: Path) -> None:
    class Held: ...

    held = Held()
    gone = weakref.ref(held)
    written(tmp_path)
    dataset = TokenDataset.open(tmp_path, held)
    view = dataset.where(dataset.lines == 1)
    del held, dataset
    gc.collect()
    assert gone() is not None
    del view
    gc.collect()
    assert gone() is None
