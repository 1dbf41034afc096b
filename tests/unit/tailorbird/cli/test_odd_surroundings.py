"""Streams, files and texts that are not what a command would like them to be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from tailorbird.cli import chat_answers, context_choice, context_file, generate, up
from tailorbird.cli.context_file import Contexts, Homeless
from tailorbird.cli.own_file import replace
from tailorbird.cli.service_process import Plan
from tailorbird.errors import InvalidArgument
from tailorbird.serving.v1 import inference_service_pb2 as api


def _run(folder: Path, line: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    file = folder / "contexts.yaml"
    file.write_text("contexts: {one: {token_file: grün}}\n", encoding="utf-8")
    env = {**os.environ, "TAILORBIRD_CONTEXTS_FILE": str(file), **more}
    command = f'"{sys.executable}" -m tailorbird.cli {line}'
    return subprocess.run(["bash", "-c", command], env=env, capture_output=True, check=False)


def test_json_is_whole_where_the_terminal_is_not_utf8(tmp_path: Path) -> None:
    ended = _run(tmp_path, "contexts show one -o json", PYTHONIOENCODING="ascii")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout)["token_file"] == "grün"


def test_a_table_is_printed_where_the_terminal_is_not_utf8(tmp_path: Path) -> None:
    ended = _run(tmp_path, "contexts show one", PYTHONIOENCODING="ascii")
    assert ended.returncode == 0
    assert rb"gr\xfcn" in ended.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_stream_is_no_fault(tmp_path: Path, closed: str) -> None:
    ended = _run(tmp_path, f"contexts list {closed}")
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_an_answer_is_escaped_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(chat_answers, "out", Console(force_terminal=True))
    generate._print_one([api.StreamGenerateResponse(text="a\x1b]0;b\x07\nc")])
    assert capsys.readouterr().out == "a\\x1b]0;b\\x07\nc\n"


def test_up_says_names_with_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(data_dir=Path("/da[/ta]"), base_model="[red]x", own={"serving": {}})
    service: Any = SimpleNamespace(
        name="trainer", host="localhost", port=1, http_port=0, metrics_url="u", log="/da[/ta]/l"
    )
    services: Any = SimpleNamespace(both=(service,))
    up._show(plan, services, "", None)
    said = capsys.readouterr().out
    assert "/da[/ta]/l" in said
    assert "[red]x" in said


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(InvalidArgument, match="no regular file"):
        replace(pipe, "x")
    assert pipe.is_fifo()


def test_without_a_home_there_are_no_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(context_file.FILE, raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(homeless))
    with pytest.raises(Homeless, match="HOME"):
        context_file.place()


@pytest.mark.parametrize("named", [None, "one"])
def test_without_a_home_only_a_named_context_is_missed(
    monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    def nowhere() -> Path:
        raise Homeless

    monkeypatch.setattr(context_choice, "place", nowhere)
    command: Any = SimpleNamespace(get_parameter_source=lambda _: None, meta={})
    arguments: dict[str, Any] = {"context": named, "trainer": "there:1"}
    with pytest.raises(Homeless) if named else nullcontext():
        context_choice.fill_in(command, arguments)
    assert arguments == {"trainer": "there:1"}


def test_the_home_of_nobody_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="nobody"):
        Contexts(tmp_path / "c.yaml", {}).path_of("~no-such-user/token")


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    (tmp_path / "c").write_text('{current: one, contexts: {one: {token_file: "a\\0b"}}}')
    line = "jobs list --tenant x"
    ended = _run(tmp_path, line, TAILORBIRD_CONTEXTS_FILE=str(tmp_path / "c"))
    assert ended.returncode == 2
    assert b"token_file" in ended.stderr


def test_a_context_is_not_given_nothing(tmp_path: Path) -> None:
    ended = _run(tmp_path, "contexts set one --trainer ''")
    assert ended.returncode == 2
    assert b"--unset trainer" in ended.stderr
    assert "trainer" not in (tmp_path / "contexts.yaml").read_text()
