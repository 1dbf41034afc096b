"""Pages for people: in a file, and in a browser."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from pathlib import Path

from rich.text import Text

from tailorbird.cli.output import errors, out


def show_page(content: bytes, to: Path | None, name: str, *, browse: bool) -> None:
    """Write a page to a file, say where it is, and with `browse` open it in the browser.

    Without `to` the file is a temporary one for the caller's eyes alone, named after `name`.
    """
    path = _written(content, to, name).absolute()
    out.print(Text(str(path)))
    if browse and not webbrowser.open(path.as_uri()):
        errors.print("no browser was found; open the file with one")


def _written(content: bytes, to: Path | None, name: str) -> Path:
    if to is not None:
        to.write_bytes(content)
        return to
    number, path = tempfile.mkstemp(prefix=f"{name}-", suffix=".html")
    with os.fdopen(number, "wb") as file:
        file.write(content)
    return Path(path)
