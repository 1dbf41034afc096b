"""`tailorbird adapters`: list, get, versions, version, promote, rollback."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.adapters.v1 import adapter_service_pb2 as api
from tailorbird.cli.connect import AsJson, TenantOption, full_name, parent_of, with_serving
from tailorbird.cli.output import last_part, print_facts, print_json, print_rows, size, when
from tailorbird.client import ServingClient

app = typer.Typer(help="See adapters and their versions; move routes.", no_args_is_help=True)

_Adapter = Annotated[str, typer.Argument(help="An adapter's name, or its id in the tenant.")]
_Version = Annotated[str, typer.Argument(help="A version's name, or its id with --adapter.")]
_OfAdapter = Annotated[
    str | None, typer.Option("--adapter", help="The adapter of a version given by its id.")
]


@app.command("list")
@with_serving
def list_(serving: ServingClient, tenant: TenantOption = None, json: AsJson = False) -> None:
    """List a tenant's adapters."""
    found = list(serving.list_adapters(parent_of(tenant)))
    if json:
        print_json(found)
        return
    print_rows(
        ["ADAPTER", "ROUTED VERSION", "GENERATION", "SINCE"],
        (
            [
                adapter.name,
                last_part(adapter.route.version),
                _generation(adapter),
                when(adapter.route.create_time),
            ]
            for adapter in found
        ),
    )


@app.command()
@with_serving
def get(
    serving: ServingClient, name: _Adapter, tenant: TenantOption = None, json: AsJson = False
) -> None:
    """Show an adapter's route, and the versions this replica refuses."""
    adapter = serving.get_adapter(full_name(name, "adapters", tenant))
    if json:
        print_json(adapter)
        return
    route = adapter.route
    print_facts(
        [
            ("name", adapter.name),
            ("routed", last_part(route.version)),
            ("generation", _generation(adapter)),
            ("by", f"{route.reason} of {route.actor}" if route.reason else ""),
            ("since", when(route.create_time)),
            *(
                ("refused", f"{last_part(refusal.version)}: {refusal.reason}: {refusal.message}")
                for refusal in adapter.refusals
            ),
        ]
    )


@app.command()
@with_serving
def versions(
    serving: ServingClient, name: _Adapter, tenant: TenantOption = None, json: AsJson = False
) -> None:
    """List an adapter's versions, newest first."""
    found = list(serving.list_versions(full_name(name, "adapters", tenant)))
    if json:
        print_json(found)
        return
    print_rows(
        ["VERSION", "PUBLISHED", "RANK", "STEPS", "VALIDATION LOSS", "JOB"],
        (
            [
                last_part(version.name),
                when(version.create_time),
                str(version.rank),
                str(version.evaluation.steps),
                _losses(version.evaluation),
                last_part(version.lineage.job),
            ]
            for version in found
        ),
    )


@app.command()
@with_serving
def version(
    serving: ServingClient,
    name: _Version,
    adapter: _OfAdapter = None,
    tenant: TenantOption = None,
    json: AsJson = False,
) -> None:
    """Show one version: what it is, where it came from, how it did."""
    found = serving.get_version(_version_name(name, adapter, tenant))
    if json:
        print_json(found)
        return
    print_facts(
        [
            ("name", found.name),
            ("published", when(found.create_time)),
            ("base model", f"{found.base_model} · {found.base_model_digest}"),
            ("LoRA", f"rank {found.rank}, alpha {found.alpha:g}"),
            ("layers", ", ".join(found.target_modules)),
            ("trained by", found.lineage.job),
            ("data", found.lineage.training_dataset),
            ("parent", last_part(found.lineage.parent_version)),
            ("validation loss", _losses(found.evaluation)),
            *(("file", f"{file.path} · {size(file.size_bytes)}") for file in found.files),
        ]
    )


@app.command()
@with_serving
def promote(
    serving: ServingClient,
    name: _Version,
    adapter: _OfAdapter = None,
    tenant: TenantOption = None,
    json: AsJson = False,
) -> None:
    """Route an adapter to a version, once the version has passed every check."""
    _show_route(serving.promote(_version_name(name, adapter, tenant)), json)


@app.command()
@with_serving
def rollback(
    serving: ServingClient,
    name: _Adapter,
    to: Annotated[
        str | None, typer.Option(help="A version's id; the one routed before if none is given.")
    ] = None,
    tenant: TenantOption = None,
    json: AsJson = False,
) -> None:
    """Route an adapter back to an earlier version."""
    adapter = full_name(name, "adapters", tenant)
    _show_route(serving.rollback(adapter, _version_name(to, adapter, tenant) if to else ""), json)


def _version_name(name: str, adapter: str | None, tenant: str | None) -> str:
    if name.startswith("tenants/"):
        return name
    if adapter is None:
        raise typer.BadParameter("name the version in full, or its adapter with --adapter")
    return f"{full_name(adapter, 'adapters', tenant)}/versions/{name}"


def _show_route(route: api.Route, json: bool) -> None:
    if json:
        print_json(route)
        return
    print_facts([("routed", route.version), ("generation", str(route.generation))])


def _generation(adapter: api.Adapter) -> str:
    """Say the newest generation, and the one in effect where that is an older one."""
    newest, effective = adapter.route.generation, adapter.effective_generation
    if not newest:
        return ""
    return f"{newest} (in effect: {effective})" if 0 < effective < newest else str(newest)


def _losses(evaluation: api.Version.Evaluation) -> str:
    if not evaluation.HasField("validation_loss"):
        return ""
    base = ""
    if evaluation.HasField("base_validation_loss"):
        base = f" (base {evaluation.base_validation_loss:.3f})"
    return f"{evaluation.validation_loss:.3f}{base}"
