"""`tailorbird contexts`, and commands under a context, against a real socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tailorbird.cli.context_file import read
from tests.certificates import Authority
from tests.integration.scripted_services import Script
from tests.integration.test_cli import Run, run

__all__ = ["run"]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "own" / "contexts.yaml"
    monkeypatch.setenv("TAILORBIRD_CONTEXTS_FILE", str(path))
    return path


@pytest.fixture
def bare(run: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """The scripted services' address, of which the environment says nothing any more."""
    address = os.environ["TAILORBIRD_TRAINER"]
    for name in ("TRAINER", "SERVING", "TOKEN", "TENANT"):
        monkeypatch.delenv(f"TAILORBIRD_{name}")
    return address


def sent(script: Script) -> tuple[str, str | None]:
    """Return the tenant and the token of the last call."""
    return script.requests[-1].parent, script.metadata[-1].get("authorization")


def test_an_option_goes_before_the_environment_it_before_the_context_it_before_the_default(
    run: Run, script: Script, file: Path, bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("contexts", "set", "one", "--trainer", bare, "--serving", bare).status == 0
    run("contexts", "set", "one", "--tenant", "from-context", "--token", "of-context")
    assert run("jobs", "list").status == 0
    assert sent(script) == ("tenants/from-context", "Bearer of-context")
    monkeypatch.setenv("TAILORBIRD_TENANT", "from-environment")
    monkeypatch.setenv("TAILORBIRD_TOKEN", "of-environment")
    run("jobs", "list")
    assert sent(script) == ("tenants/from-environment", "Bearer of-environment")
    run("jobs", "list", "--tenant", "from-option", "--token", "of-option")
    assert sent(script) == ("tenants/from-option", "Bearer of-option")
    assert run("info").status == 0
    ran = run("jobs", "list", "--trainer", "127.0.0.1:1")
    assert (ran.status, "127.0.0.1:1" in ran.err) == (8, True)
    monkeypatch.delenv("TAILORBIRD_TENANT")
    run("contexts", "set", "one", "--unset", "tenant")
    ran = run("jobs", "list")
    assert (ran.status, "or in a context" in ran.err) == (2, True)


def test_a_context_is_named_before_or_after_the_command_or_in_the_environment(
    run: Run, script: Script, file: Path, bare: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        run("contexts", "set", name, "--trainer", bare, "--tenant", name)
    for arguments, tenant in (
        (("jobs", "list"), "one"),
        (("--context", "two", "jobs", "list"), "two"),
        (("jobs", "list", "--context", "three"), "three"),
        (("--context", "two", "jobs", "list", "--context", "three"), "three"),
    ):
        assert run(*arguments).status == 0
        assert sent(script)[0] == f"tenants/{tenant}"
    monkeypatch.setenv("TAILORBIRD_CONTEXT", "two")
    run("jobs", "list")
    assert sent(script)[0] == "tenants/two"
    run("--context", "three", "jobs", "list")
    assert sent(script)[0] == "tenants/three"
    ran = run("jobs", "list", "--context", "tow")
    assert (ran.status, ran.err) == (
        2,
        f"error: {file}: no context is called 'tow'; did you mean 'two'? "
        "(there are one, two, three)\n",
    )


def test_contexts_are_kept_listed_chosen_and_deleted(run: Run, file: Path) -> None:
    assert run("contexts", "list").status == 0
    ran = run("contexts", "set", "prod", "--trainer", "a:1", "--token", "s3cret", "--plaintext")
    assert (ran.status, "kept here" in ran.out) == (0, True)
    run("contexts", "set", "dev", "--tenant", "acme", "--token-file", "dev.token")
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    listed = run("contexts", "list").out.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["*", "prod"], ["dev", "acme"]]
    assert json.loads(run("contexts", "show", "-o", "json").out) == {
        "name": "prod",
        "current": True,
        "has_token": True,
        "trainer": "a:1",
        "plaintext": True,
    }
    assert run("contexts", "use", "dev").status == 0
    shown = json.loads(run("contexts", "show", "-o", "json").out)
    assert (shown["name"], shown["token_file"]) == ("dev", str(Path("dev.token").absolute()))
    # A token and a file of one take each other's place.
    run("contexts", "set", "dev", "--token", "other")
    assert "token_file" not in run("contexts", "show", "dev", "-o", "yaml").out
    run("contexts", "set", "prod", "--unset", "plaintext")
    assert read(file).by_name["prod"].plaintext is None
    assert run("--context", "prod", "contexts", "show").out.splitlines()[0].split()[1] == "prod"
    everything = [("list",), ("show",), ("show", "prod"), ("use", "prod"), ("delete", "prod")]
    for arguments in everything:
        for output in ("table", "json", "yaml"):
            ran = run("contexts", *arguments, "-o", output)
            assert "s3cret" not in ran.out + ran.err
    assert (list(read(file).by_name), read(file).current) == (["dev"], None)
    assert run("contexts", "show").status == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "a"), "give what the context is to say"),
        (("set", "a/b", "--tenant", "acme"), "'a/b' is no name"),
        (("set", "a", "--tenant", "A B"), "a.tenant: 'A B' is not an id"),
        (("set", "a", "--token", " "), "it is empty"),
        (("set", "a", "--token", "x", "--token-file", "y"), "not both"),
        (("set", "a", "--unset", "trainr"), "trainr"),
        (("use", "a"), "no context is called 'a'"),
        (("delete", "a"), "no context is called 'a'"),
    ],
)
def test_what_is_no_context_is_not_written(
    run: Run, file: Path, arguments: tuple[str, ...], said: str
) -> None:
    ran = run("contexts", *arguments)
    assert (ran.status, said in ran.err) == (2, True), ran.err
    assert not file.exists()


