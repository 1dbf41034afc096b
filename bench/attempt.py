"""What every bench does around its measuring: a folder, an end for its children, the file."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.serving.processes import BenchFailed
from bench.serving.targets import say

Content = dict[str, Any]


def attempt(
    out: Path,
    name: str,
    measure: Callable[[Path], Content],
    *,
    logs: str = ".",
    tell: Callable[[Content], int] = lambda _: 0,
) -> int:
    """Measure in a new folder and write what came out to `out`, as JSON; return the exit status.

    That is 1 when it could not be measured, 130 when somebody stopped it, or what `tell` makes of
    the content. Unless it is 0, what lies under `logs` in the folder is kept.
    """
    # So that every child is stopped also when a supervisor ends the bench.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Found out now, and not after a quarter of an hour.
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"tailorbird-{name}-"))
    status = 1
    try:
        content = measure(work)
        out.write_text(json.dumps(content, indent=1) + "\n")
        status = tell(content)
        say(f"written: {out}")
    except BenchFailed as error:
        say(f"the bench failed: {error}")
    except KeyboardInterrupt:
        say("stopped")
        status = 130
    finally:
        _clear(work, work / logs if status else None)
    return status


def _clear(work: Path, kept: Path | None) -> None:
    if kept is None:
        shutil.rmtree(work, ignore_errors=True)
        return
    say(f"the logs are in {kept}")
    for entry in work.iterdir():
        if kept not in {entry, work}:
            shutil.rmtree(entry, ignore_errors=True)
