"""Where a store's credentials come from: the usual places of its cloud, and none of our own.

A web identity (AWS_ROLE_ARN) is not tried: obstore speaks to its STS over TLS only.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tailorbird.object_store import open_store
from tests.fault_proxy import Exchange, FaultProxy, passed

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
LENT = {
    "AccessKeyId": "LENTKEY",
    "SecretAccessKey": "secret",
    "Token": "lent-token",
    "Expiration": "2100-01-01T00:00:00Z",
}


class Signed:
    """Passes requests on and keeps how the last one was signed."""

    def __init__(self) -> None:
        self.request = b""

    async def __call__(self, exchange: Exchange) -> None:
        self.request = exchange.request
        await passed(exchange)


@pytest.fixture
def signed(proxy: FaultProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Signed:
    """Without the key that the environment has in other tests."""
    for name in KEYS:
        monkeypatch.delenv(name)
    signed = Signed()
    proxy.plan(signed, times=float("inf"), target=s3_url.removeprefix("s3://"))
    return signed


async def test_a_key_in_the_environment(
    proxy: FaultProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEYS[0], "KEYOFENV")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token-of-env")
    signed = Signed()
    proxy.plan(signed)
    await open_store(s3_url).put("a/b", b"one")
    assert b"Credential=KEYOFENV/" in signed.request
    assert b"token-of-env" in signed.request


async def test_the_credentials_of_a_pod_or_a_task(
    proxy: FaultProxy,
    s3_url: str,
    signed: Signed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "token").write_text("a token of the pod")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{proxy.url}/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    asked: list[bytes] = []

    async def lend(exchange: Exchange) -> None:
        asked.append(exchange.request)
        body = json.dumps(LENT)
        await exchange.send(
            f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )

    proxy.plan(lend, target="/v1/credentials")
    store = open_store(s3_url)
    await store.put("a/b", b"one")
    assert b"a token of the pod" in asked[0]
    assert b"Credential=LENTKEY/" in signed.request
    assert await store.get("a/b") == b"one"
