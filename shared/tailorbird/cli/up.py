"""`tailorbird up`: both services on this machine, with embedded defaults."""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import typer
from rich.status import Status
from rich.table import Table
from rich.text import Text

from tailorbird.address import authority
from tailorbird.base_source import HubModel, check_base_source
from tailorbird.cli.claim import claimed
from tailorbird.cli.gpus import divide, serving_gpus
from tailorbird.cli.output import errors, out, plain
from tailorbird.cli.preload import preload_environment
from tailorbird.cli.service_process import LOOPBACK, Plan, Service, ServiceDied
from tailorbird.cli.services import Services, Told
from tailorbird.cli.trust import Trust
from tailorbird.cli.waiting import Waiting
from tailorbird.devices import Device, auto_device, gpu_signs
from tailorbird.errors import FailedPrecondition, InvalidArgument

# Seconds that services have to stop in order where one has failed: the error is waited for.
_ERROR_GRACE = 8.0
# Between two lines of progress, where there is no terminal.
_LINE_SECONDS = 30.0
TRAINER_HTTP, SERVING_HTTP, CONSOLE = 8081, 8082, 8080
_OPENAI = "port of OpenAI's API over HTTP; 0: none."
_HAS_HTTP = all(importlib.util.find_spec(name) for name in ("jinja2", "starlette", "uvicorn"))


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
    trainer_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The trainer's gRPC port.")
    ] = 50051,
    serving_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Serving's gRPC port.")
    ] = 50052,
    trainer_metrics_port: Annotated[
        int, typer.Option(min=1, max=65535, help="The trainer's port of metrics and probes.")
    ] = 9091,
    serving_metrics_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Serving's port of metrics and probes.")
    ] = 9092,
    trainer_http_port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, show_default=str(TRAINER_HTTP), help=f"The trainer's {_OPENAI}"
        ),
    ] = None,
    serving_http_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, show_default=str(SERVING_HTTP), help=f"Serving's {_OPENAI}"),
    ] = None,
    console_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            show_default=str(CONSOLE),
            help="The web console's port, on loopback; 0: none.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=16, help="Worker processes, several jobs each.")
    ] = 1,
) -> None:
    """Start the trainer, serving and the web console, and stop them on Ctrl-C.

    Everything is kept under the data directory: a file:// object store, SQLite, logs. OpenAI's API
    and the console need the extra http; without it they are left out.
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
        trainer_http_port=http_port(trainer_http_port, TRAINER_HTTP),
        serving_http_port=http_port(serving_http_port, SERVING_HTTP),
        console_port=http_port(console_port, CONSOLE),
        root_certificates=root_certificates,
        workers=workers,
        own={"trainer": division.trainer, "serving": {**division.serving, **preload}},
    )
    with ExitStack() as stack:
        claim = stack.enter_context(claimed(plan, _say))
        source = _checked_source(base_model)
        services = Services(plan, grace_after_error=_ERROR_GRACE, started=claim.started)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: services.stop())
        stack.enter_context(_leads_to_doctor(plan))
        stack.enter_context(services)
        with errors.status("starting the trainer and serving") as status:
            waiting = Waiting(source, _progress(status))
            is_up = services.until_ready(told=Told(ready=_say_ready, waits=waiting.waits))
        trust = Trust.of(services, root_certificates) if is_up and tls else None
        if is_up and plan.console_port:
            console = services.keep(plan.console(trust.host if trust else ""))
            is_up = services.until_ready(console)
        if is_up:
            _show(plan, services, _devices(division.told, gpus), trust)
            services.supervise(Told(ready=_say_ready, dead=_say_dead))
        errors.print("stopping")


def http_port(asked: int | None, default: int) -> int:
    """Return the port: what is asked for, else the default if the extra http is installed."""
    if asked is not None:
        return asked
    return default if _HAS_HTTP else 0


def _checked_source(base_model: str) -> HubModel | None:
    try:
        return check_base_source(base_model)
    except InvalidArgument as error:
        raise InvalidArgument("--base-model", error.description) from error


@contextmanager
def _leads_to_doctor(plan: Plan) -> Iterator[None]:
    """Say of a service that has died how to have all looked at that it needs."""
    try:
        yield
    except ServiceDied as error:
        asked = ["--base-model", plan.base_model, "--data-dir", str(plan.data_dir)]
        raise ServiceDied(
            f"{error.message}\n`tailorbird doctor {shlex.join(asked)}` looks at all that the "
            "services need, and says what to do"
        ) from error


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


def _say(text: str) -> None:
    errors.print(Text(plain(text)), soft_wrap=True)


def _say_ready(service: Service, seconds: float) -> None:
    errors.print(Text(f"{service.name} is ready after {seconds:.0f} s", style="dim"))


def _say_dead(death: ServiceDied, seconds: float) -> None:
    for line in death.message.splitlines():
        errors.print(Text(plain(line), style="red"), soft_wrap=True)
    _say(f"it is started again in {seconds:g} s; the rest goes on")


def _progress(status: Status) -> Callable[[str], None]:
    """Return what shows a text while it holds: on a terminal in place, else a line at times."""
    said = time.monotonic()

    def tell(text: str) -> None:
        nonlocal said
        status.update(Text(plain(text)))
        if not errors.is_terminal and time.monotonic() - said > _LINE_SECONDS:
            said = time.monotonic()
            _say(text)

    return tell


def _devices(divided: str, gpus: Sequence[str]) -> str:
    """Say where both compute, and why; what is wrong with that stands on standard error."""
    name = os.environ.get("TAILORBIRD_DEVICE") or "auto"
    trainer = Device(name, "TAILORBIRD_DEVICE says so") if name != "auto" else auto_device()
    if trainer.warning:
        errors.print(Text(f"warning: {plain(trainer.warning)}", style="yellow"), soft_wrap=True)
    if gpus:
        where = divided
    else:
        where = "serving on the CPU (vLLM is its build for CPUs)"
        if not trainer.warning and (signs := gpu_signs()):
            told = f"this machine shows a GPU ({', '.join(signs)}), and serving does not use it: "
            told += "the vLLM that is installed is its build for CPUs"
            errors.print(Text(f"warning: {plain(told)}", style="yellow"), soft_wrap=True)
    on = "the CPU" if trainer.name == "cpu" else "the GPU"
    return f"{where}; the trainer on {on}: {trainer.why}"


def _show(plan: Plan, services: Services, devices: str, trust: Trust | None) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    has_http = any(service.http_port for service in services.both)
    for head in ("", "gRPC", *(["OPENAI"] if has_http else []), "METRICS", "LOG"):
        table.add_column(head, overflow="fold")
    for service in services.both:
        host = service.host if trust is None else trust.host or service.host
        base = f"http{'s' if trust else ''}://{authority(host, service.http_port)}/v1"
        http = [base if service.http_port else "none"] if has_http else []
        address = authority(host, service.port)
        cells = (service.name, address, *http, service.metrics_url, str(service.log))
        table.add_row(*(Text(plain(cell)) for cell in cells))
    out.print(table)
    for name, told in (
        ("console", _console(plan)),
        ("object store", plan.store_url),
        ("base model", plan.base_model),
        ("tokens", _tokens(plan)),
        ("TLS", trust.told if trust else ""),
        ("preloaded", _preloaded(plan)),
        ("devices", devices),
    ):
        if told:
            out.print(Text(plain(f"{name:<12}  {told}")), soft_wrap=True)
    out.print("Ctrl-C stops everything")


def _console(plan: Plan) -> str:
    if plan.console_port:
        return f"http://{authority(LOOPBACK, plan.console_port)}"
    return "" if _HAS_HTTP else "none, nor OpenAI's API: the extra http is not installed"


def _tokens(plan: Plan) -> str:
    if plan.tokens_file is None:
        return "none: every caller on this machine acts for every tenant"
    return str(plan.tokens_file)


def _preloaded(plan: Plan) -> str:
    preloaded = plan.own["serving"].get("LD_PRELOAD")
    return f"{preloaded} (serving)" if preloaded else ""
