"""A dataset's report as a person reads it: what is wrong first, then what it is like."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from rich.console import Console
from rich.text import Text

from tailorbird.cli.output import last_part, out, plain, print_facts, print_rows
from tailorbird.client import CallError, TrainerClient
from tailorbird.tuning.v1 import dataset_pb2

_Report = dataset_pb2.DatasetReport


def print_warnings(warnings: Iterable[dataset_pb2.DataWarning], console: Console) -> None:
    """Print one warning a line."""
    for warning in warnings:
        said = Text(plain(f"warning: {warning.reason}: {warning.message}"), style="yellow")
        console.print(said, soft_wrap=True)


def print_summary(trainer: TrainerClient, dataset: str, *, warnings: bool) -> None:
    """Print a dataset's report in one line, and with `warnings` what it is warned of.

    Nothing of a dataset that is gone, or of one without a report.
    """
    try:
        found = trainer.get_dataset(dataset)
    except CallError as error:
        if error.code is not grpc.StatusCode.NOT_FOUND:
            raise
        return
    if found.HasField("report"):
        out.print(Text(f"{last_part(dataset)}: {summary(found.report)}"), soft_wrap=True)
        print_warnings(found.report.warnings if warnings else (), out)


def summary(report: dataset_pb2.DatasetReport) -> str:
    """Say a report's counts in one line."""
    counts = (
        (report.duplicates.surplus, "duplicates"),
        (report.near_duplicates.found, "near-duplicates"),
        (report.contradictions.records, "contradictory"),
        (report.short_answers.records, "with very short answers"),
    )
    said = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    classes = f"; {len(report.labels)} classes of answers" if report.labels else ""
    return f"{report.records:,} records, {said or 'none repeated or contradictory'}{classes}"


def print_report(report: dataset_pb2.DatasetReport) -> None:
    """Print a report but its warnings."""
    near, found = report.near_duplicates, report.contradictions
    print_facts(
        [
            ("prompts", _lengths(report.prompts)),
            ("answers", _lengths(report.answers)),
            ("duplicates", _some(report.duplicates.surplus, report.compared_records)),
            ("near-duplicates", _some(near.found, near.compared)),
            ("contradictory", _some(found.records, report.compared_records)),
            ("short answers", _some(report.short_answers.records, report.records)),
            ("labels", ", ".join(f"{one.label} {one.records:,}" for one in report.labels)),
            ("languages", _languages(report.languages)),
            ("scripts", ", ".join(f"{one.script} {one.letters:,}" for one in report.scripts)),
        ]
    )
    out.print()
    print_rows(["CHARACTERS", "PROMPTS", "ANSWERS"], _histogram(report))


def _lengths(lengths: dataset_pb2.DatasetReport.Lengths) -> str:
    return f"{lengths.total:,} characters; median {lengths.median:,}, longest {lengths.longest:,}"


def _some(count: int, looked_at: int) -> str:
    return f"{count:,} of {looked_at:,}"


def _languages(languages: dataset_pb2.DatasetReport.Languages) -> str:
    named = (f"{one.code} {one.records:,}" for one in languages.languages)
    return f"{', '.join(named)} of {languages.sampled:,} looked at"


def _histogram(report: dataset_pb2.DatasetReport) -> list[list[str]]:
    prompts, answers = (
        {one.at_least: one for one in of.bins} for of in (report.prompts, report.answers)
    )
    rows = []
    for at_least in sorted(prompts.keys() | answers.keys()):
        shown = prompts.get(at_least) or answers[at_least]
        end = f"to {shown.below - 1:,}" if shown.HasField("below") else "or more"
        counts = (one[at_least].records if at_least in one else 0 for one in (prompts, answers))
        rows.append([f"{at_least:,} {end}", *(f"{count:,}" for count in counts)])
    return rows
