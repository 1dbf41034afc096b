"""The file of contexts: what it may say, and how it is told what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailorbird.cli.context_file import KEYS, Context, Contexts, place, read
from tailorbird.cli.context_yaml import dumped, parse
from tailorbird.cli.contexts import Key
from tailorbird.errors import InvalidArgument

FILE = Path("/home/ada/.config/tailorbird/contexts.yaml")
WHOLE = """\
# Where I work.
current: prod
contexts:
  prod:
    trainer: trainer.example.com:443
    serving: serving.example.com:443
    tenant: acme
    token_file: prod.token
    root_certificates: ca.pem
    plaintext: no
  dev: {tenant: acme, token: s3cret}
"""


def test_a_file_is_read_and_written() -> None:
    found = parse(b"\xef\xbb\xbf" + WHOLE.encode(), FILE)
    assert found.chosen(None) == (
        "prod",
        Context(
            trainer="trainer.example.com:443",
            serving="serving.example.com:443",
            tenant="acme",
            token_file="prod.token",
            root_certificates="ca.pem",
            plaintext=False,
        ),
    )
    assert found.chosen("dev") == ("dev", Context(tenant="acme", token="s3cret"))
    again = parse(dumped(found).encode(), FILE)
    assert (again.by_name, again.current) == (found.by_name, found.current)
    assert found.path_of("ca.pem") == FILE.parent / "ca.pem"


@pytest.mark.parametrize("text", ["", "# nothing\n", "contexts:\n", "current:\ncontexts: {}\n"])
def test_a_file_may_say_nothing(text: str) -> None:
    found = parse(text.encode(), FILE)
    assert (found.by_name, found.chosen(None)) == ({}, None)


def test_no_file_is_no_context(tmp_path: Path) -> None:
    assert read(tmp_path / "none.yaml") == Contexts(tmp_path / "none.yaml", {})
    with pytest.raises(InvalidArgument, match="no context is called 'prod' \\(there is none\\)"):
        read(tmp_path / "none.yaml").chosen("prod")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (
            "contexts:\n  a:\n    tennant: acme\n",
            3,
            "contexts.a: unknown key 'tennant'; did you mean 'tenant'? (known: trainer, ",
        ),
        (
            "curent: a\n",
            1,
            "unknown key 'curent'; did you mean 'current'? (known: current, contexts)",
        ),
        ("contexts:\n  a: {tenant: 42}\n", 2, 'contexts.a.tenant: text is needed; write "42"'),
        ("contexts:\n  a: {tenant: }\n", 2, "contexts.a.tenant: text is needed"),
        ("contexts:\n  a: {tenant: [acme]}\n", 2, "contexts.a.tenant: text is needed"),
        (
            "contexts:\n  a:\n    plaintext: 'yes'\n",
            3,
            "contexts.a.plaintext: true or false is needed",
        ),
        (
            "contexts:\n  a: localhost:50051\n",
            2,
            "contexts.a: keys and their values are needed, as `key: value`",
        ),
        ("contexts: [a]\n", 1, "contexts: keys and their values are needed"),
        ("hello\n", 1, "keys and their values are needed"),
        ("contexts:\n  1: {}\n", 2, 'contexts: a key: text is needed; write "1"'),
        ("contexts:\n  a: {}\n  a: {}\n", 3, "contexts: 'a' is given twice"),
        ("contexts:\n  -a: {}\n", 2, "context: '-a' is no name for one"),
        (
            "contexts:\n  a: {token: x, token_file: y}\n",
            2,
            "contexts.a: give a token or a token_file, not both",
        ),
        ("contexts:\n  a: {tenant: Acme/x}\n", 2, "contexts.a.tenant: 'Acme/x' is not an id"),
        ("contexts:\n  a: &x\n    <<: *x\n", 3, 'contexts.a: a key: text is needed; write "<<"'),
        ("contexts:\n  a: {tenant: acme\n", 3, "it is not YAML: "),
        (
            "contexts:\n\ta: {}\n",
            2,
            "it is not YAML: found character '\\t' that cannot start any token",
        ),
        ("a: 1\n---\nb: 1\n", 2, "it is not YAML: but found another document"),
        ("a: \x00\n", 0, "it is not YAML: special characters are not allowed"),
        ("[" * 5000, 0, "it is not YAML: it cannot be read"),
        (
            "current: prd\ncontexts:\n  prod: {}\n",
            1,
            "current: no context is called 'prd'; did you mean 'prod'? (there are prod); "
            "`tailorbird contexts use NAME`",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse(text.encode(), FILE).chosen(None)
    where = f"{FILE}, line {line}: " if line else f"{FILE}: "
    assert caught.value.message.startswith(where + said)


def test_what_is_not_utf_8_is_told_with_its_line() -> None:
    with pytest.raises(InvalidArgument, match=r"contexts.yaml, line 2: it is not UTF-8"):
        parse(b"current: a\ncontexts: \xff\n", FILE)


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="it cannot be read: Is a directory"):
        read(tmp_path)


def test_no_text_of_a_context_shows_its_token() -> None:
    contexts = Contexts(FILE, {"a": Context(token="s3cret")})
    assert "s3cret" not in repr(contexts) + str(contexts.by_name) + str(
        contexts.by_name["a"].told()
    )


def test_every_key_can_be_unset() -> None:
    assert [key.value for key in Key] == list(KEYS)


def test_the_file_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("TAILORBIRD_CONTEXTS_FILE")
    assert place() == FILE
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert place() == FILE
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert place() == Path("/etc/xdg/tailorbird/contexts.yaml")
    monkeypatch.setenv("TAILORBIRD_CONTEXTS_FILE", "mine.yaml")
    assert place() == Path("mine.yaml").absolute()
