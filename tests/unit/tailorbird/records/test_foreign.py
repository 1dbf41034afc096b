"""A file that is no JSON Lines is told what it seems to be; one that is, is not."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import InvalidRecords
from tailorbird.records.foreign import LOOKED_AT, seems_to_be
from tailorbird.records.reading import FileReading

RECORDS = [{"prompt": f"How much is {n}?", "completion": f"It is {n}."} for n in range(20)]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.jsonl", LINES)
    return file.getvalue()


def refused(data: bytes, size: int) -> str:
    """Return what is said of a file that comes in chunks of a size."""
    reading = FileReading(2**20)
    for at in range(0, len(data), size):
        list(reading.feed(data[at : at + size]))
    list(reading.end())
    with pytest.raises(InvalidRecords) as caught:
        reading.check()
    return caught.value.message


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (
            gzip.compress(LINES.encode()),
            "compressed with gzip: upload what is in it, as JSON Lines",
        ),
        (bz2.compress(LINES.encode()), "compressed with bzip2"),
        (lzma.compress(LINES.encode()), "compressed with xz"),
        (b"\x28\xb5\x2f\xfd\x04\x00", "compressed with zstd"),
        (zipped(), "a zip archive, or a spreadsheet"),
        (b"PAR1\x15\x04\x15", "Parquet"),
        *((LINES.encode(code), "UTF-16") for code in ("utf-16", "utf-16-le", "utf-16-be")),
        (json.dumps(RECORDS).encode(), "one JSON array"),
        (json.dumps(RECORDS, indent=1).encode(), "one JSON array"),
        (f"\n [{','.join(LINES.splitlines(True))}]".encode(), "one JSON array"),
        (
            "\n".join(json.dumps(one, indent=2) for one in RECORDS).encode(),
            "JSON over several lines",
        ),
        (b"prompt,completion\r\nHow much?,It is 7\r\n", "a table"),
        (b'"prompt";"gold label"\n"a";"b"\n', "a table"),
        ("größe\ttext\n1\ta\n".encode(), "a table"),
        ("prompt,completion\r\nHow much?,It is 7\r\n".encode("utf-8-sig"), "a table"),
    ],
)
@pytest.mark.parametrize("size", [1, 300, 10**6])
def test_a_file_of_another_kind_is_told_which(data: bytes, told: str, size: int) -> None:
    assert f"; the file seems to be {told}" in refused(data, size)


@pytest.mark.parametrize("first", ['{"prompt": "a, b", "completion": ""}', "How are you?", "nope"])
def test_nothing_is_said_of_other_lines(first: str) -> None:
    assert "seems" not in refused(f"{first}\n".encode() * 3, 7)


def test_one_bad_line_makes_no_other_kind() -> None:
    message = refused(b"[1]\n" + LINES.encode(), 300)
    assert message == "1 bad line of 21: line 1: a JSON object is expected, not a list"


@given(st.binary(max_size=LOOKED_AT))
def test_whatever_a_file_begins_with_can_be_looked_at(begins: bytes) -> None:
    assert len(seems_to_be(begins)) < 200


@given(st.dictionaries(st.text(), st.text() | st.integers()), st.sampled_from([None, 1]))
def test_json_lines_are_no_other_kind(record: dict[str, object], again: object) -> None:
    line = json.dumps(record).encode()
    assert seems_to_be(line[:LOOKED_AT] + b"\n" * bool(again)) == ""
