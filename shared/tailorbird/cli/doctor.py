"""`tailorbird doctor`: what is wrong with this machine, its services and the way to them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from tailorbird.cli.connect import (
    SERVING,
    TRAINER,
    PlaintextOption,
    ServingOption,
    TokenOption,
    TrainerOption,
)
from tailorbird.cli.context_choice import ContextOption, fill_in
from tailorbird.cli.context_file import place
from tailorbird.cli.doctor_services import services
from tailorbird.cli.exits import Exit
from tailorbird.cli.findings import print_findings
from tailorbird.cli.formats import Output, OutputOption, print_values
from tailorbird.cli.output import errors, out
from tailorbird.cli.service_process import Plan
from tailorbird.cli.up import CONSOLE, SERVING_HTTP, TRAINER_HTTP, http_port
from tailorbird.doctor.addresses import Address, service
from tailorbird.doctor.finding import Finding, Status, failed, ok
from tailorbird.doctor.machine import gpu, memory
from tailorbird.doctor.packages import packages, python_version
from tailorbird.doctor.ports import port
from tailorbird.doctor.running import Begun, Check
from tailorbird.doctor.variables import variables
from tailorbird.errors import InvalidArgument

_GPU_SECONDS = 60.0
_CALLER = "as a caller"

Areas = dict[str, list[Finding]]


def doctor(
    command: typer.Context,
    base_model: Annotated[
        str,
        typer.Option(
            envvar="TAILORBIRD_BASE_MODEL", help="A folder with a model, or a Hugging Face id."
        ),
    ] = "",
    data_dir: Annotated[
        Path, typer.Option(envvar="TAILORBIRD_DATA_DIR", help="Where everything is kept.")
    ] = Path(".tailorbird"),
    trainer: TrainerOption = TRAINER,
    serving: ServingOption = SERVING,
    token: TokenOption = None,
    root_certificates: Annotated[
        Path | None,
        typer.Option(
            envvar="TAILORBIRD_ROOT_CERTIFICATES", help="PEM file of the authorities to trust."
        ),
    ] = None,
    plaintext: PlaintextOption = False,
    context: ContextOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look at everything the services and their callers need; say what is wrong, and what to do.

    Nothing is changed. Services are looked at as `up` would start them, and as TAILORBIRD_
    variables say, where their extras are installed; then they are called as other commands would
    call them. Fails if anything has failed; a warning is no failure.
    """
    asked: dict[str, Any] = {
        "trainer": trainer,
        "serving": serving,
        "token": token,
        "root_certificates": root_certificates,
        "plaintext": plaintext,
        "context": context,
    }
    with errors.status("looking"):
        checks, caller = _caller(command, asked)
        plan = Plan(
            data_dir=data_dir,
            base_model=base_model,
            trainer_http_port=http_port(None, TRAINER_HTTP),
            serving_http_port=http_port(None, SERVING_HTTP),
            console_port=http_port(None, CONSOLE),
        )
        areas = _looked_at(plan, checks)
    areas[_CALLER] = [*caller, *areas[_CALLER]]
    found = [one for findings in areas.values() for one in findings]
    if output.is_data:
        rows = [{"area": area, **one.values()} for area, ones in areas.items() for one in ones]
        print_values(rows, output)
    else:
        _print(areas)
    if any(one.status is Status.FAILED for one in found):
        raise typer.Exit(Exit.REFUSED)


def _looked_at(plan: Plan, callers: list[Check]) -> Areas:
    own = [
        Check("Python", python_version),
        Check("packages", packages),
        Check("memory", memory),
        Check("GPU", gpu, _GPU_SECONDS),
        Check("variables", variables),
    ]
    console = plan.console()
    if console.port:
        place_ = console.host, console.port, "--console-port", "tailorbird.cli"
        look = partial(port, *place_, plan.folder("console"))
        own.append(Check(f"port {console.port}", look))
    with services(plan) as started:
        machine, called = Begun(own), Begun(callers)
        return {
            "this machine": machine.findings(),
            **started.findings(),
            _CALLER: called.findings(),
        }


def _caller(command: typer.Context, asked: dict[str, Any]) -> tuple[list[Check], list[Finding]]:
    """Return what is to be asked of the services, and what was found of the contexts' file."""
    found = []
    named = {
        name
        for name in ("trainer", "serving")
        if (source := command.get_parameter_source(name)) and source.name != "DEFAULT"
    }
    before = dict(asked)
    try:
        fill_in(command, asked)
    except InvalidArgument as error:
        advice = "mend the line that it names; `tailorbird contexts list` shows what is understood"
        found.append(failed("contexts", error.message, advice))
    else:
        there = place()
        told = f"{there} is understood" if there.exists() else f"none ({there})"
        found.append(ok("contexts", told))
    named |= {name for name in ("trainer", "serving") if asked[name] != before[name]}
    pem = asked["root_certificates"]
    try:
        roots = pem.read_bytes() if isinstance(pem, Path) else None
    except OSError as error:
        advice = "correct --root-certificates, or the context's root_certificates"
        found.append(failed("root certificates", f"{pem}: {error.strerror}", advice))
        roots = None
    token = asked["token"]
    addresses = [
        Address(
            name,
            str(asked[name]),
            name in named,
            token.strip() if isinstance(token, str) else None,
            roots,
            plaintext=bool(asked["plaintext"]),
        )
        for name in ("trainer", "serving")
    ]
    return [Check(one.service, partial(service, one)) for one in addresses], found


def _print(areas: Areas) -> None:
    for area, findings in areas.items():
        if findings:
            out.print(Text(area, style="bold underline"))
            print_findings(findings)
            out.print()
    counts = Counter(one.status for findings in areas.values() for one in findings)
    out.print(", ".join(f"{counts[status]} {status}" for status in Status))
