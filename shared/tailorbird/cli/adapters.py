"""`tailorbird adapters`: list, get, versions, version; see also `report`, `routes`, `residency`."""

from __future__ import annotations

import typer

from tailorbird.adapters.v1 import adapter_service_pb2 as api
from tailorbird.cli import residency, routes
from tailorbird.cli.connect import TenantOption, full_name, parent_of, with_serving
from tailorbird.cli.formats import Output, OutputOption, print_data
from tailorbird.cli.judgement import judgement_lines
from tailorbird.cli.names import AdapterArgument, OfAdapter, VersionArgument, version_name
from tailorbird.cli.output import last_part, out, print_facts, print_rows, size, when
from tailorbird.cli.report import report
from tailorbird.cli.residency import why_refused
from tailorbird.cli.routes import shares
from tailorbird.client import ServingClient

app = typer.Typer(help="See adapters and their versions; move routes.", no_args_is_help=True)


@app.command("list")
@with_serving
def list_(
    serving: ServingClient, tenant: TenantOption = None, output: OutputOption = Output.TABLE
) -> None:
    """List a tenant's adapters."""
    found = list(serving.list_adapters(parent_of(tenant)))
    if output.is_data:
        print_data(found, output)
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
    serving: ServingClient,
    name: AdapterArgument,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show an adapter's route, and the versions this replica refuses."""
    adapter = serving.get_adapter(full_name(name, "adapters", tenant))
    if output.is_data:
        print_data(adapter, output)
        return
    route = adapter.route
    print_facts(
        [
            ("name", adapter.name),
            ("routed", shares(route)),
            ("generation", _generation(adapter)),
            ("by", f"{route.reason} of {route.actor}" if route.reason else ""),
            ("since", when(route.create_time)),
            *(
                ("refused", f"{last_part(refusal.version)}: {why_refused(refusal)}")
                for refusal in adapter.refusals
            ),
        ]
    )


@app.command()
@with_serving
def versions(
    serving: ServingClient,
    name: AdapterArgument,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List an adapter's versions, newest first."""
    found = list(serving.list_versions(full_name(name, "adapters", tenant)))
    if output.is_data:
        print_data(found, output)
        return
    print_rows(
        ["VERSION", "PUBLISHED", "RANK", "STEPS", "VALIDATION LOSS", "JOB", "TRAINED ON FROM"],
        (
            [
                last_part(version.name),
                when(version.create_time),
                str(version.rank),
                str(version.evaluation.steps),
                _losses(version.evaluation),
                last_part(version.lineage.job),
                last_part(version.lineage.from_version),
            ]
            for version in found
        ),
    )


@app.command()
@with_serving
def version(
    serving: ServingClient,
    name: VersionArgument,
    adapter: OfAdapter = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one version: what it is, where it came from, how it did."""
    found = serving.get_version(version_name(name, adapter, tenant))
    if output.is_data:
        print_data(found, output)
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
            ("trained on from", found.lineage.from_version),
            ("validation loss", _losses(found.evaluation)),
            ("refused", why_refused(found.refusal)),
            ("deleted", when(found.delete_time)),
            *(("file", f"{file.path} · {size(file.size_bytes)}") for file in found.files),
        ]
    )
    if found.HasField("judgement"):
        out.print(judgement_lines(found.judgement))


app.command("report")(report)
app.command("promote")(routes.promote)
app.command("rollback")(routes.rollback)
app.add_typer(routes.route_app, name="route")
app.command("warm")(residency.warm)
app.command("residency")(residency.residency)
app.command("delete")(residency.delete)
app.command("import")(residency.import_)


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
