"""The format of a dataset's records, as it is asked for on a command line and said."""

from __future__ import annotations

from typing import Annotated

import typer

from tailorbird.records.formats import DatasetFormat
from tailorbird.tuning.v1 import dataset_pb2

FormatOption = Annotated[
    DatasetFormat | None,
    typer.Option("--format", help="The records' format; else the first one's."),
]


def format_value(format_: DatasetFormat | None) -> dataset_pb2.DatasetFormat.ValueType:
    """Return the API's value of a format; of None that nothing is asked for."""
    return dataset_pb2.DatasetFormat.Value(
        f"DATASET_FORMAT_{format_.name if format_ else 'UNSPECIFIED'}"
    )


def format_name(value: dataset_pb2.DatasetFormat.ValueType) -> str:
    """Say a dataset's format."""
    return dataset_pb2.DatasetFormat.Name(value).removeprefix("DATASET_FORMAT_").lower()
