"""Which service a command talks to, as whom, and how names are given on the command line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from tailorbird.cli.context_choice import ContextOption, fill_in
from tailorbird.client import ServingClient, TrainerClient
from tailorbird.errors import InvalidArgument
from tailorbird.names import TenantName, check_id

TRAINER = "localhost:50051"
SERVING = "localhost:50052"

TrainerOption = Annotated[
    str, typer.Option("--trainer", envvar="TAILORBIRD_TRAINER", help="The trainer's host:port.")
]
ServingOption = Annotated[
    str, typer.Option("--serving", envvar="TAILORBIRD_SERVING", help="Serving's host:port.")
]
TenantOption = Annotated[
    str | None,
    typer.Option(envvar="TAILORBIRD_TENANT", help="The tenant of names given by their id alone."),
]
TokenOption = Annotated[str | None, typer.Option(envvar="TAILORBIRD_TOKEN", help="Bearer token.")]
_RootCertificates = Annotated[
    Path | None,
    typer.Option(
        envvar="TAILORBIRD_ROOT_CERTIFICATES",
        help="PEM file of the authorities to trust.",
        exists=True,
        dir_okay=False,
    ),
]
PlaintextOption = Annotated[
    bool,
    typer.Option(
        "--plaintext",
        envvar="TAILORBIRD_PLAINTEXT",
        help="No TLS, although the address is not loopback: the token can be read on the way.",
    ),
]

_MOST = 2**31 - 1
"""Of a whole number in the API's messages."""

P = ParamSpec("P")
_Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class _Service:
    """The parameter a command has for a service's client, and the option that names its address."""

    parameter: str
    option: Any
    address: str
    client: type[TrainerClient] | type[ServingClient]


_TRAINER = _Service("trainer", TrainerOption, TRAINER, TrainerClient)
_SERVING = _Service("serving", ServingOption, SERVING, ServingClient)


def with_trainer(command: Callable[Concatenate[TrainerClient, P], None]) -> _Command:
    """Give a command the options of a connection, and the trainer's client as first argument."""
    return _connected(command, _TRAINER)


def with_serving(command: Callable[Concatenate[ServingClient, P], None]) -> _Command:
    """Give a command the options of a connection, and serving's client as first argument."""
    return _connected(command, _SERVING)


def with_both(command: Callable[Concatenate[TrainerClient, ServingClient, P], None]) -> _Command:
    """Give a command the options of two connections, and both clients as first arguments."""
    return _connected(command, _TRAINER, _SERVING)


def _connected(command: _Command, *services: _Service) -> _Command:
    signature = inspect.signature(command, eval_str=True)
    own = list(signature.parameters.values())[len(services) :]
    options = [
        *((service.parameter, service.option, service.address) for service in services),
        ("token", TokenOption, None),
        ("root_certificates", _RootCertificates, None),
        ("plaintext", PlaintextOption, False),
        ("context", ContextOption, None),
    ]

    @functools.wraps(command)
    def run(*, typer_context: typer.Context, **arguments: Any) -> None:
        fill_in(typer_context, arguments)
        for name, value in arguments.items():
            check_sendable(name, value)
        addresses = [arguments.pop(service.parameter) for service in services]
        token, plaintext = _bare(arguments.pop("token")), arguments.pop("plaintext")
        pem: Path | None = arguments.pop("root_certificates")
        roots = None if pem is None else pem.read_bytes()
        with ExitStack() as stack:
            clients = [
                stack.enter_context(
                    service.client(address, token, root_certificates=roots, plaintext=plaintext)
                )
                for service, address in zip(services, addresses, strict=True)
            ]
            command(*clients, **arguments)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [parameter.replace(kind=keyword) for parameter in own] + [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for name, annotation, default in options
    ]
    parameters.append(inspect.Parameter("typer_context", keyword, annotation=typer.Context))
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _bare(token: str | None) -> str | None:
    """Return the token without the line's end of the file that a Secret was made from."""
    return token and token.strip()


def check_sendable(name: str, value: object) -> None:
    """Refuse what no message of the API can hold; InvalidArgument names the parameter."""
    if isinstance(value, list):
        for one in value:
            check_sendable(name, one)
    if isinstance(value, int) and abs(value) > _MOST:
        raise InvalidArgument(name, f"{value} is out of range: at most {_MOST} is accepted")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InvalidArgument(name, "it is not UTF-8") from error


def parent_of(tenant: str | None) -> str:
    """Return tenants/{tenant}; InvalidArgument without a tenant."""
    if not tenant:
        raise InvalidArgument("--tenant", "name one, here, in TAILORBIRD_TENANT or in a context")
    return str(TenantName(check_id("--tenant", tenant)))


def data_name(value: str, tenant: str | None) -> str:
    """Return the full name of a dataset, or the URI that `value` is."""
    return value if "://" in value else full_name(value, "datasets", tenant)


def full_name(value: str, collection: str, tenant: str | None) -> str:
    """Return the full name of `value`, which is one already or an id in the tenant."""
    if value.startswith("tenants/"):
        return value
    return f"{parent_of(tenant)}/{collection}/{value}"
