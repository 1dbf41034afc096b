"""The file of contexts: which services a person talks to, and as whom."""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tailorbird.errors import InvalidArgument
from tailorbird.names import check_id

FILE = "TAILORBIRD_CONTEXTS_FILE"
"""Names the file, where it is not at its usual place."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True, repr=False)
class Context:
    """What commands take where neither an option nor the environment says it; None: not said.

    Addresses are host:port. Files are as the file of contexts has them: relative to its folder.
    """

    trainer: str | None = None
    serving: str | None = None
    tenant: str | None = None
    token: str | None = None
    token_file: str | None = None
    root_certificates: str | None = None
    plaintext: bool | None = None

    def told(self) -> dict[str, str | bool]:
        """Return what is set, but of a token only that it is there."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return {"has_token": True} | said if said.pop("token", None) is not None else said


class Homeless(InvalidArgument):
    """Nobody says where the file of contexts is."""

    def __init__(self) -> None:
        super().__init__("HOME", f"it is not set: set it, or {FILE}, to keep contexts")


KEYS = tuple(field.name for field in fields(Context))


@dataclass(frozen=True, slots=True, repr=False)
class Contexts:
    """What the file at `path` says; nothing, if there is no such file."""

    path: Path
    by_name: Mapping[str, Context]
    current: str | None = None
    current_line: int = 0

    def chosen(self, name: str | None) -> tuple[str, Context] | None:
        """Return the context of that name, or the current one; None where neither is named.

        InvalidArgument for a name that the file does not have.
        """
        if name:
            return name, self.named(name)
        if self.current is None:
            return None
        if self.current not in self.by_name:
            raise wrong(
                self.path,
                self.current_line,
                f"current: {self._missing(self.current)}; "
                "`tailorbird contexts use NAME` chooses another",
            )
        return self.current, self.by_name[self.current]

    def named(self, name: str) -> Context:
        """Return a context; InvalidArgument tells which there are."""
        if name not in self.by_name:
            raise wrong(self.path, 0, self._missing(name))
        return self.by_name[name]

    def path_of(self, file: str) -> Path:
        """Return where a file is that a context names."""
        try:
            return self.path.parent / Path(file).expanduser()
        except RuntimeError as error:
            raise wrong(self.path, 0, f"{file}: ~ names nobody's home here") from error

    def _missing(self, name: str) -> str:
        there = f"there are {', '.join(self.by_name)}" if self.by_name else "there is none"
        return f"no context is called {name!r}{near(name, self.by_name)} ({there})"


def place() -> Path:
    """Return where the file of contexts is, or would be; Homeless if nothing says it."""
    if named := os.environ.get(FILE):
        return Path(named).absolute()
    home = Path(os.environ.get("XDG_CONFIG_HOME") or "")
    # The specification has it that a path which is not absolute is not heeded.
    if not home.is_absolute():
        try:
            home = Path.home() / ".config"
        except RuntimeError as error:
            # A user without an entry and without HOME, as in a container.
            raise Homeless from error
    return home / "tailorbird" / "contexts.yaml"


def read(path: Path) -> Contexts:
    """Read a file of contexts; InvalidArgument says where it is wrong and how."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Contexts(path, {})
    except OSError as error:
        raise wrong(path, 0, f"it cannot be read: {error.strerror}") from error
    # Not needed without a file.
    from tailorbird.cli.context_yaml import parse

    return parse(content, path)


def check_name(name: str) -> str:
    """Return the name of a context; InvalidArgument if it is not one."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            "context",
            f"{name[:80]!r} is no name for one: it takes 1 to 63 letters, digits or . _ -, "
            "of which the first is a letter or a digit",
        )
    return name


def check_context(context: Context, field: str) -> None:
    """Raise InvalidArgument for what cannot hold together."""
    if context.token is not None and context.token_file is not None:
        raise InvalidArgument(field, "give a token or a token_file, not both")
    if context.tenant is not None:
        check_id(f"{field}.tenant", context.tenant)


def near(word: str, known: Iterable[str]) -> str:
    """Say which known word may have been meant, if any."""
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def wrong(path: Path, line: int, text: str) -> InvalidArgument:
    """Return the error of a file of contexts, at a line from 1, or 0 where none is known."""
    return InvalidArgument(f"{path}, line {line}" if line else str(path), text)


def is_exposed(path: Path) -> bool:
    """Whether others than its owner may read a file."""
    try:
        return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False
