"""A client's channel to one service: how it is opened, and what every call on it carries.

One address is one machine or several. A name's addresses take turns (round robin); with a scheme of
gRPC's before it (`dns:///serving-headless:50052`, `ipv4:10.0.0.1:50052,10.0.0.2:50052`) they are
replicas that the client balances between, and one that says NOT_SERVING gets no calls.

gRPC's own retries are off, and no retry policy is in the service config: in gRPC 1.85 a call that
it makes again by itself may never end, not even by the call's deadline. `tailorbird.retry` says
what is done instead.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc

from tailorbird import metadata
from tailorbird.address import is_local_target
from tailorbird.errors import InvalidArgument

Metadata = tuple[tuple[str, str], ...]
Options = tuple[tuple[str, str | int], ...]

TIMEOUT = 60.0
"""Seconds that a call may take."""
SENT_BYTES = 4 * 2**20
"""A message that is larger no service takes: it is refused here."""
RECEIVED_BYTES = 64 * 2**20
"""More than the largest page or report that a service sends."""
KEEPALIVE_SECONDS, KEEPALIVE_TIMEOUT_SECONDS = 30.0, 20.0
"""How long nothing may come on a call before its connection must show that it lives."""
# For proxies that hash, and for inference gateways that cannot parse our messages.
_MODEL_METADATA = (metadata.ADAPTER, metadata.MODEL_REWRITE)
_BALANCED = ("dns:", "ipv4:", "ipv6:")
# gRPC takes what is left of a larger one by 65536: another program's port.
_MAX_PORT = 65535
# Longer than every name; gRPC gives all of a call's metadata 8 kB.
_MAX_MODEL_CHARS = 256


def check(address: str, token: str | None) -> None:
    """Refuse what no channel can be opened with; InvalidArgument names it."""
    if token and not _sendable(token):
        raise InvalidArgument("token", "only printable ASCII can be sent")
    if not address.strip():
        raise InvalidArgument("address", "it is empty; host:port is needed")
    port = address.rpartition(":")[2]
    if port.isdecimal() and "unix" not in address and int(port[:9]) > _MAX_PORT:
        raise InvalidArgument("address", f"port {port[:9]} is above {_MAX_PORT}")


def options(address: str) -> Options:
    """Return the options of a channel to `address`."""
    config: dict[str, object] = {}
    if not is_local_target(address):
        config["loadBalancingConfig"] = [{"round_robin": {}}]
    if address.startswith(_BALANCED):
        # "" is the whole server.
        config["healthCheckConfig"] = {"serviceName": ""}
    return (
        ("grpc.enable_retries", 0),
        ("grpc.service_config", json.dumps(config)),
        ("grpc.keepalive_time_ms", int(KEEPALIVE_SECONDS * 1000)),
        ("grpc.keepalive_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
        # Else a ping without an answer is waited for a minute, whatever keepalive says.
        ("grpc.http2.ping_timeout_ms", int(KEEPALIVE_TIMEOUT_SECONDS * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_send_message_length", SENT_BYTES),
        ("grpc.max_receive_message_length", RECEIVED_BYTES),
    )


def credentials(
    address: str, root_certificates: bytes | None, plaintext: bool
) -> grpc.ChannelCredentials | None:
    """Return TLS that trusts `root_certificates` (PEM; None: gRPC's own), or None for none.

    There is none where the address is loopback or `plaintext` is set, unless roots are given.
    """
    if root_certificates is None and (plaintext or is_local_target(address)):
        return None
    return grpc.ssl_channel_credentials(root_certificates)


def caller_metadata(token: str | None) -> Metadata:
    """Return what says who calls."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def model_metadata(model: str) -> Metadata:
    """Return what says which model a call is for, as a proxy or gateway may go by.

    So an adapter's requests meet where its weights are. What gRPC cannot send is no name: it is
    left out, and the service says what is wrong with it.
    """
    if model and len(model) <= _MAX_MODEL_CHARS and _sendable(model):
        return tuple((key, model) for key in _MODEL_METADATA)
    return ()


class Carrying:
    """A channel of gRPC's, synchronous or not, each of whose calls carries `carried` as well."""

    def __init__(self, channel: Any, carried: Metadata) -> None:
        self._channel = channel
        self._carried = carried

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._channel, name)
        if name not in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            return found

        def method(*arguments: Any, **options: Any) -> _Method:
            return _Method(found(*arguments, **options), self._carried)

        return method


class _Method:
    """A method on such a channel: called itself, or by `with_call` or `future`."""

    def __init__(self, call: Any, carried: Metadata) -> None:
        self._call = call
        self._carried = carried

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._call(*arguments, **self._with_carried(options))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = getattr(self._call, name)

        def call(*arguments: Any, **options: Any) -> Any:
            return found(*arguments, **self._with_carried(options))

        return call

    def _with_carried(self, options: dict[str, Any]) -> dict[str, Any]:
        return {**options, "metadata": (*self._carried, *(options.get("metadata") or ()))}


def _sendable(value: str) -> bool:
    return value.isascii() and value.isprintable()
