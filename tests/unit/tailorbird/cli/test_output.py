"""What a pipe gets: whole lines, whatever the width of a terminal would be."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tailorbird.cli.output import describe, plain, print_facts, print_rows
from tailorbird.errors import TailorbirdError

NAME = "tenants/acme/adapters/" + "x" * 200


def test_names_are_not_broken_in_a_pipe() -> None:
    code = f"from tailorbird.cli.output import print_rows; print_rows(['NAME'], [['{NAME}']])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert NAME in [line.rstrip() for line in done.stdout.splitlines()]


HOSTILE = "\x1b[2Jregion\u202e\x9b"
SHOWN = r"\x1b[2Jregion\u202e\x9b"


def test_a_terminal_acts_on_nothing_that_data_say(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_facts([("not read", HOSTILE)])
    print_rows(["KEY"], [[HOSTILE]])
    said = capsys.readouterr().out + describe(TailorbirdError(f"metadata.{HOSTILE} is missing"))
    assert said.count(SHOWN) == 3
    assert all(one.isprintable() or one == "\n" for one in said)


def test_letters_of_every_script_stay() -> None:
    text = "a e\u0301 \u05e9\u05dc\u05d5\u05dd \u4f60\u597d"
    assert plain(text + "\n") == text + r"\n"


def test_a_message_of_several_lines_keeps_them() -> None:
    assert (
        describe(TailorbirdError("it died:\nlast\x07 words")) == "error: it died:\nlast\\x07 words"
    )
