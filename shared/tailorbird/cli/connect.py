"""Where the services are, who calls, and how names are given on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.cli.output import JsonOption
from tailorbird.client import ServingClient, TrainerClient
from tailorbird.errors import InvalidArgument
from tailorbird.names import TenantName, check_id

TrainerOption = Annotated[
    str, typer.Option("--trainer", envvar="TAILORBIRD_TRAINER", help="The trainer's host:port.")
]
ServingOption = Annotated[
    str, typer.Option("--serving", envvar="TAILORBIRD_SERVING", help="Serving's host:port.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(envvar="TAILORBIRD_TOKEN", help="Bearer token.", show_envvar=True),
]
RootCertificatesOption = Annotated[
    Path | None,
    typer.Option(
        "--root-certificates",
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
        help="No TLS although the address is not loopback: the token can be read on the way.",
    ),
]
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", envvar="TAILORBIRD_TENANT", help="Tenant of names given by id alone."),
]
AsJson = Annotated[bool, JsonOption]

TRAINER = "localhost:50051"
SERVING = "localhost:50052"


def parent_of(tenant: str | None) -> str:
    """Return tenants/{tenant}; InvalidArgument without a tenant."""
    if not tenant:
        raise InvalidArgument("--tenant", "name one, here or in TAILORBIRD_TENANT")
    return str(TenantName(check_id("--tenant", tenant)))


def full_name(value: str, collection: str, tenant: str | None) -> str:
    """Return the full name of `value`, which is one already or an id in the tenant."""
    if value.startswith("tenants/"):
        return value
    return f"{parent_of(tenant)}/{collection}/{value}"


def trainer_client(
    address: str, token: str | None, root_certificates: Path | None, plaintext: bool
) -> TrainerClient:
    """Open a client of the trainer."""
    return TrainerClient(
        address, token, root_certificates=_pem(root_certificates), plaintext=plaintext
    )


def serving_client(
    address: str, token: str | None, root_certificates: Path | None, plaintext: bool
) -> ServingClient:
    """Open a client of serving."""
    return ServingClient(
        address, token, root_certificates=_pem(root_certificates), plaintext=plaintext
    )


def _pem(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
