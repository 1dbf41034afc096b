"""`tailorbird adapters report`: how a version was trained, and what was found out about it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from tailorbird.cli.connect import TenantOption, with_serving
from tailorbird.cli.formats import Output, OutputOption, dumped
from tailorbird.cli.judgement import judgement_lines
from tailorbird.cli.names import OfAdapter, VersionArgument, version_name
from tailorbird.cli.output import last_part, out
from tailorbird.cli.pages import show_page
from tailorbird.client import ServingClient


@with_serving
def report(
    serving: ServingClient,
    name: VersionArgument,
    adapter: OfAdapter = None,
    browse: Annotated[
        bool, typer.Option("--open", help="Open the report's page in the browser.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write the page to, or with -o the data.", dir_okay=False
        ),
    ] = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what was found out about a version: here in short, or in full as a page."""
    if browse and output.is_data:
        raise typer.BadParameter("--open shows the page, and -o data: give one of them")
    full = version_name(name, adapter, tenant)
    if not (browse or output.is_data or to):
        _summarise(serving, full)
        return
    content = serving.get_version_report(full, json=output.is_data)
    if output.is_data:
        data = dumped(json.loads(content), output)
        if to is None:
            print(data)
            return
        content = data.encode() + b"\n"
    show_page(content, to, last_part(full), browse=browse)


def _summarise(serving: ServingClient, name: str) -> None:
    version = serving.get_version(name)
    if version.HasField("judgement"):
        out.print(judgement_lines(version.judgement))
    else:
        out.print(Text(f"{name} was not judged on held-out records"))
    if any(file.path == "report.html" for file in version.files):
        out.print("--open shows the whole report in a browser, --out FILE keeps it")
