"""The command that starts the web console."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from tailorbird.address import authority, reachable
from tailorbird.cli.connect import SERVING, TRAINER, ServingOption, TrainerOption
from tailorbird.cli.context_choice import ContextOption, fill_in
from tailorbird.cli.output import errors
from tailorbird.errors import FailedPrecondition
from tailorbird.names import check_id

PORT = 8080


def console(
    typer_context: typer.Context,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for any.")] = PORT,
    trainer: TrainerOption = TRAINER,
    serving: ServingOption = SERVING,
    tenant: Annotated[
        str, typer.Option(envvar="TAILORBIRD_TENANT", help="The tenant to begin with.")
    ] = "",
    root_certificates: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_ROOT_CERTIFICATES",
            help="PEM file of the authorities to trust the services by.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    plaintext: Annotated[
        bool,
        typer.Option(
            "--plaintext",
            envvar="TAILORBIRD_PLAINTEXT",
            help="No TLS to services whose address is not loopback: tokens can be read on the way.",
        ),
    ] = False,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TAILORBIRD_CONSOLE_ALLOWED_HOSTS",
            help="A name that browsers call the console by, besides localhost; may be repeated.",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(help="PEM file of a certificate: the console then speaks TLS.", exists=True),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file of the certificate's key.", exists=True)
    ] = None,
    behind_tls: Annotated[
        bool,
        typer.Option(
            "--behind-tls",
            envvar="TAILORBIRD_CONSOLE_BEHIND_TLS",
            help="A proxy before the console ends TLS, and alone reaches it.",
        ),
    ] = False,
    context: ContextOption = None,
) -> None:
    """Start the web console, and stop it on Ctrl-C.

    It has no token of its own, nor takes a context's: each person signs in with theirs. On an
    address that is not loopback it needs TLS, the names it is called by, and services that ask for
    tokens.
    """
    missing = [name for name in ("starlette", "uvicorn", "jinja2") if not _found(name)]
    if missing:
        raise FailedPrecondition(
            f"{' and '.join(missing)} not installed: `console` needs the extra http"
        )
    if (tls_certificate is None) is not (tls_key is None):
        raise typer.BadParameter("give --tls-certificate and --tls-key, or neither")
    given: dict[str, Any] = {
        "trainer": trainer,
        "serving": serving,
        "tenant": tenant,
        "plaintext": plaintext,
        "root_certificates": root_certificates,
        "context": context,
    }
    fill_in(typer_context, given)
    pem: Path | None = given.pop("root_certificates")
    if given["tenant"]:
        check_id("--tenant", given["tenant"])
    pair = None
    if tls_certificate is not None and tls_key is not None:
        pair = tls_certificate, tls_key

    from tailorbird.console.config import Config, checked
    from tailorbird.console.serve import serve

    config = checked(
        Config(root_certificates=pem.read_bytes() if pem else None, **given),
        host,
        has_certificate=pair is not None,
        behind_tls=behind_tls,
        names=allowed_host or [],
    )
    scheme = "https" if pair else "http"

    def listening(taken: int) -> None:
        errors.print(f"{scheme}://{authority(reachable(host), taken)}  Ctrl-C stops it")

    # uvicorn ends in order, and then hands on the signal that it has taken.
    with suppress(KeyboardInterrupt):
        serve(config, host, port, pair, listening)


def _found(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
