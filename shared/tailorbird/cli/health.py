"""`tailorbird health`: whether the service on this machine takes requests."""

from __future__ import annotations

import http.client
from typing import Annotated

import typer
from rich.text import Text

from tailorbird.address import authority, reachable
from tailorbird.cli.output import describe, errors
from tailorbird.errors import Unavailable


def health(
    port: Annotated[
        int,
        typer.Option(
            envvar="TAILORBIRD_METRICS_PORT", help="The service's plain HTTP port.", min=1
        ),
    ],
    host: Annotated[
        str, typer.Option(envvar="TAILORBIRD_HOST", help="The address it is bound to.")
    ] = "127.0.0.1",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its answer.")] = 5.0,
) -> None:
    """Exit with 0 if /readyz answers 200, else with 1; for an image's health check."""
    try:
        _check(host, port, timeout)
    except Unavailable as error:
        errors.print(Text(describe(error), style="red"), soft_wrap=True)
        # The only one that Docker takes for unhealthy.
        raise typer.Exit(1) from None


def _check(host: str, port: int, timeout: float) -> None:
    where = f"http://{authority(reachable(host), port)}/readyz"
    connection = http.client.HTTPConnection(reachable(host).strip("[]"), port, timeout=timeout)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{where} does not answer: {error}") from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise Unavailable(f"{where} answers {status}")
