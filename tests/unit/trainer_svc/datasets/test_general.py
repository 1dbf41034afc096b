"""The operator's general data is read whole or refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailorbird.errors import InvalidArgument
from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets.general import read_general

TEXT = {"text": "The rain in Spain."}
ASKED = {"prompt": "1 + 1 =", "completion": " 2"}
CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


def written(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "general.jsonl"
    path.write_text("\n\n".join(map(json.dumps, records)), "utf-8")
    return path


def test_texts_and_questions_are_told_apart(tmp_path: Path) -> None:
    data = read_general(written(tmp_path, TEXT, ASKED, TEXT))
    assert data.texts == ("The rain in Spain.",) * 2
    assert data.questions == {3: ASKED}
    assert data.format is DatasetFormat.PROMPT_COMPLETION


def test_a_byte_order_mark_is_no_part_of_the_first_record(tmp_path: Path) -> None:
    path = tmp_path / "general.jsonl"
    path.write_bytes('{"text": "One."}\n{"text": "Two."}'.encode("utf-8-sig"))
    assert read_general(path).texts == ("One.", "Two.")


def test_texts_alone_will_do(tmp_path: Path) -> None:
    assert read_general(written(tmp_path, TEXT)).questions == {}


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ((ASKED, CHAT), "prompt_completion .line 1., chat .line 3."),
        ((TEXT, 3), "line 3: a JSON object is expected"),
        ((), "0 records"),
        ((TEXT,) * 1001, "1001 records; 1 to 1000"),
        (({"text": "x" * 2**22},), "at most 4194304"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, records: Any, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as caught:
        read_general(written(tmp_path, *records))
    assert caught.value.field == "general_data"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        read_general(tmp_path / "none")
