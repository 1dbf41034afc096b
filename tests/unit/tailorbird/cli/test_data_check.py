"""`tailorbird datasets check` without a service; tests/integration/test_dataset_cli.py compares."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tailorbird.cli import data_check
from tailorbird.cli.app import main

GOOD = b"".join(
    json.dumps({"prompt": f"ask {n}", "completion": f"the answer {n}", "note": 1}).encode() + b"\n"
    for n in range(20)
)
BAD = GOOD + b'{"prompt": "a", "completion": " "}\nno\n\x1b[2J\n'
SCRIPT = """
import sys
import tailorbird.cli.data_check
print(*sys.modules)
"""


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str, **files: bytes) -> Ran:
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        paths = [str(tmp_path / name) for name in files]
        argv = ["tailorbird", "datasets", "check", *arguments, *paths]
        monkeypatch.setattr(sys, "argv", argv)
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        return Ran(status, *(one.replace(f"{tmp_path}/", "") for one in capsys.readouterr()))

    return run


def test_several_files_are_told_and_one_bad_one_is_a_refusal(run: Run) -> None:
    ran = run(good=GOOD, bad=BAD)
    assert ran.status == 4
    assert ran.out.startswith("good\nrecords   20 ")
    assert ("duplicates       0 of 20" in ran.out, "not read  note" in ran.out) == (
        True, True,
    )  # fmt: skip
    assert ran.err.splitlines() == [
        "error: bad: INVALID_RECORD 3 bad lines of 23: line 21: completion: only white space, which"
        " cannot be trained on",
        "  line 21: completion: only white space, which cannot be trained on",
        "  line 22: not JSON (Expecting value at column 1); JSONL has one object a line",
        "  line 23: as line 22",
    ]


def test_programs_get_every_file_s_report_or_errors(run: Run) -> None:
    ran = run("-o", "json", good=GOOD, bad=BAD)
    good, bad = json.loads(ran.out)
    assert (ran.status, good["file"], bad["file"]) == (4, "good", "bad")
    assert good["dataset"]["report"]["records"] == "20"
    assert good["dataset"]["ignored_fields"] == ["note"]
    assert bad["error"]["reason"] == "INVALID_RECORD"
    assert [one["field"] for one in bad["error"]["violations"]] == [
        "line 21", "line 22", "line 23"
    ]  # fmt: skip


def test_a_file_is_wrong_as_a_whole(run: Run) -> None:
    ran = run(empty=b"\n \n")
    assert (ran.status, ran.err) == (4, "error: empty: DATASET_EMPTY the file has no records\n")
    ran = run("--max-dataset-bytes", "100", large=GOOD)
    told = f"{len(GOOD)} bytes are too many: at most 100 are accepted"
    assert (ran.status, ran.err) == (4, f"error: large: DATASET_TOO_LARGE {told}\n")
    table = b"prompt,completion\n" + b"a,b\n" * 3
    assert "the file seems to be a table, CSV" in run(table=table).err
    longest = str(2048)
    ran = run("--max-record-bytes", longest, long=json.dumps({"text": "a" * 2048}).encode())
    assert "line 1: longer than 2048 bytes" in ran.err
    assert run("--format", "text", other=GOOD).err.splitlines()[1] == (
        "  line 1: prompt_completion where the format asked for is text"
    )
    assert run("/nonexistent/file").status == 2


def test_the_mark_at_a_file_s_beginning_is_not_stored(run: Run) -> None:
    plain = json.loads(run("-o", "json", plain=GOOD).out)[0]["dataset"]
    marked = json.loads(run("-o", "json", marked=b"\xef\xbb\xbf" + GOOD).out)[0]["dataset"]
    assert plain["sha256"] == plain["source_sha256"] == marked["sha256"]
    assert marked["source_sha256"] != marked["sha256"]


def test_the_base_install_checks_and_says_why_it_reports_less(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = json.loads(run("-o", "json", good=GOOD).out)[0]["dataset"]
    monkeypatch.setattr(data_check, "_NEEDED", ("nobody_has_this",))
    ran = run("-o", "json", good=GOOD)
    assert ran.status == 0
    (found,) = json.loads(ran.out)
    assert found["dataset"] == {key: value for key, value in whole.items() if key != "report"}
    assert "needs the extra trainer" in ran.err
    assert run(bad=BAD).status == 4


def test_the_base_install_suffices_to_read_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"numpy", "pydantic", "torch", "trainer_svc"})


def test_a_report_that_cannot_be_made_is_said_in_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    ran = run(good=GOOD)
    assert (ran.status, ran.err.count("\n")) == (0, 1)
    assert ran.err.startswith("no report: ")
    assert "records   20" in ran.out
