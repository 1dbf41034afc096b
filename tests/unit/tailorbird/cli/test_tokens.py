"""The tokens file: digests only, readable by its owner alone, replaced whole."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tailorbird.cli.tokens import add_token
from tailorbird.errors import InvalidArgument, Unauthenticated
from tailorbird.rpc.auth import TokenVerifier


def _headers(token: str) -> dict[str, str | bytes]:
    return {"authorization": f"Bearer {token}"}


def test_tokens_added_are_those_the_services_know(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    acme = add_token(path, "billing", ["acme", "birch"])
    operator = add_token(path, "operator", None)
    verifier = TokenVerifier.from_file(path)
    assert verifier.verify(_headers(acme)).tenants == frozenset({"acme", "birch"})
    assert verifier.verify(_headers(operator)).tenants is None
    with pytest.raises(Unauthenticated):
        verifier.verify(_headers(acme[:-1]))


def test_only_digests_are_kept_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = add_token(path, "billing", ["acme"])
    path.chmod(0o644)
    token += add_token(path, "billing", ["acme"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token[:43] not in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["tokens.json"]


def test_commands_at_the_same_time_lose_no_token(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with ThreadPoolExecutor(16) as pool:
        tokens = list(pool.map(lambda i: add_token(path, f"s{i}", ["acme"]), range(32)))
    verifier = TokenVerifier.from_file(path)
    assert {verifier.verify(_headers(token)).subject for token in tokens} == {
        f"s{i}" for i in range(32)
    }


def test_what_is_wrong_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with pytest.raises(InvalidArgument, match="--tenant"):
        add_token(path, "billing", ["../acme"])
    for subject in ("", "two\nlines", "x" * 129):
        with pytest.raises(InvalidArgument, match="--subject"):
            add_token(path, subject, ["acme"])
    with pytest.raises(InvalidArgument, match="folder"):
        add_token(tmp_path / "none" / "tokens.json", "billing", ["acme"])
    assert not path.exists()
    path.write_text('["not tokens"]')
    with pytest.raises(InvalidArgument, match="not a tokens file"):
        add_token(path, "billing", ["acme"])
    assert path.read_text() == '["not tokens"]'
