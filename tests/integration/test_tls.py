"""gRPC over TLS from files that change while it listens, by real handshakes on a real socket."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from time import time
from typing import Any

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from tailorbird.errors import InvalidArgument
from tailorbird.http.server import HttpServer
from tailorbird.reread import RereadFiles, RereadMetrics
from tailorbird.rpc.server import RpcServer
from tailorbird.rpc.tls import ServerCertificate
from tests.certificates import Authority, Pair, serial, serial_of, with_password

EXPIRY = "tailorbird_tls_certificate_expiry_timestamp_seconds"


class Secret:
    """A Secret as the kubelet mounts it: ..data is a link, moved when the Secret changes."""

    def __init__(self, folder: Path, pair: Pair) -> None:
        self.folder = folder
        self._turn = 0
        folder.mkdir()
        self.put(pair)
        for name in ("tls.crt", "tls.key"):
            (folder / name).symlink_to(Path("..data") / name)

    def put(self, pair: Pair) -> None:
        self._turn += 1
        pair.write(self.folder / f"..{self._turn}")
        (self.folder / "..data_tmp").symlink_to(f"..{self._turn}")
        (self.folder / "..data_tmp").replace(self.folder / "..data")


class Tls:
    """A server on a Secret, whose files are looked at when the test says so."""

    def __init__(self, secret: Secret, stack: AsyncExitStack) -> None:
        self.secret = secret
        self.registry = CollectorRegistry()
        paths = secret.folder / "tls.crt", secret.folder / "tls.key"
        pair = ServerCertificate(*paths, self.registry)
        self.files = RereadFiles("tls", pair.paths, pair.read, RereadMetrics(self.registry))
        self.server = RpcServer(
            "127.0.0.1", 0, None, CollectorRegistry(), [], credentials=pair.credentials()
        )

    def look(self) -> None:
        """Look as often as a change needs to be taken."""
        self.files.look()
        self.files.look()

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {"file": "tls", **labels} if labels else labels)

    async def presented(self) -> int:
        """Return the serial number of the certificate that a new connection is shown."""
        return await asyncio.to_thread(_presented, self.server.port)


def _presented(port: int) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain) as encrypted,
    ):
        return serial_of(encrypted.getpeercert(binary_form=True) or b"")


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def first(authority: Authority) -> Pair:
    return authority.pair()


@pytest.fixture
async def tls(first: Pair, tmp_path: Path) -> AsyncIterator[Tls]:
    async with AsyncExitStack() as stack:
        tls = Tls(Secret(tmp_path / "tls", first), stack)
        await tls.server.start()
        stack.push_async_callback(tls.server.stop, 0)
        yield tls


async def answered(port: int, roots: bytes | None) -> bool:
    credentials = grpc.ssl_channel_credentials(roots)
    async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        try:
            await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        except grpc.aio.AioRpcError:
            return False
        return True


async def test_who_trusts_the_authority_is_answered(tls: Tls, authority: Authority) -> None:
    assert await answered(tls.server.port, authority.pem)
    assert not await answered(tls.server.port, Authority().pem)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{tls.server.port}") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await health.Check(health_pb2.HealthCheckRequest(), timeout=20)


async def test_a_new_pair_is_presented_and_open_connections_live_on(
    tls: Tls, authority: Authority, first: Pair
) -> None:
    credentials = grpc.ssl_channel_credentials(authority.pem)
    async with grpc.aio.secure_channel(f"localhost:{tls.server.port}", credentials) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        second = authority.pair()
        for pair in (second, authority.pair(), first):
            tls.secret.put(pair)
            tls.look()
            assert await tls.presented() == serial(pair)
            assert await tls.presented() == serial(pair)
        await health.Check(health_pb2.HealthCheckRequest())
    assert tls.value("tailorbird_file_changes_total", result="taken") == 3
    assert tls.value(EXPIRY) is not None


def half(pair: Pair, _: Authority) -> Pair:
    return Pair(pair.certificate[:100], pair.key)


def half_key(pair: Pair, _: Authority) -> Pair:
    return Pair(pair.certificate, pair.key[:60])


def mismatched(pair: Pair, authority: Authority) -> Pair:
    return Pair(pair.certificate, authority.pair().key)


def expired(_: Pair, authority: Authority) -> Pair:
    return authority.pair(ends_in=timedelta(minutes=-1))


def swapped(pair: Pair, _: Authority) -> Pair:
    return Pair(pair.key, pair.certificate)


def locked(pair: Pair, _: Authority) -> Pair:
    return with_password(pair)


def empty(_: Pair, __: Authority) -> Pair:
    return Pair(b"", b"")


Spoil = Callable[[Pair, Authority], Pair]
BROKEN = [half, half_key, mismatched, expired, swapped, locked, empty]


@pytest.mark.parametrize("spoil", BROKEN)
async def test_a_broken_pair_keeps_the_old_one_and_is_told_once(
    tls: Tls, authority: Authority, first: Pair, spoil: Spoil
) -> None:
    tls.secret.put(spoil(authority.pair(), authority))
    with structlog.testing.capture_logs() as logs:
        tls.look()
        tls.look()
    (line,) = logs
    assert line["event"] == "changed file refused"
    assert "\n" not in line["error"]
    assert await tls.presented() == serial(first)
    assert await answered(tls.server.port, authority.pem)
    assert tls.value("tailorbird_file_refused", file="tls") == 1
    second = authority.pair()
    tls.secret.put(second)
    tls.look()
    assert await tls.presented() == serial(second)
    assert tls.value("tailorbird_file_refused", file="tls") == 0


async def test_a_missing_pair_keeps_the_old_one(
    tls: Tls, authority: Authority, first: Pair
) -> None:
    (tls.secret.folder / "..data").unlink()
    with structlog.testing.capture_logs() as logs:
        tls.look()
        tls.look()
    assert [line["event"] for line in logs] == ["changed file refused"]
    assert await tls.presented() == serial(first)


async def test_a_pair_that_is_being_written_is_waited_for(tls: Tls, authority: Authority) -> None:
    """One file, then the other, between two looks: nothing is refused, and nothing logged."""
    second = authority.pair()
    data = tls.secret.folder / "..data"
    (data / "tls.crt").write_bytes(second.certificate)
    with structlog.testing.capture_logs() as logs:
        tls.files.look()
        (data / "tls.key").write_bytes(second.key)
        tls.look()
    assert [line["event"] for line in logs] == ["changed file taken"]
    assert await tls.presented() == serial(second)


@pytest.mark.parametrize("spoil", BROKEN)
def test_a_service_does_not_start_with_a_broken_pair(
    tmp_path: Path, authority: Authority, spoil: Spoil
) -> None:
    paths = spoil(authority.pair(), authority).write(tmp_path)
    with pytest.raises(InvalidArgument) as caught:
        ServerCertificate(*paths, CollectorRegistry()).read()
    assert caught.value.field in {"tls_certificate_file", "tls_key_file"}
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize("missing", [0, 1])
def test_a_missing_file_is_named_by_its_setting(tmp_path: Path, first: Pair, missing: int) -> None:
    paths = first.write(tmp_path)
    paths[missing].unlink()
    with pytest.raises(InvalidArgument) as caught:
        ServerCertificate(*paths, CollectorRegistry()).read()
    assert caught.value.field == ("tls_certificate_file", "tls_key_file")[missing]


async def test_http_presents_the_newest_pair_too(
    tmp_path: Path, authority: Authority, first: Pair
) -> None:
    paths = first.write(tmp_path)
    pair = ServerCertificate(*paths, CollectorRegistry())
    pair.read()
    http = HttpServer("127.0.0.1", 0, None, CollectorRegistry(), pair.context())
    await http.start()
    try:
        for presented in (first, authority.pair(), authority.pair()):
            presented.write(tmp_path)
            pair.read()
            shown = await asyncio.to_thread(_presented, http.port)
            assert shown == serial_of(_der(presented))
    finally:
        await http.stop(0)


def _der(pair: Pair) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pair.certificate.decode())


def test_what_changes_while_it_is_read_is_not_taken(
    tmp_path: Path, authority: Authority, first: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = ServerCertificate(*first.write(tmp_path), CollectorRegistry())
    checked = pair._checked

    def changed_meanwhile() -> ssl.SSLContext:
        context = checked()
        authority.pair().write(tmp_path)
        return context

    monkeypatch.setattr(pair, "_checked", changed_meanwhile)
    with pytest.raises(InvalidArgument, match="changes while it is read"):
        pair.read()
    assert pair._changed() is None


def test_the_expiry_is_told_also_of_a_chain(tmp_path: Path, authority: Authority) -> None:
    pair = authority.pair(ends_in=timedelta(days=30))
    paths = Pair(pair.certificate + authority.pem, pair.key).write(tmp_path)
    registry = CollectorRegistry()
    ServerCertificate(*paths, registry).read()
    days = ((registry.get_sample_value(EXPIRY) or 0) - time()) / 86_400
    assert 29 < days < 31
