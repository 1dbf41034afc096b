"""Records, the datasets that hold them and the versions that saw these, as messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tailorbird.errors import InvalidArgument
from tailorbird.tuning.v1 import dataset_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from trainer_svc.api.convert import timestamp
from trainer_svc.datasets.digests import DIGEST_BYTES
from trainer_svc.datasets.search import Found, Match, RecordSearch, Sought
from trainer_svc.jobs.trained_versions import TrainedPage, TrainedVersion

_DIGEST = re.compile(rf"[0-9a-f]{{{2 * DIGEST_BYTES}}}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_DATASETS = 1000
_MAX_TOLD = 80


def sought_from_proto(request: pb.FindRecordRequest, search: RecordSearch) -> Sought:
    """Return what is looked for; InvalidArgument names the field."""
    if request.WhichOneof("asked") == "record":
        return search.by_record(request.record)
    if not _DIGEST.fullmatch(request.digest):
        raise InvalidArgument(
            "digest",
            f"{request.digest[:_MAX_TOLD]!r} is not {2 * DIGEST_BYTES} lower-case hex digits; give "
            "that or the record",
        )
    return search.by_digest(bytes.fromhex(request.digest))


def found_to_proto(found: Found, sought: Sought, next_page_token: str) -> pb.FindRecordResponse:
    """Return the message for a page of what was found."""
    return pb.FindRecordResponse(
        matches=[_match(each) for each in found.matches],
        unsearched=[
            dataset_pb2.UnsearchedDataset(dataset=dataset, reason=why)
            for dataset, why in found.unsearched
        ],
        digest=sought.digest.hex(),
        next_page_token=next_page_token,
    )


def _match(match: Match) -> dataset_pb2.RecordMatch:
    deleted = match.delete_time
    return dataset_pb2.RecordMatch(
        dataset=match.dataset,
        dataset_sha256=match.sha256,
        lines=match.lines,
        line_count=match.line_count,
        delete_time=None if deleted is None else timestamp(deleted),
        redacted=match.redacted,
    )


def sha256s_from_proto(values: Sequence[str]) -> frozenset[str]:
    """Return the digests of datasets that are asked for; InvalidArgument names the first wrong."""
    if not 1 <= len(values) <= _MOST_DATASETS:
        raise InvalidArgument(
            "dataset_sha256", f"{len(values)} digests; 1 to {_MOST_DATASETS} are taken"
        )
    for index, value in enumerate(values):
        if not _SHA256.fullmatch(value):
            raise InvalidArgument(
                f"dataset_sha256[{index}]",
                f"{value[:_MAX_TOLD]!r} is not 64 lower-case hex digits",
            )
    return frozenset(values)


def trained_to_proto(page: TrainedPage, next_page_token: str) -> pb.ListTrainedVersionsResponse:
    """Return the message for a page of versions that have seen data."""
    return pb.ListTrainedVersionsResponse(
        versions=[_version(each) for each in page.versions],
        unknown_versions=page.unknown,
        next_page_token=next_page_token,
    )


def _version(version: TrainedVersion) -> dataset_pb2.TrainedVersion:
    return dataset_pb2.TrainedVersion(
        version=version.version,
        use=dataset_pb2.DataUse.Value(f"DATA_USE_{version.use}"),
        dataset=version.dataset,
        dataset_sha256=version.sha256,
        inherited_from=version.inherited_from,
        job=version.job,
        create_time=timestamp(version.create_time),
        deleted=version.deleted,
        held_out_records=version.held_out_records,
    )
