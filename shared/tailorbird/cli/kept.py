"""What a job did not train as it came, as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from tailorbird.line_numbers import say_lines
from tailorbird.tuning.v1 import job_pb2


def left_out(prepared: job_pb2.JobEvent.Prepared) -> Iterator[str]:
    """Yield a sentence for each of the job's files of which a record was dropped or cut."""
    yield from _of("training", prepared.training)
    if prepared.HasField("validation"):
        yield from _of("validation", prepared.validation)


def _of(use: str, report: job_pb2.DataReport) -> Iterator[str]:
    kinds = (
        ("dropped as too long", report.dropped_too_long, report.dropped_lines),
        ("dropped with nothing to train", report.dropped_nothing_to_train,
         report.nothing_to_train_lines),
        ("cut at the longest length allowed", report.truncated, report.truncated_lines),
    )  # fmt: skip
    said = [f"{count} {what} ({say_lines(lines, count)})" for what, count, lines in kinds if count]
    if said:
        yield f"{use} data: {report.kept} of {report.records} records kept; {'; '.join(said)}"
