"""`-o`: the same answer as JSON and as YAML; every command that prints an answer has it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import typer
import yaml

from tailorbird.cli.app import app
from tailorbird.cli.formats import Output, dumped, print_data
from tailorbird.tuning.v1 import dataset_pb2, job_pb2

DATASET = dataset_pb2.Dataset(
    name="tenants/acme/datasets/chats", record_count=1200, ignored_fields=["no", "1.5", "naïve"]
)
NASTY = ["\x1b]0;title\x07", "\x9b31m", "a\u202eb", "\u2028", "\U000e0041", "first\nsecond", "~ü"]
# They print no message: a page, a token, a digest, an exit status, or text as it comes.
WITHOUT = {
    "console",
    "up",
    "generate",
    "chat",
    "health",
    "base digest",
    "tokens add",
    "datasets report",
    "jobs watch",
    "jobs sweep watch",
}


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_an_answer_is_an_object_several_are_an_array(
    output: str, read: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(read)
    one = {
        "name": DATASET.name,
        "record_count": "1200",
        "ignored_fields": ["no", "1.5", "naïve"],
    }
    print_data(DATASET, Output(output))
    assert read(capsys.readouterr().out) == one
    print_data(iter([DATASET, DATASET]), Output(output))
    assert read(capsys.readouterr().out) == [one, one]
    print_data([], Output(output))
    assert read(capsys.readouterr().out) == []
    print_data({"a": DATASET, "b": job_pb2.Job()}, Output(output))
    assert read(capsys.readouterr().out) == {"a": one, "b": {}}


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_what_a_terminal_would_act_on_is_escaped(output: str, read: object) -> None:
    assert callable(read)
    text = dumped(NASTY, Output(output))
    assert all(one.isprintable() or one == "\n" for one in text)
    assert read(text) == NASTY


def test_what_is_printable_stands_as_it_is() -> None:
    assert dumped(["grüße 你好"], Output.JSON) == '[\n  "grüße 你好"\n]'
    assert dumped(["grüße 你好 " + "x " * 100], Output.YAML) == "- 'grüße 你好 " + "x " * 100 + "'"


def test_every_command_has_it() -> None:
    options = dict(_commands(typer.main.get_command(app), ""))
    lack = {name for name, options in options.items() if not {"-o", "--output"} <= options}
    assert lack == WITHOUT
    assert not [name for name, options in options.items() if "--json" in options]


def _commands(command: object, name: str) -> Iterator[tuple[str, set[str]]]:
    if isinstance(command, typer.core.TyperGroup):
        context = typer.Context(command)
        for own in command.list_commands(context):
            yield from _commands(command.get_command(context, own), f"{name} {own}".strip())
    elif isinstance(command, typer.core.TyperCommand):
        yield name, {flag for parameter in command.params for flag in parameter.opts}
