"""The context that a command is under, and what it says where nobody else does.

An option goes before the environment, the environment before the context, it before the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli.commands import ASKED
from tailorbird.cli.context_file import Contexts, Homeless, is_exposed, place, read, wrong
from tailorbird.cli.output import errors, plain
from tailorbird.errors import TailorbirdError


def begun(incomplete: str) -> list[str]:
    """Return the names of contexts that begin so, for a shell."""
    try:
        contexts = read(place())
    except TailorbirdError:
        return []
    return [name for name in contexts.by_name if name.startswith(incomplete)]


ContextOption = Annotated[
    str | None,
    typer.Option(
        "--context",
        envvar="TAILORBIRD_CONTEXT",
        help="The context to take what is not given from: see `tailorbird contexts`.",
        autocompletion=begun,
    ),
]


def asked_for(command: typer.Context, named: str | None) -> str | None:
    """Return the name of the context to take: the command's own option goes first."""
    if _source(command, "context") == "COMMANDLINE":
        return named
    return command.meta.get(ASKED) or named


def fill_in(command: typer.Context, arguments: dict[str, Any]) -> None:
    """Take `context` out of a command's arguments, and put in what it says of those left out.

    InvalidArgument names the file of contexts, and the key, that is wrong.
    """
    name = asked_for(command, arguments.pop("context"))
    try:
        contexts = read(place())
    except Homeless:
        if name:
            raise
        return
    chosen = contexts.chosen(name)
    if chosen is None:
        return
    name, context = chosen
    for key in ("trainer", "serving", "tenant", "plaintext", "token"):
        value = getattr(context, key)
        if value is not None and _is_left_out(command, key):
            arguments[key] = value
            if key == "token":
                warn_if_exposed(contexts)
    if context.token_file is not None and _is_left_out(command, "token"):
        arguments["token"] = _token(contexts, name, context.token_file)
    if context.root_certificates is not None and _is_left_out(command, "root_certificates"):
        file = contexts.path_of(context.root_certificates)
        if not file.is_file():
            raise wrong(contexts.path, 0, f"contexts.{name}.root_certificates: {file} is no file")
        arguments["root_certificates"] = file


def warn_if_exposed(contexts: Contexts) -> None:
    """Warn of a file of contexts that has a token, and that others may read."""
    if any(context.token is not None for context in contexts.by_name.values()):
        _warn(contexts.path)


def _token(contexts: Contexts, name: str, file: str) -> str:
    path = contexts.path_of(file)
    where = f"contexts.{name}.token_file"
    try:
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise wrong(contexts.path, 0, f"{where}: {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise wrong(contexts.path, 0, f"{where}: {path} is not UTF-8") from error
    except ValueError as error:
        raise wrong(contexts.path, 0, f"{where}: {path}: {error}") from error
    if not token:
        raise wrong(contexts.path, 0, f"{where}: {path} is empty")
    _warn(path)
    return token


def _warn(path: Path) -> None:
    if is_exposed(path):
        told = f"warning: {path} has a token and others can read it: chmod 600 {path}"
        errors.print(plain(told), style="yellow", markup=False, soft_wrap=True)


def _is_left_out(command: typer.Context, parameter: str) -> bool:
    return _source(command, parameter) == "DEFAULT"


def _source(command: typer.Context, parameter: str) -> str:
    source = command.get_parameter_source(parameter)
    return source.name if source else ""
