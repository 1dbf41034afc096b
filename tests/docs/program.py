"""A Python session that runs a page's blocks one after the other, as a reader who types them would.

python -m tests.docs.program   reads blocks from standard input, each as a line of JSON
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.docs.blocks import ROOT


class Program:
    """Runs blocks in `folder` with `environment`; what one defines, the next one has."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        # The session finds this module; the blocks find what the project's environment has.
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
             "from tests.docs.program import main; main()"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def run(self, text: str) -> tuple[bool, str]:
        """Run a block; return whether it ended well, and what it printed, errors included."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(text) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the session ended"
        ended_well, printed = json.loads(answer)
        return ended_well, printed

    def close(self) -> None:
        """End the session."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


def main() -> None:
    """Run blocks until there are no more."""
    names: dict[str, Any] = {"__name__": "__main__"}
    answers = sys.stdout
    for line in sys.stdin:
        said = io.StringIO()
        ended_well = True
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                exec(compile(json.loads(line), "<block>", "exec"), names)
            except BaseException:
                ended_well = False
                traceback.print_exc()
        answers.write(json.dumps([ended_well, said.getvalue()]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
