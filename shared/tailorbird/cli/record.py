"""`tailorbird datasets find-record`: where a record is, and which versions have seen it."""

from __future__ import annotations

from collections.abc import Sequence
from json import loads
from typing import Annotated

import typer

from tailorbird.cli.connect import TenantOption, parent_of, with_trainer
from tailorbird.cli.formats import Output, OutputOption, print_values, values_of
from tailorbird.cli.output import errors, last_part, out, print_rows, when
from tailorbird.client import TrainerClient
from tailorbird.errors import InvalidArgument
from tailorbird.line_numbers import say_lines
from tailorbird.tuning.v1 import dataset_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning

_MOST_BYTES = 3 * 2**20
_MOST_DATASETS = 1000
_UNSEARCHED = {
    "NO_INDEX": "was stored by another release, without digests",
    "INDEX_DAMAGED": "has lost its digests",
    "RECORDS_NOT_INDEXED": "has digests of its first 1,048,576 records only",
    "SUBSTITUTED": "has stand-ins for the personal data: look for the record as stored there",
}

_Version = dataset_pb2.TrainedVersion


@with_trainer
def find(
    trainer: TrainerClient,
    file: Annotated[
        typer.FileBinaryRead, typer.Argument(help="A file with one record, as JSON; - for stdin.")
    ],
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Find the datasets that hold a record, and the versions to retrain if it is to be forgotten.

    Also in datasets that were deleted. A record is the same if it asks and answers the same.
    """
    parent = parent_of(tenant)
    found = list(trainer.find_record(parent, _one(file.read(_MOST_BYTES + 1))))
    matches = [each for each in found if isinstance(each, dataset_pb2.RecordMatch)]
    unsearched = [each for each in found if isinstance(each, dataset_pb2.UnsearchedDataset)]
    seen = _versions(trainer, parent, sorted({each.dataset_sha256 for each in matches}))
    versions = [each for each in seen if isinstance(each, _Version)]
    unknown = [each for each in seen if isinstance(each, str)]
    if output.is_data:
        held = tuning.FindRecordResponse(matches=matches, unsearched=unsearched)
        traced = tuning.ListTrainedVersionsResponse(versions=versions, unknown_versions=unknown)
        print_values(values_of(held) | values_of(traced), output)
        return
    _print_matches(matches)
    _print_versions(versions)
    for each in unsearched:
        _may(f"{each.dataset} {_UNSEARCHED.get(each.reason, each.reason)}")
    for name in unknown:
        _may(f"what {name} was trained on cannot be read")


def _one(data: bytes) -> bytes:
    if len(data) > _MOST_BYTES:
        raise InvalidArgument("record", f"longer than {_MOST_BYTES} bytes")
    lines = [line for line in data.splitlines() if line.strip()]
    if len(lines) > 1 and all(map(_is_json, lines[:2])):
        raise InvalidArgument("record", f"{len(lines)} lines are a record each; one is looked for")
    # A record may be written on several lines.
    return data.strip()


def _is_json(line: bytes) -> bool:
    try:
        loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _versions(trainer: TrainerClient, parent: str, sha256s: Sequence[str]) -> list[_Version | str]:
    """Return the versions that have seen any of the datasets, asking for so many at a time."""
    return [
        version
        for at in range(0, len(sha256s), _MOST_DATASETS)
        for version in trainer.list_trained_versions(parent, sha256s[at : at + _MOST_DATASETS])
    ]


def _print_matches(matches: Sequence[dataset_pb2.RecordMatch]) -> None:
    if not matches:
        out.print("no dataset holds the record")
        return
    print_rows(
        ("DATASET", "LINES", "DELETED", "FOUND"),
        (
            (
                last_part(each.dataset),
                say_lines(each.lines, each.line_count),
                when(each.delete_time),
                "as it was redacted" if each.redacted else "as it is",
            )
            for each in matches
        ),
    )


def _print_versions(versions: Sequence[_Version]) -> None:
    if not versions:
        return
    out.print()
    print_rows(
        ("VERSION", "HAS", "DATASET", "DELETED"),
        (
            (
                _short(each.version),
                _use(each),
                last_part(each.dataset),
                "yes" if each.deleted else "",
            )
            for each in versions
        ),
    )
    use = dataset_pb2.DATA_USE_VALIDATED
    retrain = {each.version for each in versions if each.use != use and not each.deleted}
    if retrain:
        out.print()
        out.print("to retrain without the record:", *sorted(map(_short, retrain)), sep="\n  ")


def _short(version: str) -> str:
    return "/".join(version.split("/")[3::2])


def _use(version: _Version) -> str:
    if version.use == dataset_pb2.DATA_USE_VALIDATED:
        return "been validated on it"
    if version.use == dataset_pb2.DATA_USE_INHERITED:
        return f"been trained on from {_short(version.inherited_from)}"
    if version.held_out_records:
        return f"been trained on it, but for {version.held_out_records:,} held out"
    return "been trained on it"


def _may(said: str) -> None:
    errors.print(f"warning: not known: {said}", soft_wrap=True)
