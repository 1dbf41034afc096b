"""What `tailorbird --version` says."""

from __future__ import annotations

import platform
from importlib import metadata

from tailorbird import __version__


def version_line() -> str:
    """Return the versions of tailorbird, Python and grpcio, of which nothing is imported."""
    try:
        grpcio = metadata.version("grpcio")
    except metadata.PackageNotFoundError:
        grpcio = "not installed"
    return f"tailorbird {__version__} (Python {platform.python_version()}, grpcio {grpcio})"
