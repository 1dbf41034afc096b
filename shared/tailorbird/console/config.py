"""What one console talks to, and whom it may be shown to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tailorbird.address import is_loopback
from tailorbird.errors import InvalidArgument

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Config:
    """The services' addresses, and under which names browsers reach the console.

    `encrypted` says that browsers reach it by TLS: its own, or that of a proxy before it.
    `exposed` that machines other than this one reach it.
    """

    trainer: str
    serving: str
    root_certificates: bytes | None = None
    plaintext: bool = False
    tenant: str = ""
    """The tenant that the sign-in page names; "" for none."""
    encrypted: bool = False
    exposed: bool = False
    hosts: tuple[str, ...] = _LOCAL_NAMES
    """Lower-case names that a request's Host may have, without the port."""

    @property
    def cookie(self) -> str:
        """What the cookie is called; browsers keep one named __Host- to this host and to TLS.

        The services are a part of it: browsers send cookies to every port of a host, and a token
        for some services is nothing to show to those of another console there. All replicas of a
        console have the same services.
        """
        services = hashlib.sha256(f"{self.trainer} {self.serving}".encode()).hexdigest()[:8]
        return f"{'__Host-' if self.encrypted else ''}tailorbird-{services}"


def checked(
    config: Config, host: str, *, has_certificate: bool, behind_tls: bool, names: list[str]
) -> Config:
    """Return `config` for a console that listens on `host`.

    Loopback needs nothing. Elsewhere tokens would cross the network: InvalidArgument unless the
    console has a certificate, or a proxy that has one stands before it, and unless the names are
    given under which it is called: a page of another site that makes its own name lead here (DNS
    rebinding) has another.
    """
    encrypted = has_certificate or behind_tls
    exposed = not is_loopback(host)
    if exposed and not encrypted:
        raise InvalidArgument(
            "--host",
            f"{host} is not loopback, and tokens would be sent in the clear: give "
            "--tls-certificate and --tls-key, or --behind-tls where a proxy ends TLS",
        )
    if exposed and not names:
        raise InvalidArgument(
            "--allowed-host", f"name the host that browsers call {host} by, as console.example.com"
        )
    return Config(
        trainer=config.trainer,
        serving=config.serving,
        root_certificates=config.root_certificates,
        plaintext=config.plaintext,
        tenant=config.tenant,
        encrypted=encrypted,
        exposed=exposed or bool(names),
        hosts=(*_LOCAL_NAMES, *(name.lower() for name in names)),
    )
