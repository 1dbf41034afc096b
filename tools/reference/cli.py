"""The page of the command line: every command with its arguments and options."""

from __future__ import annotations

from typing import Any

import typer

from tailorbird.cli.app import app
from tailorbird.cli.exits import Exit
from tools.reference.text import begin, cell, done, one_line, paragraphs

_LISTED = 3
"""Levels of headings: deeper commands share the last."""


def page() -> str:
    """Return docs/reference/cli.md."""
    lines = begin(
        "Command line",
        "`tailorbird COMMAND --help` says the same. Options that name an environment variable take "
        "their value from it where they are not given.",
        "the commands' own declarations",
    )
    root = typer.main.get_command(app)
    context = root.context_class(root, info_name="tailorbird")
    lines += _options(root, context)
    for name in root.list_commands(context):  # type: ignore[attr-defined]
        lines += _command(root, name, context)
    return done(lines + _exits())


def _exits() -> list[str]:
    rows = [f"| {int(each)} | {cell(each.meaning)} |" for each in Exit]
    return ["## Exit statuses", "", "| status | meaning |", "|---|---|", *rows, ""]


def _command(group: Any, name: str, parent: Any) -> list[str]:
    command = group.get_command(parent, name)
    if command is None or command.hidden:
        return []
    context = command.context_class(command, info_name=name, parent=parent)
    is_group = hasattr(command, "list_commands")
    depth = context.command_path.count(" ")
    lines = [f"{'#' * min(depth + 1, _LISTED)} {context.command_path}", ""]
    if not is_group:
        usage = " ".join(command.collect_usage_pieces(context))
        lines += ["```text", f"{context.command_path} {usage}".rstrip(), "```", ""]
    lines += [paragraphs(command.help or ""), ""]
    if is_group:
        for each in command.list_commands(context):
            lines += _command(command, each, context)
        return lines
    return lines + _options(command, context)


def _options(command: Any, context: Any) -> list[str]:
    rows = []
    for parameter in command.get_params(context):
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        told = [one_line(getattr(parameter, "help", None) or "")]
        if parameter.required:
            told.append("Required.")
        default = _default(parameter)
        if default:
            told.append(f"Default: `{default}`.")
        told += [f"From `{variable}`." for variable in _variables(parameter)]
        rows.append(f"| {_spelt(parameter, context)} | {cell(' '.join(filter(None, told)))} |")
    return ["| option | what it does |", "|---|---|", *rows, ""] if rows else []


def _spelt(parameter: Any, context: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{' '.join(parameter.get_usage_pieces(context))}`"
    names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
    if getattr(parameter, "is_flag", False):
        return names
    return f"{names} `{cell(parameter.metavar or parameter.display_type(context))}`"


def _default(parameter: Any) -> str:
    default = parameter.default
    if default is None or isinstance(default, bool) or default == "" or callable(default):
        return ""
    if isinstance(default, list | tuple):
        return ", ".join(map(str, default))
    return str(getattr(default, "value", default))


def _variables(parameter: Any) -> tuple[str, ...]:
    variables = getattr(parameter, "envvar", None) or ()
    return (variables,) if isinstance(variables, str) else tuple(variables)
