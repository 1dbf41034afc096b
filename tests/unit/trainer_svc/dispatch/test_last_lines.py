"""What a worker prints: all of it for the log, and of the last lines what a job may read."""

from __future__ import annotations

import asyncio
import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_svc.dispatch.last_lines import LastLines, to_the_log, without_places

FAULT = [
    "Fatal Python error: Segmentation fault",
    "",
    "Current thread 0x00007fd12a254b80 (most recent call first):",
    *[f'  File "/opt/venv/lib/torch/{n}.py", line {n} in step' for n in range(100)],
    "Extension modules: torch._C (total: 1)",
]


def record(event: str, **more: object) -> str:
    return json.dumps({"event": event, "job": "tenants/acme/jobs/one", **more})


def after(*lines: str) -> LastLines:
    found = LastLines(lambda _: None)
    for line in lines:
        found.take(line)
    return found


@pytest.mark.parametrize(
    ("lines", "exception"),
    [
        (["ValueError: of /srv/models"], "ValueError"),
        (["torch.OutOfMemoryError: tried"], "torch.OutOfMemoryError"),
        (["ValueError: first", "KeyError: 'last'", "done"], "KeyError"),
        (["no ValueError: here", "note: this"], ""),
        (FAULT, "Segmentation fault"),
        (["terminate called after throwing an instance of 'c10::Error'"], "c10::Error"),
        ([record("died", exception=[{"exc_type": "OSError"}, {"exc_type": "Cause"}])], "OSError"),
        ([record("ZeroDivisionError: division by zero")], "ZeroDivisionError"),
        ([record("died", exception=[{"exc_type": "a secret of /srv"}])], ""),
        ([record("died", exception="text")], ""),
        (['{"event": "cut'], ""),
        ([], ""),
    ],
)
def test_everybody_may_hear_the_type_of_an_exception(lines: list[str], exception: str) -> None:
    assert after(*lines).exception == exception


def test_a_job_reads_the_last_lines_without_fields_paths_and_addresses() -> None:
    told = after(
        "long ago",
        *[f"line {number}" for number in range(3)],
        record("cannot read /srv/models/base", path="/srv", exception=[{"exc_type": "OSError"}]),
        "see s3://bucket/key?token=secret, or \x1b[31m/var/lib/x.py\x1b[0m",
    ).told
    assert told == "line 0 | line 1 | line 2 | cannot read base (OSError) | see …, or x.py"


def test_of_a_fatal_signal_the_job_reads_where_it_was() -> None:
    told = after("before", *FAULT).told.split(" | ")
    assert told[0] == "Fatal Python error: Segmentation fault"
    assert told[2:] == [f'File "{n}.py", line {n} in step' for n in range(3)]


def test_what_a_job_reads_is_bounded() -> None:
    assert len(after(*["x" * 10_000] * 1000).told) < 2000


@given(st.lists(st.text(), max_size=30))
def test_any_line_is_taken(lines: list[str]) -> None:
    found = after(*lines)
    assert "\n" not in found.told
    assert len(found.exception) <= 100


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("/", "…"),
        ("of /srv/models/base: no", "of base: no"),
        ("'/srv/a b'", "'a b'"),
        ("~/x/y", "y"),
        ("3/4 of it and and/or", "3/4 of it and and/or"),
        ("https://user:word@host/x)", "…)"),
    ],
)
def test_a_path_keeps_its_last_part(text: str, short: str) -> None:
    assert without_places(text) == short


@pytest.mark.parametrize("line", ["[" * 60_000, '{"a":' * 12_000, "1" * 60_000])
def test_a_line_that_no_parser_takes_is_taken(line: str) -> None:
    assert after(line, "ValueError: last").exception == "ValueError"


@pytest.mark.parametrize("error", [OSError("full"), ValueError("closed file")])
async def test_a_log_that_cannot_be_written_stops_nobody(error: Exception) -> None:
    def fail(_: str) -> None:
        raise error

    stream = asyncio.StreamReader()
    stream.feed_data(b"one\ntwo\n")
    stream.feed_eof()
    lines = LastLines(fail)
    await lines.read(stream)
    assert lines.told == "one | two"


async def test_a_stream_is_taken_line_by_line_and_in_pieces_where_no_line_ends() -> None:
    echoed: list[str] = []
    stream = asyncio.StreamReader()
    stream.feed_data(b"one\r\n\n \ntwo\xff\n" + b"x" * 200_000 + b"\nthree")
    stream.feed_eof()
    await LastLines(echoed.append).read(stream)
    assert echoed[:2] == ["one", "two\ufffd"]
    assert echoed[-1] == "three"
    pieces = echoed[2:-1]
    assert "".join(pieces) == "x" * 200_000
    assert 1 < len(pieces) < 10


async def test_who_prints_without_end_leaves_others_their_turns_and_its_last_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer_svc.dispatch.last_lines._BURST", 1000)
    monkeypatch.setattr("trainer_svc.dispatch.last_lines._A_SECOND", 10_000)
    echoed: list[str] = []
    stream = asyncio.StreamReader()
    stream.feed_data(b"x\n" * 300_000 + b"KeyError: last\n")
    stream.feed_eof()
    lines = LastLines(echoed.append)
    reading = asyncio.create_task(lines.read(stream))
    turns = 0
    while not reading.done():
        turns += 1
        await asyncio.sleep(0)
    await reading
    assert lines.exception == "KeyError"
    left_out = [int(line.split()[0]) for line in echoed if line.endswith("are left out")]
    assert sum(left_out) + len(echoed) - len(left_out) == 300_001
    assert len(echoed) < 40_000
    assert turns > 300


async def test_what_is_printed_at_once_and_no_more_is_taken_whole() -> None:
    echoed: list[str] = []
    stream = asyncio.StreamReader()
    stream.feed_data(b"x\n" * 9000)
    stream.feed_eof()
    await LastLines(echoed.append).read(stream)
    assert len(echoed) == 9000


def test_a_record_goes_to_the_log_as_it_is_and_any_other_line_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, standing = io.StringIO(), io.StringIO()
    standing.plain = plain  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stderr", standing)
    to_the_log(record("a record"))
    to_the_log("a crash")
    assert plain.getvalue() == record("a record") + "\n"
    assert standing.getvalue() == "a crash\n"


async def test_of_a_process_that_has_ended_the_rest_is_taken_at_once() -> None:
    lines = LastLines(lambda _: None)
    stream = asyncio.StreamReader()
    stream.feed_data(b"x\n" * 100_000 + b"ValueError: the end\n")
    stream.feed_eof()
    reading = asyncio.create_task(lines.read(stream))
    await asyncio.sleep(0)
    lines.hurry()
    async with asyncio.timeout(20):
        await reading
    assert lines.exception == "ValueError"
