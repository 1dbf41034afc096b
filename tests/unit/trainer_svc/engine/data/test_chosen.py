"""What a job is judged on is drawn by its seed, and read from the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tailorbird.errors import DataCorrupt
from trainer_svc.engine.data import chosen
from trainer_svc.engine.data.chosen import choose, read_records
from trainer_svc.engine.data.leaks import Leaked


def lines(count: int) -> np.ndarray:
    return np.repeat(np.arange(1, count + 1), 2)


def test_everything_is_taken_where_it_is_few() -> None:
    few = choose(lines(3), lines(5), 200, seed=0)
    assert (few.training, few.held_out) == ((1, 2, 3), (1, 2, 3, 4, 5))


def test_what_is_too_much_is_drawn_by_the_seed() -> None:
    one, again, other = (choose(lines(5000), lines(999), 50, seed) for seed in (1, 1, 2))
    assert one == again
    assert (len(one.held_out), len(one.training)) == (50, 1000)
    assert one.held_out != other.held_out
    assert one.training != other.training
    assert list(one.held_out) == sorted(set(one.held_out))


def test_nothing_is_judged_on_what_training_sees() -> None:
    leaked = Leaked(np.array([2, 3, 77]), unknown="who knows")
    found = choose(lines(3), lines(5), 200, seed=0, leaked=leaked)
    assert (found.training, found.held_out) == ((1, 2, 3), (1, 4, 5))
    assert found.leaked.startswith("VALIDATION_LEAKAGE: 2 of 5 held-out records are not judged on")
    assert found.unknown == "who knows"
    # They take nobody's place.
    assert choose(lines(3), lines(5), 3, seed=0, leaked=leaked).held_out == (1, 4, 5)
    assert choose(lines(3), lines(5), 200, seed=0).leaked == ""


def test_nothing_is_judged_on_what_the_weights_have_seen() -> None:
    leaked = Leaked(own=np.array([2, 3]), inherited=np.array([3, 4, 77]))
    found = choose(lines(3), lines(5), 200, seed=0, leaked=leaked)
    assert found.held_out == (1, 5)
    assert found.leaked == (
        "VALIDATION_LEAKAGE: 3 of 5 held-out records are not judged on, for the training data asks "
        "what 2 of them ask, and the data of the version that training begins with, or of one "
        "before it, 2"
    )
    found = choose(lines(3), lines(5), 200, seed=0, leaked=Leaked(inherited=np.array([4])))
    assert found.held_out == (1, 2, 3, 5)
    assert found.leaked == (
        "VALIDATION_LEAKAGE: 1 of 5 held-out records are not judged on, for the data of the "
        "version that training begins with, or of one before it, asks what they ask"
    )


def test_the_records_of_the_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    records = [{"prompt": str(number), "completion": "x"} for number in range(1, 5)]
    text = "\n".join([json.dumps(records[0]), "", *map(json.dumps, records[1:])])
    path.write_text(text, "utf-8")
    assert read_records(path, (1, 3)) == {1: records[0], 3: records[1]}
    with pytest.raises(DataCorrupt, match="line 9") as caught:
        read_records(path, (1, 9))
    assert caught.value.reason == "DATASET_CORRUPT"


def test_as_much_is_read_as_fits_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data.jsonl"
    records = [{"prompt": "a" * 100, "completion": str(number)} for number in range(1, 9)]
    path.write_text("\n".join(map(json.dumps, records)), "utf-8")
    size = len(json.dumps(records[0])) + 1
    monkeypatch.setattr(chosen, "_HELD_BYTES", 2 * size)
    # What is answered has room of its own.
    found = read_records(path, (2, 7, 8), (1, 2, 3, 4))
    assert list(found) == [1, 2, 3, 7]
    assert found[3] == records[2]
    with pytest.raises(DataCorrupt, match="line 9"):
        read_records(path, (), (3, 4, 9, 10))
    assert read_records(path, ()) == {}


def test_what_nothing_reads_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    read = {"prompt": "a", "completion": "b", "metadata": {"shop": "north"}}
    path.write_text(json.dumps({**read, "note": [[]] * 100, "tools": []}), "utf-8")
    assert read_records(path, (1,)) == {1: read}
