"""A dataset's record and its report, as a person reads them."""

from __future__ import annotations

from tailorbird.cli.data_report import print_report, print_warnings
from tailorbird.cli.dataset_format import format_name
from tailorbird.cli.output import out, print_facts, size, when
from tailorbird.tuning.v1 import dataset_pb2

PERSONAL_DATA_MODE = "PERSONAL_DATA_MODE_"
"""What the API's names of the modes begin with."""


def print_dataset(dataset: dataset_pb2.Dataset) -> None:
    """Print what is known of a dataset: warnings first, then its record and its report."""
    print_warnings(dataset.report.warnings, out)
    print_facts(
        [
            ("name", dataset.name),
            ("records", f"{dataset.record_count:,}"),
            ("size", size(dataset.size_bytes)),
            ("format", format_name(dataset.format)),
            ("sha256", dataset.sha256),
            ("not read", ", ".join(dataset.ignored_fields)),
            ("personal data", _personal_data(dataset)),
            ("imported from", dataset.source_uri),
            ("created", when(dataset.create_time)),
        ]
    )
    if dataset.HasField("report"):
        print_report(dataset.report)


def _personal_data(dataset: dataset_pb2.Dataset) -> str:
    if not dataset.HasField("personal_data"):
        return ""
    report = dataset.personal_data
    mode = dataset_pb2.PersonalDataMode.Name(report.mode).removeprefix(PERSONAL_DATA_MODE).lower()
    counts = ", ".join(f"{each.kind} {each.count:,}" for each in report.kinds) or "none found"
    return f"{counts} (in {report.record_count:,} records; {mode})"
