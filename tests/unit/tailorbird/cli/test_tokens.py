"""The tokens file: digests only, readable by its owner alone, replaced whole."""

from __future__ import annotations

import stat
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


def test_what_is_wrong_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    with pytest.raises(InvalidArgument, match="--tenant"):
        add_token(path, "billing", ["../acme"])
    assert not path.exists()
    path.write_text('["not tokens"]')
    with pytest.raises(InvalidArgument, match="not a tokens file"):
        add_token(path, "billing", ["acme"])
    assert path.read_text() == '["not tokens"]'
