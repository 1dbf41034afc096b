"""The digest index as a file, and what two of them have in common."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailorbird.errors import DataCorrupt
from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets import index
from trainer_svc.datasets.digests import RecordDigest, record_digest
from trainer_svc.datasets.index import IndexWriter, RecordIndex, read_index
from trainer_svc.datasets.leakage import leakage, leaked_lines

Pair = tuple[str, str]


def digest(pair: Pair) -> RecordDigest:
    prompt, completion = pair
    return record_digest(
        DatasetFormat.PROMPT_COMPLETION, {"prompt": prompt, "completion": completion}
    )


def written(*pairs: Pair) -> IndexWriter:
    """Every second line is blank."""
    writer = IndexWriter()
    for line, pair in enumerate(pairs):
        writer.add(2 * line + 1, digest(pair))
    return writer


def of(*pairs: Pair) -> RecordIndex:
    return written(*pairs).index()


PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), min_size=1)


@given(PAIRS)
def test_an_index_is_read_as_it_was_written(pairs: list[Pair]) -> None:
    writer = written(*pairs)
    data = writer.to_bytes()
    assert len(data) == 48 + 40 * len(pairs)
    found = read_index(data, "name")
    assert found is not None
    assert found.complete
    assert found.lines.tolist() == [2 * line + 1 for line in range(len(pairs))]
    for pair in set(pairs):
        lines = [2 * line + 1 for line, other in enumerate(pairs) if other == pair]
        assert found.lines_of(digest(pair).record) == lines


def test_digests_that_end_in_nuls_are_told_apart() -> None:
    writer = IndexWriter()
    digests = [b"a".ljust(16, b"\0"), bytes(16), b"\0a".ljust(16, b"\0")]
    for line, one in enumerate(digests, start=1):
        writer.add(line, RecordDigest(one, one))
    found = read_index(writer.to_bytes(), "name")
    assert found is not None
    assert [found.lines_of(one) for one in digests] == [[1], [2], [3]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda data: data[:47],
        lambda data: data[:-1],
        lambda data: data + b"\0" * 40,
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: b"X" + data[1:],
        lambda _: IndexWriter().to_bytes(),
    ],
)
def test_a_damaged_index_is_told(damage: object) -> None:
    data = damage(written(("a", "x"), ("b", "y")).to_bytes())  # type: ignore[operator]
    with pytest.raises(DataCorrupt, match="here is not a dataset's index") as caught:
        read_index(data, "here")
    assert caught.value.reason == "INDEX_INVALID"


def test_an_index_of_a_later_version_is_not_read() -> None:
    data = written(("a", "x")).to_bytes()
    assert read_index(data[:8] + struct.pack("<Q", 2) + data[16:], "name") is None


def test_an_index_ends_at_its_limit_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_ROWS", 2)
    found = read_index(written(("a", "x"), ("b", "y"), ("c", "z")).to_bytes(), "name")
    assert found is not None
    assert (len(found.lines), found.records, found.complete) == (2, 3, False)


def test_leaks_are_counted_by_question_and_by_record() -> None:
    training = of(("a", "x"), ("b", "y"), ("b", "y"), ("c", "z"))
    found = leakage(training, of(("d", "x"), ("b", "y"), ("c", "other"), ("zz", "x"), ("0", "x")))
    assert (found.compared, found.leaked, found.copies, found.share) == (5, 2, 1, 0.4)
    assert [(pair.line, pair.copy_of) for pair in found.pairs] == [(3, 3), (5, 7)]


@given(PAIRS, PAIRS)
def test_leaks_are_what_a_search_finds(training: list[Pair], validation: list[Pair]) -> None:
    found = leakage(of(*training), of(*validation))
    asked = [prompt for prompt, _ in training]
    assert found.leaked == sum(prompt in asked for prompt, _ in validation)
    assert found.copies == sum(pair in training for pair in validation)
    assert [(pair.line, pair.copy_of) for pair in found.pairs] == [
        (2 * line + 1, 2 * asked.index(prompt) + 1)
        for line, (prompt, _) in enumerate(validation)
        if prompt in asked
    ][:100]


@given(PAIRS, PAIRS)
def test_the_lines_that_leak_are_all_of_them(training: list[Pair], validation: list[Pair]) -> None:
    found = leaked_lines(of(*training), of(*validation))
    asked = {question for question, _ in training}
    assert found.tolist() == [
        2 * line + 1 for line, (question, _) in enumerate(validation) if question in asked
    ]
    assert len(found) == leakage(of(*training), of(*validation)).leaked


def test_the_pairs_are_the_first_hundred() -> None:
    both = of(*((str(number), "x") for number in range(101)))
    found = leakage(both, both)
    assert (found.leaked, found.copies, found.share) == (101, 101, 1.0)
    assert [pair.line for pair in found.pairs] == [2 * line + 1 for line in range(100)]
