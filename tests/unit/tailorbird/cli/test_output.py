"""What a pipe gets: whole lines, whatever the width of a terminal would be."""

from __future__ import annotations

import subprocess
import sys

NAME = "tenants/acme/adapters/" + "x" * 200


def test_names_are_not_broken_in_a_pipe() -> None:
    code = f"from tailorbird.cli.output import print_rows; print_rows(['NAME'], [['{NAME}']])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert NAME in [line.rstrip() for line in done.stdout.splitlines()]
