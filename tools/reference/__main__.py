"""Usage: python -m tools.reference write | check.

Writes the pages of docs/reference, or fails where a committed page is not what would be written.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from pathlib import Path

from tools.reference import api, cli, errors, metrics, settings

_FOLDER = Path(__file__).parents[2] / "docs" / "reference"
_PAGES: dict[str, Callable[[], str]] = {
    "api.md": api.page,
    "cli.md": cli.page,
    "errors.md": errors.page,
    "metrics.md": metrics.page,
    "settings.md": settings.page,
}
_SHOWN = 20
"""Lines of a difference."""


def main() -> int:
    """Do what the command line asks; return the exit status."""
    match sys.argv[1:]:
        case ["write"]:
            _FOLDER.mkdir(exist_ok=True)
            for name, page in _PAGES.items():
                (_FOLDER / name).write_text(page(), encoding="utf-8")
            return 0
        case ["check"]:
            return _check()
    print(__doc__, file=sys.stderr)
    return 2


def _check() -> int:
    stale = 0
    for name, page in _PAGES.items():
        path = _FOLDER / name
        committed = path.read_text(encoding="utf-8") if path.exists() else ""
        said = f"docs/reference/{name}", "the code", "", ""
        lines = difflib.unified_diff(committed.splitlines(), page().splitlines(), *said, 0)
        shown = list(lines)[: _SHOWN + 1]
        if shown:
            stale = 1
            print("\n".join(shown[:_SHOWN]), "…" if len(shown) > _SHOWN else "", file=sys.stderr)
    if stale:
        print("docs/reference is not what the code says: run 'make reference'", file=sys.stderr)
    else:
        print("docs/reference is what the code says")
    return stale


if __name__ == "__main__":
    sys.exit(main())
