"""A process whose parent was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress

PARENT = "from tests.unit.serving_svc.engine import orphan; orphan.parent()"


def test_a_process_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
        try:
            # Its end closes the pipe, which the child has too.
            rest, _ = parent.communicate(timeout=30)
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    assert rest == ""
