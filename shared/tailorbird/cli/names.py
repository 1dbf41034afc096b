"""How adapters and versions are named on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.cli.connect import full_name

AdapterArgument = Annotated[str, typer.Argument(help="An adapter's name, or its id in the tenant.")]
VersionArgument = Annotated[str, typer.Argument(help="A version's name, or its id with --adapter.")]
OfAdapter = Annotated[
    str | None, typer.Option("--adapter", help="The adapter of a version given by its id.")
]


def version_name(name: str, adapter: str | None, tenant: str | None) -> str:
    """Return the full name of a version, which `name` is already or is the last part of."""
    if name.startswith("tenants/"):
        return name
    if adapter is None:
        raise typer.BadParameter("name the version in full, or its adapter with --adapter")
    return f"{full_name(adapter, 'adapters', tenant)}/versions/{name}"
