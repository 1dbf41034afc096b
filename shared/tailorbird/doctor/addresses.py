"""Whether a service answers where it is called, over what it is called by, and as whom."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tailorbird import __version__, channel
from tailorbird.client import CallError, ServingClient, TrainerClient
from tailorbird.connection import call_errors
from tailorbird.doctor.finding import Finding, failed, ok, warning
from tailorbird.errors import InvalidArgument
from tailorbird.serving.v1 import inference_service_pb2 as serving
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning

if TYPE_CHECKING:
    from tailorbird.serving.v1.inference_service_pb2 import GetServerInfoResponse
    from tailorbird.tuning.v1.tuning_service_pb2 import GetTrainerInfoResponse

_SECONDS = 5.0
_CREDENTIAL_ADVICE = (
    "name one that the service knows: --token, TAILORBIRD_TOKEN, or a context's token_file;"
    " `tailorbird tokens add` makes them"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a service is called, and how; `named` unless it is the default."""

    service: str
    """trainer or serving."""
    target: str
    named: bool
    token: str | None = None
    roots: bytes | None = None
    """Authorities to trust, in PEM."""
    plaintext: bool = False

    @property
    def wants_tls(self) -> bool:
        """Whether clients speak TLS there."""
        return channel.credentials(self.target, self.roots, self.plaintext) is not None


def service(address: Address) -> Iterator[Finding]:
    """Tell whether the service answers there: reached, by TLS or not, as whom, which release."""
    if not address.target.startswith(("dns:", "ipv4:", "ipv6:", "unix:")):
        wrong = _transport(address)
        if wrong is not None:
            yield wrong
            return
    yield _called(address)


def _transport(address: Address) -> Finding | None:
    """Return what is wrong with the way there, None if nothing is."""
    subject, option = address.service, f"--{address.service}"
    host, _, port = address.target.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return failed(subject, f"{address.target!r} is not host:port", f"correct {option}")
    place = host, int(port)
    try:
        socket.create_connection(place, _SECONDS).close()
    except OSError as error:
        told = f"nothing answers at {address.target}: {error.strerror or error}"
        if address.named:
            advice = f"is it up, and is the address right ({option}, the environment, the context)?"
            return failed(subject, told, advice)
        advice = f"start it (tailorbird up), or say where it is: {option}, or a context"
        return warning(subject, told, advice)
    speaks = _speaks_tls(place)
    if speaks is None:
        told = f"what listens at {address.target} says nothing within {_SECONDS:g} s"
        return failed(subject, told, f"is that port the {subject}'s gRPC, and does it hang?")
    if address.wants_tls and not speaks:
        return failed(
            subject,
            f"{address.target} is called by TLS and speaks plaintext",
            "have the service given a certificate (TAILORBIRD_TLS_CERTIFICATE_FILE), or say"
            " --plaintext; without TLS the token can be read on the way",
        )
    if speaks and not address.wants_tls:
        return failed(
            subject,
            f"{address.target} is called in plaintext and speaks TLS",
            "trust its authority: --root-certificates FILE (and no --plaintext)",
        )
    if speaks and (problem := _distrust(place, address.roots)):
        return failed(
            subject,
            f"{address.target} has a certificate that is not trusted: {problem}",
            "call it by a name that the certificate has, and name the authority that signed it:"
            " --root-certificates FILE",
        )
    return None


def _called(address: Address) -> Finding:
    subject, target = address.service, address.target
    try:
        answer = _info(address)
    except CallError as error:
        return _refused(address, error)
    except InvalidArgument as error:
        return failed(subject, error.message, f"correct the {error.field}")
    release = answer.service_version
    told = f"{target} answers, release {release}"
    if release != __version__:
        return warning(
            subject, f"{told}; this command is of {__version__}", "take the same release of both"
        )
    return ok(subject, told)


def _info(address: Address) -> GetTrainerInfoResponse | GetServerInfoResponse:
    arguments = address.target, address.token
    secured = {"root_certificates": address.roots, "plaintext": address.plaintext}
    if address.service == "trainer":
        with TrainerClient(*arguments, **secured) as trainer, call_errors():  # type: ignore[arg-type]
            request = tuning.GetTrainerInfoRequest()
            return trainer.stub.GetTrainerInfo(request, timeout=_SECONDS)
    with ServingClient(*arguments, **secured) as client, call_errors():  # type: ignore[arg-type]
        return client.stub.GetServerInfo(serving.GetServerInfoRequest(), timeout=_SECONDS)


def _refused(address: Address, error: CallError) -> Finding:
    subject, target = address.service, address.target
    match error.code.name:
        case "UNAUTHENTICATED":
            what = "refuses the token" if address.token else "wants a token, and none is given"
            return failed(subject, f"{target} {what}", _CREDENTIAL_ADVICE)
        case "UNIMPLEMENTED":
            return failed(
                subject,
                f"what answers at {target} is not the {subject} service",
                "are the addresses of the two services exchanged? (--trainer, --serving)",
            )
        case _:
            return failed(
                subject,
                f"{target}: {error.code.name}: {error.message}",
                "is that port the service's gRPC, and is the service ready? Look at its log",
            )


def _speaks_tls(place: tuple[str, int]) -> bool | None:
    """Tell whether a handshake is answered as one; None if it is not answered."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    # Only what is spoken is asked here; whether it is trusted, below.
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection(place, _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=place[0]),
        ):
            return True
    except TimeoutError:
        return None
    except OSError as error:
        # It refused, in TLS.
        return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")


def _distrust(place: tuple[str, int], roots: bytes | None) -> str:
    try:
        cadata = None if roots is None else roots.decode()
        context = ssl.create_default_context(cadata=cadata)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(place, _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=place[0]),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
