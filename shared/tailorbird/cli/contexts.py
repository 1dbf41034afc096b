"""`tailorbird contexts`: list, show, use, set, delete."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace as changed
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.cli.commands import ASKED
from tailorbird.cli.context_choice import begun, warn_if_exposed
from tailorbird.cli.context_file import (
    Context,
    Contexts,
    check_context,
    check_name,
    place,
    read,
)
from tailorbird.cli.formats import Output, OutputOption, print_values
from tailorbird.cli.output import print_facts, print_rows
from tailorbird.cli.own_file import alone_in, replace
from tailorbird.errors import InvalidArgument

app = typer.Typer(
    help="Keep addresses, tenants and tokens under names, and choose one.", no_args_is_help=True
)

_Name = Annotated[str, typer.Argument(help="The context.", autocompletion=begun)]


class Key(StrEnum):
    """What a context may say."""

    TRAINER = "trainer"
    SERVING = "serving"
    TENANT = "tenant"
    TOKEN = "token"  # noqa: S105
    TOKEN_FILE = "token_file"  # noqa: S105
    ROOT_CERTIFICATES = "root_certificates"
    PLAINTEXT = "plaintext"


@app.command("list")
def list_(output: OutputOption = Output.TABLE) -> None:
    """List the contexts; the current one has a star."""
    contexts = read(place())
    chosen = contexts.chosen(None)
    warn_if_exposed(contexts)
    if output.is_data:
        print_values([_values(contexts, name) for name in contexts.by_name], output)
        return
    print_rows(
        ["", "NAME", "TRAINER", "SERVING", "TENANT", "TOKEN"],
        (
            [
                "*" if chosen and chosen[0] == name else "",
                name,
                context.trainer or "",
                context.serving or "",
                context.tenant or "",
                _token(context),
            ]
            for name, context in contexts.by_name.items()
        ),
    )


@app.command()
def show(
    command: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(help="The context; else the current one.", autocompletion=begun),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a context, without its token."""
    contexts = read(place())
    chosen = contexts.chosen(name or command.meta.get(ASKED))
    if chosen is None:
        raise InvalidArgument("context", f"none is current in {contexts.path}: name one")
    warn_if_exposed(contexts)
    _show(contexts, chosen[0], output)


@app.command()
def use(name: _Name, output: OutputOption = Output.TABLE) -> None:
    """Make a context the current one: commands take what they are not given from it."""
    with _changing() as path:
        contexts = read(path)
        contexts.named(name)
        contexts = changed(contexts, current=name)
        _write(contexts)
    _show(contexts, name, output)


@app.command("set")
def set_(
    name: _Name,
    trainer: Annotated[str | None, typer.Option(help="The trainer's host:port.")] = None,
    serving: Annotated[str | None, typer.Option(help="Serving's host:port.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant of bare ids.")] = None,
    token: Annotated[
        str | None, typer.Option(help="A bearer token, kept in the file; - reads it from stdin.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="A file with the token, read at each call.", dir_okay=False)
    ] = None,
    root_certificates: Annotated[
        Path | None,
        typer.Option(help="PEM file of the authorities to trust.", exists=True, dir_okay=False),
    ] = None,
    plaintext: Annotated[
        bool | None,
        typer.Option("--plaintext/--no-plaintext", help="No TLS to addresses beyond loopback."),
    ] = None,
    unset: Annotated[
        list[Key] | None, typer.Option(help="What the context is to say no more; may be repeated.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a context, or change what is given of one. The first one made is the current one.

    The file is written anew, readable by its owner alone; comments in it are lost.
    """
    given: dict[str, Any] = {key.value: None for key in unset or ()}
    values = {
        "trainer": trainer,
        "serving": serving,
        "tenant": tenant,
        "token": _read_token(token),
        "token_file": token_file and str(token_file.absolute()),
        "root_certificates": root_certificates and str(root_certificates.absolute()),
        "plaintext": plaintext,
    }
    given |= {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        if value == "":
            raise typer.BadParameter(
                f"it is empty; --unset {key} takes it out", param_hint=f"--{key}"
            )
    if not given:
        raise typer.BadParameter("give what the context is to say, such as --trainer")
    if given.get("token") is not None and given.get("token_file") is None:
        given["token_file"] = None
    elif given.get("token_file") is not None and given.get("token") is None:
        given["token"] = None
    check_name(name)
    with _changing() as path:
        contexts = read(path)
        context = changed(contexts.by_name.get(name, Context()), **given)
        check_context(context, name)
        contexts = changed(
            contexts,
            by_name={**contexts.by_name, name: context},
            current=contexts.current if contexts.by_name else name,
        )
        _write(contexts)
    _show(contexts, name, output)


@app.command()
def delete(name: _Name, output: OutputOption = Output.TABLE) -> None:
    """Delete a context; if it is the current one, there is none then."""
    with _changing() as path:
        contexts = read(path)
        contexts.named(name)
        rest = {other: context for other, context in contexts.by_name.items() if other != name}
        current = None if contexts.current == name else contexts.current
        _write(changed(contexts, by_name=rest, current=current))
    if output.is_data:
        print_values({"name": name}, output)
        return
    print_facts([("deleted", name)])


@contextmanager
def _changing() -> Iterator[Path]:
    """Give the path of the file of contexts, which no other command changes meanwhile."""
    # What a link leads to is written, and not the link.
    path = place().resolve()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with alone_in(path.parent, str(path)):
        yield path


def _write(contexts: Contexts) -> None:
    from tailorbird.cli.context_yaml import dumped

    replace(contexts.path, dumped(contexts))


def _read_token(given: str | None) -> str | None:
    token = sys.stdin.readline() if given == "-" else given
    if token is None:
        return None
    if not token.strip():
        raise typer.BadParameter("it is empty", param_hint="--token")
    return token.strip()


def _token(context: Context) -> str:
    return "kept here" if context.token is not None else context.token_file or ""


def _values(contexts: Contexts, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "current": name == contexts.current,
        **contexts.by_name[name].told(),
    }


def _show(contexts: Contexts, name: str, output: Output) -> None:
    if output.is_data:
        print_values(_values(contexts, name), output)
        return
    context = contexts.by_name[name]
    plaintext = "" if context.plaintext is None else str(context.plaintext).lower()
    print_facts(
        [
            ("name", name),
            ("current", "yes" if name == contexts.current else "no"),
            ("trainer", context.trainer or ""),
            ("serving", context.serving or ""),
            ("tenant", context.tenant or ""),
            ("token", _token(context)),
            ("root certificates", context.root_certificates or ""),
            ("plaintext", plaintext),
            ("file", str(contexts.path)),
        ]
    )
