"""`tailorbird adapters warm`, `residency`, `delete`, `import`: what a replica holds of versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailorbird.adapters.v1 import adapter_service_pb2 as api
from tailorbird.cli.connect import TenantOption, full_name, parent_of, with_serving
from tailorbird.cli.formats import Output, OutputOption, print_data
from tailorbird.cli.names import AdapterArgument, OfAdapter, VersionArgument, version_name
from tailorbird.cli.output import print_facts, print_rows, size, when
from tailorbird.client import ServingClient

_TIERS = {api.ResidentVersion.TIER_DISK: "disk", api.ResidentVersion.TIER_ENGINE: "engine"}


@with_serving
def warm(
    serving: ServingClient,
    name: VersionArgument,
    adapter: OfAdapter = None,
    pin: Annotated[
        bool | None, typer.Option(help="Whether it keeps its slot without traffic.")
    ] = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Load a version ahead of its traffic, on the replica that answers."""
    held = serving.warm_version(version_name(name, adapter, tenant), pin=pin)
    if output.is_data:
        print_data(held, output)
        return
    pinned = "yes" if held.pinned else "no"
    print_facts([("version", held.name), ("tier", _tier(held)), ("pinned", pinned)])


@with_serving
def residency(
    serving: ServingClient, tenant: TenantOption = None, output: OutputOption = Output.TABLE
) -> None:
    """List what the replica that answers holds of a tenant's versions."""
    pages = list(serving.list_residency(parent_of(tenant)))
    if output.is_data:
        print_data(pages, output)
        return
    print_rows(
        ["VERSION", "REPLICA", "TIER", "PINNED", "LEASES", "SIZE", "REFUSED"],
        (
            [
                held.name.partition("/adapters/")[2].replace("/versions/", " "),
                page.replica,
                _tier(held),
                "pinned" if held.pinned else "",
                str(held.leases),
                size(held.size_bytes),
                why_refused(held.refusal),
            ]
            for page in pages
            for held in page.versions
        ),
    )


@with_serving
def delete(
    serving: ServingClient,
    name: VersionArgument,
    adapter: OfAdapter = None,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a version that no route leads to; its files go after a grace period."""
    deleted = serving.delete_version(version_name(name, adapter, tenant))
    if output.is_data:
        print_data(deleted, output)
        return
    print_facts([("version", deleted.name), ("deleted", when(deleted.delete_time))])


@with_serving
def import_(
    serving: ServingClient,
    name: AdapterArgument,
    source: Annotated[str, typer.Argument(help="A folder here, or a URI that serving may read.")],
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make an existing PEFT adapter a version, which is not routed yet."""
    place = source if "://" in source else Path(source)
    version = serving.import_adapter(full_name(name, "adapters", tenant), place)
    if output.is_data:
        print_data(version, output)
        return
    print_facts([("version", version.name), ("LoRA", f"rank {version.rank}")])


def why_refused(refusal: api.Refusal) -> str:
    """Say why a version is refused, and whether it is tried again; "" if it is not."""
    if not refusal.reason:
        return ""
    again = f"; tried again at {when(refusal.retry_time)}" if refusal.retryable else ""
    return f"{refusal.reason}: {refusal.message}{again}"


def _tier(held: api.ResidentVersion) -> str:
    return _TIERS.get(held.tier, "")
