"""`tailorbird adapters promote`, `rollback` and `route set`: which versions answer."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.adapters.v1 import adapter_service_pb2 as api
from tailorbird.cli.connect import TenantOption, full_name, with_serving
from tailorbird.cli.formats import Output, OutputOption, print_data
from tailorbird.cli.names import AdapterArgument, OfAdapter, VersionArgument, version_name
from tailorbird.cli.output import last_part, print_facts
from tailorbird.client import ServingClient

route_app = typer.Typer(help="Move an adapter's route.", no_args_is_help=True)


@with_serving
def promote(
    serving: ServingClient,
    name: VersionArgument,
    adapter: OfAdapter = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Route an adapter to a version, once the version has passed every check."""
    _show_route(serving.promote(version_name(name, adapter, tenant)), output)


@with_serving
def rollback(
    serving: ServingClient,
    name: AdapterArgument,
    to: Annotated[
        str | None, typer.Option(help="A version's id; the one routed before if none is given.")
    ] = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Route an adapter back to an earlier version."""
    adapter = full_name(name, "adapters", tenant)
    _show_route(serving.rollback(adapter, version_name(to, adapter, tenant) if to else ""), output)


@route_app.command("set")
@with_serving
def set_(
    serving: ServingClient,
    name: AdapterArgument,
    versions: Annotated[
        list[str], typer.Argument(help="VERSION=WEIGHT of each version, 1 to 1000.")
    ],
    expect: Annotated[
        int, typer.Option(help="Generation that the newest route must have; 0 for any.")
    ] = 0,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Route an adapter to several versions, each with its share of the traffic."""
    adapter = full_name(name, "adapters", tenant)
    weights = {}
    for given in versions:
        version, _, weight = given.rpartition("=")
        if not version or not weight.isdecimal() or len(weight) > 4:
            raise typer.BadParameter(f"{given!r} is not VERSION=WEIGHT")
        weights[version_name(version, adapter, tenant)] = int(weight)
    if len(weights) < len(versions):
        raise typer.BadParameter("a version is given twice")
    _show_route(serving.set_route(adapter, weights, expected_generation=expect), output)


def shares(route: api.Route) -> str:
    """Say which versions a route leads to, and with what shares if there are several."""
    if len(route.versions) < 2:
        return last_part(route.version)
    total = sum(routed.weight for routed in route.versions)
    return ", ".join(
        f"{last_part(routed.version)} {routed.weight / total:.1%}" for routed in route.versions
    )


def _show_route(route: api.Route, output: Output) -> None:
    if output.is_data:
        print_data(route, output)
        return
    routed = route.version if len(route.versions) < 2 else shares(route)
    print_facts([("routed", routed), ("generation", str(route.generation))])
