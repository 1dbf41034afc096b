"""python -m trainer_svc file-report FILE...: what an upload would say of files, as JSON.

For `tailorbird datasets check`, which has found nothing wrong with them. Nothing is stored: the
lines go through the code of an upload, to nowhere.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from tailorbird.errors import TailorbirdError
from tailorbird.names import DatasetName
from tailorbird.pieces import drained
from tailorbird.records.formats import DatasetFormat
from tailorbird.records.reading import MAX_RECORD_BYTES
from tailorbird.tuning.v1 import dataset_pb2
from trainer_svc.api.convert_datasets import dataset_to_proto
from trainer_svc.datasets.spool import Spool

_PIECE = 2**20
_NAME = DatasetName("local", "file")


def run(arguments: Sequence[str]) -> int:
    """Print an array of datasets, one for each file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m trainer_svc file-report", allow_abbrev=False)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="A JSONL file.")
    parser.add_argument("--format", type=DatasetFormat, choices=list(DatasetFormat))
    parser.add_argument("--max-record-bytes", type=int, default=MAX_RECORD_BYTES)
    asked = parser.parse_args(arguments)
    try:
        found = [_report(file, asked.max_record_bytes, asked.format) for file in asked.files]
    except (TailorbirdError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    values = [MessageToDict(each, preserving_proto_field_name=True) for each in found]
    sys.stdout.write(f"{json.dumps(values)}\n")
    return 0


def _report(
    file: Path, max_record_bytes: int, format_: DatasetFormat | None
) -> dataset_pb2.Dataset:
    with file.open("rb") as opened, Path(os.devnull).open("wb") as nowhere:
        spool = Spool(nowhere, max_record_bytes, format_, None)
        while piece := opened.read(_PIECE):
            drained(spool.feed(piece))
        drained(spool.end(None))
        dataset = dataset_to_proto(spool.finish(_NAME))
    dataset.name = ""
    dataset.ClearField("create_time")
    return dataset
