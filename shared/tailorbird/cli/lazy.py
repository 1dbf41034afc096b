"""A group of commands whose modules are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or a group of them: its name, where it is, and the first paragraph of its help.

    `place` is `module:attribute`; the attribute is a function or a typer.Typer. `help` stands in
    the list of commands, for which nothing is imported.
    """

    name: str
    place: str
    help: str

    def load(self) -> TyperCommand | TyperGroup:
        """Import the module and return the command as typer makes it."""
        module, _, attribute = self.place.partition(":")
        target = getattr(import_module(module), attribute)
        # Rich takes longer to import than the rest of the help together.
        around = typer.Typer(add_completion=False, rich_markup_mode=None)
        if isinstance(target, typer.Typer):
            around.add_typer(target, name=self.name)
        else:
            around.command(self.name)(target)
            # Else typer takes the one command for all that there is.
            around.callback()(_nothing)
        command: Any = typer.main.get_command(around)
        loaded: TyperCommand | TyperGroup = command.commands[self.name]
        return loaded


def _nothing() -> None: ...


class LazyGroup(TyperGroup):
    """Commands of a table: to be listed and completed they are not imported, to be got they are."""

    sections: ClassVar[dict[str, tuple[Entry, ...]]] = {}
    """Under each heading of the help its commands, in order."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._entries = {entry.name: entry for all_ in self.sections.values() for entry in all_}
        self.commands = {
            name: TyperCommand(name, help=entry.help, rich_markup_mode=None)
            for name, entry in self._entries.items()
        }
        self._loaded: dict[str, TyperCommand | TyperGroup] = {}
        self._is_listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command, imported; None for a name that is none."""
        if self._is_listing or cmd_name not in self._entries:
            return super().get_command(ctx, cmd_name)
        if cmd_name not in self._loaded:
            self._loaded[cmd_name] = self._entries[cmd_name].load()
        return self._loaded[cmd_name]

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Return the names that begin so, with their help."""
        with self._listing():
            return super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands under their headings, their first columns as wide as each other's."""
        width = max(map(len, self._entries))
        for heading, entries in self.sections.items():
            with formatter.section(heading):
                formatter.write_dl([(entry.name.ljust(width), entry.help) for entry in entries])

    @contextmanager
    def _listing(self) -> Iterator[None]:
        self._is_listing = True
        try:
            yield
        finally:
            self._is_listing = False
