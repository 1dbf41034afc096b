"""Where tests find the packages that `make test` had npm install."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def node_modules() -> Path:
    """Return the folder; TAILORBIRD_NODE_MODULES names another one."""
    named = os.environ.get("TAILORBIRD_NODE_MODULES")
    folder = Path(named) if named else ROOT / ".venv" / "node_modules"
    assert folder.is_dir(), f"{folder} is not there: `make test` installs it, which needs npm"
    return folder