def test_a_wrong_file_is_told_and_left_as_it_is(run: Run, script: Script, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("contexts:\n  prod:\n    tennant: acme\n")
    for arguments in (("jobs", "list"), ("contexts", "list"), ("contexts", "use", "prod")):
        ran = run(*arguments)
        assert ran.status == 2
        assert ran.err.startswith(f"error: {file}, line 3: contexts.prod: unknown key 'tennant'")
        assert ran.err.count("\n") == 1
    assert script.requests == []
    assert "tennant" in file.read_text()


def test_a_current_context_that_is_gone_can_be_chosen_anew(run: Run, file: Path) -> None:
    file.parent.mkdir()
    file.write_text("current: prd\ncontexts:\n  prod: {tenant: acme}\n")
    assert "line 1: current: no context is called 'prd'" in run("jobs", "list").err
    assert run("contexts", "use", "prod").status == 0
    assert run("jobs", "list").status == 0


def test_files_are_found_beside_the_file_of_contexts(
    run: Run, script: Script, file: Path, bare: str
) -> None:
    file.parent.mkdir()
    file.write_text(
        f"current: a\ncontexts:\n  a:\n    trainer: {bare}\n    tenant: acme\n"
        "    token_file: a.token\n"
    )
    ran = run("jobs", "list")
    token = file.parent / "a.token"
    assert (ran.status, f"contexts.a.token_file: {token}: No such file" in ran.err) == (2, True)
    token.write_text("\n")
    token.chmod(0o600)
    assert f"{token} is empty" in run("jobs", "list").err
    token.write_text("from-a-file\n")
    ran = run("jobs", "list")
    assert (ran.status, ran.err) == (0, "")
    assert sent(script) == ("tenants/acme", "Bearer from-a-file")
    token.chmod(0o644)
    assert f"warning: {token} has a token and others can read it" in run("jobs", "list").err
    file.write_text(file.read_text() + "    root_certificates: none.pem\n")
    assert "contexts.a.root_certificates: " in run("jobs", "list").err
    (file.parent / "none.pem").write_bytes(Authority().pem)
    # With an authority to trust, TLS is spoken, which this server does not.
    assert run("jobs", "list").status == 8


def test_a_file_with_a_token_that_others_can_read_is_warned_of(
    run: Run, file: Path, bare: str
) -> None:
    run("contexts", "set", "a", "--trainer", bare, "--tenant", "acme", "--token", "x")
    assert run("jobs", "list").err == ""
    file.chmod(0o644)
    for arguments in (("jobs", "list"), ("contexts", "list"), ("contexts", "show")):
        told = run(*arguments).err
        assert told == (f"warning: {file} has a token and others can read it: chmod 600 {file}\n")
    run("contexts", "set", "a", "--tenant", "acme")
    assert run("jobs", "list").err == ""


def test_what_a_link_leads_to_is_written(run: Run, file: Path, tmp_path: Path) -> None:
    file.parent.mkdir()
    (tmp_path / "kept.yaml").write_text("")
    file.symlink_to(tmp_path / "kept.yaml")
    run("contexts", "set", "a", "--tenant", "acme")
    assert file.is_symlink()
    assert "acme" in (tmp_path / "kept.yaml").read_text()


def test_a_token_is_read_from_standard_input(file: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "tailorbird.cli", "contexts", "set", "a", "--token", "-"],
        input="s3cret\n", text=True, check=True, capture_output=True,
    )  # fmt: skip
    assert read(file).by_name["a"].token == "s3cret"


def test_names_are_completed(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prod", "prod-eu", "dev"):
        run("contexts", "set", name, "--tenant", "acme")
    monkeypatch.setenv("_TAILORBIRD_COMPLETE", "complete_bash")
    for line in ("contexts use pr", "--context pr", "jobs list --context pr"):
        monkeypatch.setenv("COMP_WORDS", f"tailorbird {line}")
        monkeypatch.setenv("COMP_CWORD", str(len(line.split())))
        assert run().out.split() == ["prod", "prod-eu"]
    file.write_text("{")
    assert run().out == "\n"
