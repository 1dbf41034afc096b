"""Tokens that come and go while a service runs; a broken file changes nothing."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry

from tailorbird.cli.tokens import add_token
from tailorbird.errors import InvalidArgument, Unauthenticated
from tailorbird.reread import RereadFiles, RereadMetrics
from tailorbird.rpc.auth import TokenVerifier


class Tokens:
    """A tokens file with one caller, read by a verifier."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first = add_token(path, "first", ["acme"])
        self.registry = CollectorRegistry()
        self.verifier = TokenVerifier({})
        read = partial(self.verifier.read, path)
        self.files = RereadFiles("tokens", [path], read, RereadMetrics(self.registry))

    def look(self) -> None:
        self.files.look()
        self.files.look()

    def knows(self, token: str) -> bool:
        try:
            self.verifier.verify({"authorization": f"Bearer {token}"})
        except Unauthenticated:
            return False
        return True

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"file": "tokens", **labels})


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.json")


def test_an_added_token_works_and_a_removed_one_is_refused(tokens: Tokens) -> None:
    assert tokens.knows(tokens.first)
    second = add_token(tokens.path, "second", None)
    assert not tokens.knows(second)
    tokens.look()
    assert tokens.knows(tokens.first)
    assert tokens.knows(second)
    tokens.path.unlink()
    third = add_token(tokens.path, "third", None)
    tokens.look()
    assert [tokens.knows(one) for one in (tokens.first, second, third)] == [False, False, True]
    assert tokens.value("tailorbird_file_changes_total", result="taken") == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"tokens": [{}]}', b"\xff\xfe", None])
def test_a_broken_file_keeps_the_tokens_and_is_told_once(
    tokens: Tokens, content: bytes | None
) -> None:
    good = tokens.path.read_bytes()
    if content is None:
        tokens.path.unlink()
    else:
        tokens.path.write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        tokens.look()
        tokens.look()
    (line,) = logs
    assert (line["log_level"], line["file"]) == ("error", "tokens")
    assert line["error"].startswith(f"tokens_file: {tokens.path}: ")
    assert "\n" not in line["error"]
    assert tokens.knows(tokens.first)
    assert tokens.value("tailorbird_file_refused") == 1
    assert tokens.value("tailorbird_file_changes_total", result="refused") == 1
    tokens.path.write_bytes(good)
    tokens.look()
    assert tokens.value("tailorbird_file_refused") == 0


def test_what_is_the_same_is_not_read_again(tokens: Tokens) -> None:
    tokens.path.write_bytes(tokens.path.read_bytes())
    tokens.look()
    tokens.look()
    assert tokens.value("tailorbird_file_changes_total", result="taken") is None


def test_a_defect_does_not_end_the_looking(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("good")

    def take() -> None:
        if path.read_text() == "bad":
            raise RecursionError

    registry = CollectorRegistry()
    files = RereadFiles("tokens", [path], take, RereadMetrics(registry))
    for content, refused in (("bad", 1), ("better", 0)):
        path.write_text(content)
        files.look()
        files.look()
        assert registry.get_sample_value("tailorbird_file_refused", {"file": "tokens"}) == refused


def test_a_service_does_not_start_with_a_broken_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text("{")
    read = partial(TokenVerifier({}).read, path)
    with pytest.raises(InvalidArgument, match="tokens_file"):
        RereadFiles("tokens", [path], read, RereadMetrics(CollectorRegistry()))


def test_its_thread_takes_a_change_by_itself(tokens: Tokens) -> None:
    tokens.files.start()
    second = add_token(tokens.path, "second", None)
    give_up = time.monotonic() + 30
    while not tokens.knows(second):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    tokens.files.stop()


def test_what_is_too_large_to_be_compared_is_refused(
    tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = tokens.path.stat().st_size
    monkeypatch.setattr("tailorbird.reread._MAX_BYTES", size)
    TokenVerifier.from_file(tokens.path)
    tokens.path.write_text(tokens.path.read_text() + " ")
    tokens.look()
    assert tokens.value("tailorbird_file_refused") == 1
    assert tokens.knows(tokens.first)
    with pytest.raises(InvalidArgument, match=f"more than {size} bytes") as caught:
        TokenVerifier.from_file(tokens.path)
    assert caught.value.field == "tokens_file"


def test_a_folder_in_its_place_is_refused(tokens: Tokens) -> None:
    tokens.path.unlink()
    tokens.path.mkdir()
    tokens.look()
    assert tokens.value("tailorbird_file_refused") == 1
    assert tokens.knows(tokens.first)
