"""`tailorbird up`: both services on this machine, with embedded defaults."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tailorbird.cli.gpus import divide, serving_gpus
from tailorbird.cli.output import errors, out
from tailorbird.cli.preload import preload_environment
from tailorbird.cli.services import Plan, Service, Services
from tailorbird.cli.trust import Trust
from tailorbird.errors import FailedPrecondition


def up(
    base_model: Annotated[
        str,
        typer.Option(
            envvar="TAILORBIRD_BASE_MODEL", help="A folder with a model, or a Hugging Face id."
        ),
    ],
    data_dir: Annotated[
        Path, typer.Option(envvar="TAILORBIRD_DATA_DIR", help="Where everything is kept.")
    ] = Path(".tailorbird"),
    tokens_file: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_TOKENS_FILE",
            help="Who may call (see `tailorbird tokens`). Without it only loopback is served.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_TLS_CERTIFICATE_FILE",
            help="PEM file of a certificate: gRPC then speaks TLS.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_TLS_KEY_FILE",
            help="PEM file of the certificate's key.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    root_certificates: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_ROOT_CERTIFICATES",
            help="PEM file of the certificate's authority, as callers will name it.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    trainer_port: Annotated[int, typer.Option(help="The trainer's gRPC port.")] = 50051,
    serving_port: Annotated[int, typer.Option(help="Serving's gRPC port.")] = 50052,
    trainer_metrics_port: Annotated[int, typer.Option(help="The trainer's HTTP port.")] = 9091,
    serving_metrics_port: Annotated[int, typer.Option(help="Serving's HTTP port.")] = 9092,
    workers: Annotated[
        int, typer.Option(min=1, max=16, help="Worker processes, several jobs each.")
    ] = 1,
) -> None:
    """Start the trainer and serving, and stop both on Ctrl-C.

    Everything is kept under the data directory: a file:// object store, SQLite, logs.
    """
    missing = [name for name in ("torch", "vllm") if importlib.util.find_spec(name) is None]
    if missing:
        raise FailedPrecondition(
            f"{' and '.join(missing)} not installed: `up` needs the extras trainer and serving"
        )
    if (tls_certificate is None) is not (tls_key is None):
        raise typer.BadParameter("give --tls-certificate and --tls-key, or neither")
    tls = None
    if tls_certificate is not None and tls_key is not None:
        tls = tls_certificate, tls_key
    _check_folder(data_dir)
    gpus = serving_gpus()
    division = divide(gpus)
    preload = {} if gpus else preload_environment()
    plan = Plan(
        data_dir=data_dir,
        base_model=base_model,
        tokens_file=tokens_file,
        tls=tls,
        host=host,
        trainer_port=trainer_port,
        trainer_metrics_port=trainer_metrics_port,
        serving_port=serving_port,
        serving_metrics_port=serving_metrics_port,
        workers=workers,
        own={"trainer": division.trainer, "serving": {**division.serving, **preload}},
    )
    with Services(plan) as services:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: services.stop())
        with errors.status("starting the trainer and serving"):
            is_up = services.until_ready(ready=_say_ready)
        if is_up:
            _show(plan, services, division.told, root_certificates)
            services.wait()
        errors.print("stopping")


def _check_folder(data_dir: Path) -> None:
    logs = data_dir / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=logs):
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"the folder {data_dir} cannot be used: {error.strerror}", param_hint="--data-dir"
        ) from error


def _say_ready(service: Service, seconds: float) -> None:
    errors.print(Text(f"{service.name} is ready after {seconds:.0f} s", style="dim"))


def _show(plan: Plan, services: Services, gpus: str, authority: Path | None) -> None:
    trust = Trust.of(services, authority) if plan.tls else None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "gRPC", "METRICS", "LOG"):
        table.add_column(head, overflow="fold")
    for service in services.both:
        address = service.address if trust is None else trust.address(service)
        table.add_row(service.name, address, service.metrics_url, str(service.log))
    out.print(table)
    for name, told in (
        ("object store", plan.store_url),
        ("base model", plan.base_model),
        ("tokens", _tokens(plan)),
        ("TLS", trust.told if trust else ""),
        ("preloaded", _preloaded(plan)),
        ("devices", gpus),
    ):
        if told:
            out.print(f"{name:<12}  {told}", soft_wrap=True)
    out.print("Ctrl-C stops both")


def _tokens(plan: Plan) -> str:
    if plan.tokens_file is None:
        return "none: every caller on this machine acts for every tenant"
    return str(plan.tokens_file)


def _preloaded(plan: Plan) -> str:
    preloaded = plan.own["serving"].get("LD_PRELOAD")
    return f"{preloaded} (serving)" if preloaded else ""
