"""Lines out of chunks, whatever the chunks; and an account of the bad ones."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import InvalidRecord, InvalidRecords
from tailorbird.records.lines import BadLines, Lines

MOST = 5


@given(parts=st.lists(st.sampled_from([b"", b"a", b"\n", b"\n\n", b"bc\nd", b"efghij", b"12345"])))
def test_lines_are_those_of_the_whole_file(parts: list[bytes]) -> None:
    lines = Lines(MOST)
    found = [line for part in parts for line in lines.feed(part)]
    found += lines.end()
    whole = b"".join(parts).split(b"\n")
    if not whole[-1]:
        whole.pop()
    assert found == [
        (number, data if len(data) <= MOST else None) for number, data in enumerate(whole, start=1)
    ]


def test_of_a_line_that_is_too_long_nothing_is_held() -> None:
    lines = Lines(MOST)
    for _ in range(100):
        assert list(lines.feed(b"x" * 1000)) == []
        assert lines._rest is None
    assert list(lines.feed(b"\nab\n")) == [(1, None), (2, b"ab")]


def test_the_first_hundred_are_told_and_all_are_counted() -> None:
    bad = BadLines()
    for line in range(3, 253):
        bad.add(InvalidRecord(line, f"not JSON at {line}"))
    with pytest.raises(InvalidRecords) as caught:
        bad.check(400)
    error = caught.value
    assert [one.line for one in error.errors] == list(range(3, 103))
    assert error.message == (
        "250 bad lines of 400, of which the first 100 are told: line 3: not JSON at 3"
    )
    assert error.metadata == {"field": "chunk", "line": "3", "bad_lines": "250", "records": "400"}
    assert error.violations[99] == ("line 102", "not JSON at 102")


def test_what_the_file_seems_to_be_is_told_if_most_of_it_is_bad() -> None:
    bad = BadLines()
    for line in (1, 2):
        bad.add(InvalidRecord(line, "x" * 1000))
    with pytest.raises(InvalidRecords) as caught:
        bad.check(3, "the file seems to be CSV")
    assert caught.value.message.endswith("x…; the file seems to be CSV")
    with pytest.raises(InvalidRecords) as caught:
        bad.check(4, "the file seems to be CSV")
    assert caught.value.message.endswith("x…")


def test_none_is_nothing() -> None:
    BadLines().check(400, "the file seems to be CSV")


def test_what_an_error_was_raised_by_is_let_go() -> None:
    class Held(ValueError): ...

    held = Held()
    watched = weakref.ref(held)
    bad = BadLines()
    try:
        raise InvalidRecord(1, "bad") from held
    except InvalidRecord as error:
        bad.add(error)
    del held
    gc.collect()
    assert watched() is None


def test_a_text_that_was_said_names_where() -> None:
    texts = ["a", "b", "a", "a", "b", "c"]
    errors = [InvalidRecord(line, text) for line, text in enumerate(texts, start=1)]
    error = InvalidRecords(errors, 6, 9)
    assert error.violations == [
        ("line 1", "a"), ("line 2", "b"), ("line 3", "as line 1"), ("line 4", "as line 1"),
        ("line 5", "as line 2"), ("line 6", "c"),
    ]  # fmt: skip
    assert error.message == "6 bad lines of 9: line 1: a"


def test_a_reason_that_all_have_is_the_reason_of_all() -> None:
    mixed, other = InvalidRecord(1, "a", reason="MIXED_FORMATS"), InvalidRecord(2, "b")
    assert InvalidRecords([mixed], 1, 2).reason == "MIXED_FORMATS"
    assert InvalidRecords([mixed, mixed], 2, 2).reason == "MIXED_FORMATS"
    assert InvalidRecords([mixed, other], 2, 2).reason == "INVALID_RECORD"


def test_the_first_text_is_cut_in_the_message() -> None:
    error = InvalidRecords([InvalidRecord(1, "x" * 1000)], 1, 1)
    assert error.message == "1 bad line of 1: line 1: " + "x" * 192 + "…"
