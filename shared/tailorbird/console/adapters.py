"""The pages about adapters: the list, one with its route, a version, and what a replica holds."""

from __future__ import annotations

from starlette.responses import Response

from tailorbird.adapters.v1 import adapter_service_pb2 as adapters
from tailorbird.adapters.v1 import judgement_pb2
from tailorbird.console import words
from tailorbird.console.datasets import report_page
from tailorbird.console.visit import Visit
from tailorbird.errors import InvalidArgument

_MAX_WEIGHT, _MAX_DIGITS = 1000, 20


def list_adapters(visit: Visit) -> Response:
    """Show a page of a tenant's adapters."""
    found = visit.backend.list_adapters(visit.parent, visit.query("page"))
    return visit.show(
        "adapters.html",
        adapters=[(adapter, routed(adapter)) for adapter in found.items],
        next_token=found.next_token,
        is_first=not visit.query("page"),
    )


def show_adapter(visit: Visit) -> Response:
    """Show one adapter: its route, its versions, and what may be done with them."""
    name = visit.name("adapters")
    adapter = visit.backend.serving.get_adapter(name)
    versions = visit.backend.list_versions(name, visit.query("page"))
    route = routed(adapter)
    return visit.show(
        "adapter.html",
        adapter=adapter,
        adapter_id=words.last_part(name),
        route=route,
        weights={version: weight for version, weight, _ in route},
        versions=versions.items,
        next_token=versions.next_token,
        is_first=not visit.query("page"),
        behind=adapter.HasField("route")
        and 0 < adapter.effective_generation < adapter.route.generation,
    )


def routed(adapter: adapters.Adapter) -> list[tuple[str, int, float]]:
    """Return the versions that an adapter's traffic goes to: name, weight, share."""
    if not adapter.HasField("route"):
        return []
    route = adapter.route
    found = [(one.version, one.weight) for one in route.versions] or [(route.version, 1)]
    total = sum(weight for _, weight in found) or 1
    return [(version, weight, weight / total) for version, weight in found]


def promote(visit: Visit) -> Response:
    """Route an adapter to one of its versions."""
    visit.backend.serving.promote(visit.name("adapters", "versions"))
    return visit.go("adapters", visit.request.path_params["adapters"])


def roll_back(visit: Visit) -> Response:
    """Route an adapter to the version that was routed before."""
    visit.backend.serving.rollback(visit.name("adapters"))
    return visit.go("adapters", visit.request.path_params["adapters"])


def split(visit: Visit) -> Response:
    """Route an adapter by weight, if its route is still the one that the page has shown."""
    name = visit.name("adapters")
    weights = {}
    for version, said in zip(visit.fields("version"), visit.fields("weight"), strict=False):
        weight = _weight(version, said.strip() or "0")
        if weight:
            weights[f"{name}/versions/{version}"] = weight
    if not weights:
        raise InvalidArgument("weight", "give at least one version a weight above 0")
    generation = visit.number("generation", 0, 0, 2**62)
    visit.backend.serving.set_route(name, weights, expected_generation=int(generation))
    return visit.go("adapters", visit.request.path_params["adapters"])


def _weight(version: str, said: str) -> int:
    # Python reads no number of thousands of digits.
    is_whole = said.isascii() and said.isdecimal() and len(said) <= _MAX_DIGITS
    if not is_whole or int(said) > _MAX_WEIGHT:
        raise InvalidArgument(
            f"weight of {version[:80]}",
            f"{said[:20]!r} is not a whole number from 0 to {_MAX_WEIGHT}",
        )
    return int(said)


def show_version(visit: Visit) -> Response:
    """Show one version: what it is, where it came from, how it did."""
    version = visit.backend.serving.get_version(visit.name("adapters", "versions"))
    adapter = visit.backend.serving.get_adapter(visit.name("adapters"))
    shares = {name: share for name, _, share in routed(adapter)}
    return visit.show(
        "version.html",
        version=version,
        adapter_id=words.last_part(adapter.name),
        version_id=words.last_part(version.name),
        share=shares.get(version.name),
        has_report=any(file.path == "report.html" for file in version.files),
        judgement=version.judgement if version.HasField("judgement") else None,
        candidates=_candidates(version.judgement),
        losses=_losses(version.evaluation),
        bytes=sum(file.size_bytes for file in version.files),
        deleted=version.HasField("delete_time"),
        refused=version.HasField("refusal"),
    )


def report(visit: Visit) -> Response:
    """Return a version's report, a page that is whole in itself."""
    return report_page(visit.backend.serving.get_version_report(visit.name("adapters", "versions")))


def show_residency(visit: Visit) -> Response:
    """Show a page of what the replica that answers holds."""
    replica, found = visit.backend.list_residency(visit.parent, visit.query("page"))
    return visit.show(
        "residency.html",
        replica=replica,
        held=[(one, one.HasField("refusal")) for one in found.items],
        next_token=found.next_token,
        is_first=not visit.query("page"),
    )


def _candidates(judgement: judgement_pb2.Judgement) -> list[tuple[str, str, str]]:
    """Return each candidate's name, its primary metric, and that metric's interval."""
    found = []
    for one in judgement.candidates:
        value = one.metrics.get(judgement.primary_metric)
        if value is not None:
            between = f"{words.number(value.low, 3)} to {words.number(value.high, 3)}"
            found.append((one.candidate.replace("_", " "), words.number(value.value, 3), between))
    return found


def _losses(evaluation: adapters.Version.Evaluation) -> list[tuple[str, float]]:
    if not evaluation.steps:
        return []
    found = [("training loss", evaluation.training_loss)]
    if evaluation.HasField("validation_loss"):
        found.append(("validation loss", evaluation.validation_loss))
    if evaluation.HasField("base_validation_loss"):
        found.append(("base's validation loss", evaluation.base_validation_loss))
    return found
