"""`tailorbird up`: both services on this machine, with embedded defaults."""

from __future__ import annotations

import importlib.util
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from tailorbird.cli.gpus import divide, serving_gpus
from tailorbird.cli.output import errors, out
from tailorbird.cli.preload import preload_environment
from tailorbird.cli.services import Plan, Service, Services
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
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    trainer_port: Annotated[int, typer.Option(help="The trainer's gRPC port.")] = 50051,
    serving_port: Annotated[int, typer.Option(help="Serving's gRPC port.")] = 50052,
    trainer_metrics_port: Annotated[int, typer.Option(help="The trainer's HTTP port.")] = 9091,
    serving_metrics_port: Annotated[int, typer.Option(help="Serving's HTTP port.")] = 9092,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Jobs trained at once.")] = 1,
) -> None:
    """Start the trainer and serving, and stop both on Ctrl-C.

    Everything is kept under the data directory: a file:// object store, SQLite, logs.
    """
    missing = [name for name in ("torch", "vllm") if importlib.util.find_spec(name) is None]
    if missing:
        raise FailedPrecondition(
            f"{' and '.join(missing)} not installed: `up` needs the extras trainer and serving"
        )
    gpus = serving_gpus()
    division = divide(gpus)
    preload = {} if gpus else preload_environment()
    plan = Plan(
        data_dir=data_dir,
        base_model=base_model,
        tokens_file=tokens_file,
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
            _show(plan, services, division.told)
            services.wait()
        errors.print("stopping")


def _say_ready(service: Service, seconds: float) -> None:
    errors.print(Text(f"{service.name} is ready after {seconds:.0f} s", style="dim"))


def _show(plan: Plan, services: Services, gpus: str) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "gRPC", "METRICS", "LOG"):
        table.add_column(head, overflow="fold")
    for service in services.both:
        table.add_row(service.name, service.address, service.metrics_url, str(service.log))
    out.print(table)
    out.print(f"object store  {plan.store_url}", soft_wrap=True)
    out.print(f"base model    {plan.base_model}", soft_wrap=True)
    if plan.tokens_file is None:
        out.print("tokens        none: every caller on this machine acts for every tenant")
    else:
        out.print(f"tokens        {plan.tokens_file}", soft_wrap=True)
    preloaded = plan.own["serving"].get("LD_PRELOAD")
    if preloaded:
        out.print(f"preloaded     {preloaded} (serving)", soft_wrap=True)
    if gpus:
        out.print(f"devices       {gpus}", soft_wrap=True)
    out.print("Ctrl-C stops both")
