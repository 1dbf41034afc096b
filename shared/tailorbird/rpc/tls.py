"""The server's certificate and key, from two PEM files that may change while it listens."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Gauge

from tailorbird.errors import InvalidArgument
from tailorbird.reread import read_file

_CERTIFICATE, _KEY = "tls_certificate_file", "tls_key_file"
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_ENDS = ssl.PEM_HEADER, ssl.PEM_FOOTER


class ServerCertificate:
    """A pair that handshakes present; `read` puts the files' present pair in its place.

    A handshake asks for the newest in gRPC's own thread, or in the event loop: no file is touched
    there.
    """

    def __init__(self, certificate: Path, key: Path, registry: CollectorRegistry) -> None:
        self.expiry = 0.0
        """When the certificate in use ends, in seconds since 1970; 0 if it cannot be told."""
        self.names: tuple[str, ...] = ()
        """Whom it is for, by its subject alternative names, as far as that can be told."""
        self._certificate = certificate
        self._key = key
        self._expiry_gauge = Gauge(
            "tailorbird_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends, in seconds since 1970; 0 if it cannot be told.",
            registry=registry,
        )
        self._newest: grpc.ServerCertificateConfiguration | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def paths(self) -> tuple[Path, Path]:
        """Where the pair is read from."""
        return self._certificate, self._key

    def read(self) -> None:
        """Present the files' pair from the next handshake on.

        Raises InvalidArgument, whose field is the setting, if they hold no pair that can be used.
        """
        certificate = read_file(_CERTIFICATE, self._certificate)
        key = read_file(_KEY, self._key)
        context = self._checked()
        presented = _presented_by(context, self._certificate)
        if (certificate, key) != (
            read_file(_CERTIFICATE, self._certificate),
            read_file(_KEY, self._key),
        ):
            raise InvalidArgument(_CERTIFICATE, f"{self._certificate} changes while it is read")
        self._newest = grpc.ssl_server_certificate_configuration([(key, certificate)])
        self._context = context
        ends = str(presented.get("notAfter", ""))
        self.expiry = ssl.cert_time_to_seconds(ends) if ends else 0.0
        self.names = tuple(str(name) for _, name in presented.get("subjectAltName", ()))
        self._expiry_gauge.set(self.expiry)

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a server listens with; `read` must have gone well before."""
        # None leaves what it has, which the types do not know.
        return grpc.dynamic_ssl_server_credentials(self._changed(), self._changed)  # type: ignore[arg-type]

    def context(self) -> ssl.SSLContext:
        """Return what asyncio listens with; `read` must have gone well before."""
        if self._context is None:
            raise ValueError("no pair has been read")

        def present(handshake: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
            if self._context is not None:
                handshake.context = self._context

        first = self._context
        # Called whether the client names a server or not.
        first.sni_callback = present
        return first

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the pair that no handshake has been given yet, or None."""
        newest, self._newest = self._newest, None
        return newest

    def _checked(self) -> ssl.SSLContext:
        """Return the files' pair as a server has it; InvalidArgument if it is none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key, password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            raise InvalidArgument(
                _KEY if "KEY" in str(reason) else _CERTIFICATE,
                f"{self._certificate} and {self._key} are not a certificate and its key in PEM, "
                f"without a password: {reason}",
            ) from error
        return context


def _presented_by(server: ssl.SSLContext, path: Path) -> dict[str, Any]:
    """Return `server`'s certificate as ssl tells it, by a handshake in memory that trusts just it.

    Empty if that handshake tells nothing: what else a client may find wrong is between the two.
    InvalidArgument if it has ended.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cadata=_leaf(path))
        return _presented(client, server)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code == _EXPIRED:
            raise InvalidArgument(_CERTIFICATE, f"the certificate in {path} has expired") from error
        return {}
    except (ssl.SSLError, OSError, ValueError):
        return {}


def _leaf(path: Path) -> str:
    text = path.read_text()
    begin = text.index(_ENDS[0])
    return text[begin : text.index(_ENDS[1], begin) + len(_ENDS[1])] + "\n"


def _presented(client: ssl.SSLContext, server: ssl.SSLContext) -> dict[str, Any]:
    """Return the certificate that a handshake in memory ends with."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(back, there),
        server.wrap_bio(there, back, server_side=True),
    )
    # Each turn of both moves it on by a flight; TLS has fewer than these.
    for _ in range(6):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return dict(ends[0].getpeercert() or {})
