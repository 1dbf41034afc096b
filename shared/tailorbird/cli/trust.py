"""Under which name callers trust the certificate that `up` was given, found by a handshake."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from tailorbird.address import is_loopback
from tailorbird.cli.service_process import Service
from tailorbird.cli.services import Services

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Trust:
    """`host` is the name to call the services by; `told` says what callers need, or what is wrong.

    `host` is "" where no name was found: the addresses stay as they are.
    """

    host: str
    told: str

    @classmethod
    def of(cls, services: Services, roots: Path | None) -> Trust:
        """Call the trainer as a caller would who trusts the authorities in `roots`."""
        if roots is None:
            return cls("", "callers need the authority's file: --root-certificates FILE")
        service, problem = services.trainer, ""
        names = [service.host, *(["localhost"] if is_loopback(service.host) else [])]
        for name in names:
            problem = _problem(service, name, roots)
            if not problem:
                return cls(name, f"callers need --root-certificates {roots}")
        return cls("", f"callers who trust {roots} will refuse {service.address}: {problem}")


def _problem(service: Service, name: str, roots: Path) -> str:
    try:
        context = ssl.create_default_context(cafile=str(roots))
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((service.host, service.port), _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=name),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except OSError as error:
        return " ".join(str(error).split())
