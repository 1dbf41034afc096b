"""`tailorbird datasets check`: whether the trainer would take a file, asked on this machine."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import ParseDict
from rich.text import Text

from tailorbird.cli.dataset_format import FormatOption, format_value
from tailorbird.cli.dataset_shown import print_dataset
from tailorbird.cli.exits import Exit
from tailorbird.cli.formats import Output, OutputOption, print_values, values_of
from tailorbird.cli.output import errors, out, plain
from tailorbird.errors import InvalidArgument
from tailorbird.records.formats import DatasetFormat
from tailorbird.records.reading import MAX_FILE_BYTES, MAX_RECORD_BYTES, FileReading
from tailorbird.tuning.v1 import dataset_pb2

_PIECE = 2**20
_REPORT_SECONDS = 1800.0
# What the trainer makes its reports with, beside what this command has.
_NEEDED = ("datasketch", "numpy", "py3langid", "pydantic", "sqlalchemy")


@dataclass(slots=True)
class _Checked:
    file: Path
    dataset: dataset_pb2.Dataset
    error: InvalidArgument | None = None


def check(
    files: Annotated[
        list[Path],
        typer.Argument(help="JSONL files.", exists=True, dir_okay=False, readable=True),
    ],
    format_: FormatOption = None,
    max_record_bytes: Annotated[
        int,
        typer.Option(
            envvar="TAILORBIRD_MAX_RECORD_BYTES", help="Longest line the trainer takes.", min=1024
        ),
    ] = MAX_RECORD_BYTES,
    max_dataset_bytes: Annotated[
        int,
        typer.Option(
            envvar="TAILORBIRD_MAX_DATASET_BYTES", help="Largest file the trainer takes.", min=1
        ),
    ] = MAX_FILE_BYTES,
    output: OutputOption = Output.TABLE,
) -> None:
    """Check JSONL files as an upload would, without a service.

    The lines are read by the trainer's own code. What depends on a base model, such as records that
    are too long for it, is told by `jobs create --validate-only`; personal data at the upload.
    """
    checked = [_checked(file, format_, max_record_bytes, max_dataset_bytes) for file in files]
    missing = [name for name in _NEEDED if find_spec(name) is None]
    good = [one for one in checked if one.error is None]
    if good and not missing:
        _add_reports(good, format_, max_record_bytes)
    if output.is_data:
        print_values([_values(one) for one in checked], output)
    for one in checked:
        if one.error is not None:
            errors.print(Text(_told(one.file, one.error), style="red"), soft_wrap=True)
        elif not output.is_data:
            out.print(Text(plain(str(one.file)), style="bold underline"), soft_wrap=True)
            print_dataset(one.dataset)
    if good and missing:
        errors.print(
            "no report on duplicates, contradictions and lengths: it needs the extra trainer; the"
            " trainer makes it at the upload",
            soft_wrap=True,
        )
    if len(good) < len(checked):
        raise typer.Exit(Exit.REFUSED)


def _checked(
    file: Path, format_: DatasetFormat | None, max_record_bytes: int, max_bytes: int
) -> _Checked:
    """Read all of a file; what is wrong with it is the result's `error`."""
    checked = _Checked(file, dataset_pb2.Dataset())
    reading, stored, size = FileReading(max_record_bytes, format_), hashlib.sha256(), 0
    try:
        if (found := file.stat().st_size) > max_bytes:
            what = f"{found} bytes are too many: at most {max_bytes} are accepted"
            raise InvalidArgument("chunk", what, reason="DATASET_TOO_LARGE")
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                for line in reading.feed(piece):
                    stored.update(line.data + line.end)
                    size += len(line.data) + len(line.end)
        for line in reading.end():
            stored.update(line.data)
            size += len(line.data)
        checked.dataset = dataset_pb2.Dataset(
            format=format_value(reading.check()),
            record_count=reading.records,
            size_bytes=size,
            sha256=stored.hexdigest(),
            source_sha256=reading.sha256,
            ignored_fields=reading.ignored_fields,
        )
    except InvalidArgument as error:
        checked.error = error
    return checked


def _add_reports(
    good: Sequence[_Checked], format_: DatasetFormat | None, max_record_bytes: int
) -> None:
    """Have the trainer's own code make the reports: a process of its own, as its packages are."""
    command = [sys.executable, "-m", "trainer_svc", "file-report"]
    command += ["--max-record-bytes", str(max_record_bytes)]
    command += ["--format", format_] if format_ else []
    command += ["--", *(str(one.file.resolve()) for one in good)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=_REPORT_SECONDS
        )
        reports = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        told = str(getattr(error, "stderr", "") or error).strip().splitlines() or [""]
        errors.print(plain(f"no report: {told[-1]}"), style="yellow", markup=False, soft_wrap=True)
        return
    for one, report in zip(good, reports, strict=True):
        one.dataset = ParseDict(report, dataset_pb2.Dataset())


def _values(one: _Checked) -> dict[str, Any]:
    if one.error is None:
        return {"file": str(one.file), "dataset": values_of(one.dataset)}
    violations = [{"field": field, "description": told} for field, told in _violations(one.error)]
    error = {"reason": one.error.reason, "message": one.error.description, "violations": violations}
    return {"file": str(one.file), "error": error}


def _violations(error: InvalidArgument) -> list[tuple[str, str]]:
    """Return each bad line; none where the file is wrong as a whole."""
    return [one for one in error.violations if one[0] != error.field]


def _told(file: Path, error: InvalidArgument) -> str:
    head = f"error: {file}: {error.reason} {error.description}"
    lines = [head, *(f"  {field}: {told}" for field, told in _violations(error))]
    return "\n".join(map(plain, lines))
