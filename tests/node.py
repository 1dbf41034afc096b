"""Where tests find the packages that `make test` had npm install."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def node_modules() -> Path:
    """Return the folder; TAILORBIRD_NODE_MODULES names another one."""
    named = os.environ.get("TAILORBIRD_NODE_MODULES")
    folder = Path(named) if named else ROOT / ".venv" / "node_modules"
    missing = [
        name
        for name in ("@grpc/grpc-js", "@grpc/proto-loader", "openai")
        if not (folder / name).is_dir()
    ]
    assert not missing, f"{folder} lacks {missing}: `make test` installs them, which needs npm"
    return folder
