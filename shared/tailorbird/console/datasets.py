"""The pages about datasets: the list, one with its report, and its deletion."""

from __future__ import annotations

from starlette.responses import Response

from tailorbird.console import words
from tailorbird.console.guard import REPORT_POLICY
from tailorbird.console.upload import MODES
from tailorbird.console.visit import Visit
from tailorbird.tuning.v1 import dataset_pb2


def list_datasets(visit: Visit) -> Response:
    """Show a page of a tenant's datasets, and the form for another."""
    found = visit.backend.list_datasets(visit.parent, visit.query("page"))
    return visit.show(
        "datasets.html",
        datasets=found.items,
        next_token=found.next_token,
        is_first=not visit.query("page"),
        modes=[mode for mode in MODES if mode],
    )


def show_dataset(visit: Visit) -> Response:
    """Show one dataset, with its report."""
    dataset = visit.backend.trainer.get_dataset(visit.name("datasets"))
    return visit.show(
        "dataset.html",
        dataset=dataset,
        personal=_personal(dataset),
        has_report=dataset.HasField("report"),
    )


def report(visit: Visit) -> Response:
    """Return a dataset's report, a page that is whole in itself."""
    return report_page(visit.backend.trainer.get_dataset_report(visit.name("datasets")))


def delete(visit: Visit) -> Response:
    """Delete a dataset."""
    visit.backend.trainer.delete_dataset(visit.name("datasets"))
    return visit.go("datasets")


def report_page(content: bytes) -> Response:
    """Return a report as a page of no origin: nothing in it can reach the console or run."""
    return Response(
        content,
        media_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": REPORT_POLICY},
    )


def _personal(dataset: dataset_pb2.Dataset) -> str:
    if not dataset.HasField("personal_data"):
        return "not looked for"
    found = dataset.personal_data
    mode = words.personal_data(found.mode)
    kinds = ", ".join(f"{one.kind} {one.count:,}" for one in found.kinds) or "none found"
    return f"{kinds} ({mode})"
