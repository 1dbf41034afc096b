"""The trainer's client, as far as it is about data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp

from tailorbird.connection import Connection
from tailorbird.serving.v1.inference_service_pb2 import RATING_UNSPECIFIED, Rating
from tailorbird.tuning.v1 import dataset_pb2, feedback_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning
from tailorbird.tuning.v1.tuning_service_pb2_grpc import TuningServiceStub

_CHUNK_BYTES = 2**20
_VERSIONS_A_PAGE = 1000
"""As many as there may be: a page of them takes the trainer about a second."""


class TrainerData:
    """The calls about datasets, and about feedback that becomes one."""

    def __init__(self, connection: Connection, stub: TuningServiceStub) -> None:
        self._connection = connection
        self._stub = stub

    def upload_dataset(
        self,
        parent: str,
        dataset_id: str,
        path: Path,
        *,
        personal_data: dataset_pb2.PersonalDataMode.ValueType = (
            dataset_pb2.PERSONAL_DATA_MODE_UNSPECIFIED
        ),
        sent: Callable[[int], None] | None = None,
        format: dataset_pb2.DatasetFormat.ValueType = dataset_pb2.DATASET_FORMAT_UNSPECIFIED,  # noqa: A002 - the field's name
    ) -> dataset_pb2.Dataset:
        """Upload a JSONL file of any size in bounded memory; `sent` hears the bytes sent so far.

        Every record must be of `format`, or where it is unspecified of the first one's.
        `personal_data` is what is done about it; UNSPECIFIED leaves it to the trainer's operator.
        Raises OSError if the file cannot be opened.
        """
        with path.open("rb") as file:
            header = tuning.UploadDatasetHeader(
                parent=parent,
                dataset_id=dataset_id,
                size_bytes=path.stat().st_size,
                format=format,
                personal_data=personal_data,
            )

            def requests() -> Iterator[tuning.UploadDatasetRequest]:
                yield tuning.UploadDatasetRequest(header=header)
                total = 0
                while chunk := file.read(_CHUNK_BYTES):
                    yield tuning.UploadDatasetRequest(chunk=chunk)
                    total += len(chunk)
                    if sent is not None:
                        sent(total)

            return self._connection.upload(self._stub.UploadDataset, requests()).dataset

    def get_dataset(self, name: str) -> dataset_pb2.Dataset:
        """Return one dataset's record."""
        request = tuning.GetDatasetRequest(name=name)
        return self._connection.call(self._stub.GetDataset, request).dataset

    def get_dataset_report(self, name: str) -> bytes:
        """Return the page that shows the report on a dataset, in UTF-8."""
        request = tuning.GetDatasetReportRequest(name=name)
        return self._connection.call(self._stub.GetDatasetReport, request).content

    def import_dataset(
        self,
        parent: str,
        dataset_id: str,
        uri: str,
        *,
        format: dataset_pb2.DatasetFormat.ValueType = dataset_pb2.DATASET_FORMAT_UNSPECIFIED,  # noqa: A002 - the field's name
        personal_data: dataset_pb2.PersonalDataMode.ValueType = (
            dataset_pb2.PERSONAL_DATA_MODE_UNSPECIFIED
        ),
    ) -> dataset_pb2.Dataset:
        """Let the trainer read a dataset from a URI, however long that takes."""
        request = tuning.ImportDatasetRequest(
            parent=parent,
            dataset_id=dataset_id,
            uri=uri,
            format=format,
            personal_data=personal_data,
        )
        return self._connection.call(self._stub.ImportDataset, request, timeout=None).dataset

    def list_datasets(self, parent: str) -> Iterator[dataset_pb2.Dataset]:
        """Yield a tenant's datasets by id, without reports; pages are fetched as needed."""
        request = tuning.ListDatasetsRequest(parent=parent)
        for page in self._connection.pages(self._stub.ListDatasets, request):
            yield from page.datasets

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset; again, if it fails half-way."""
        self._connection.call(self._stub.DeleteDataset, tuning.DeleteDatasetRequest(name=name))

    def find_record(
        self, parent: str, record: bytes
    ) -> Iterator[dataset_pb2.RecordMatch | dataset_pb2.UnsearchedDataset]:
        """Yield the tenant's datasets that hold a record, and those that may."""
        request = tuning.FindRecordRequest(parent=parent, record=record)
        for page in self._connection.pages(self._stub.FindRecord, request):
            yield from page.matches
            yield from page.unsearched

    def list_trained_versions(
        self, parent: str, dataset_sha256: Iterable[str]
    ) -> Iterator[dataset_pb2.TrainedVersion | str]:
        """Yield the tenant's versions that have seen any of these datasets.

        A name alone is that of a version of which it is not known.
        """
        request = tuning.ListTrainedVersionsRequest(
            parent=parent, dataset_sha256=dataset_sha256, page_size=_VERSIONS_A_PAGE
        )
        for page in self._connection.pages(self._stub.ListTrainedVersions, request):
            yield from page.versions
            yield from page.unknown_versions

    def list_feedback(
        self,
        parent: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        rating: Rating.ValueType = RATING_UNSPECIFIED,
        has_correction: bool | None = None,
    ) -> Iterator[feedback_pb2.ListFeedbackResponse]:
        """Yield pages of an adapter's feedback, newest first, each fetched when it is needed.

        Each names the records that it met and that cannot be read. Times have a zone.
        """
        request = feedback_pb2.ListFeedbackRequest(
            parent=parent,
            since=_timestamp(since),
            until=_timestamp(until),
            rating=rating,
            has_correction=has_correction,
        )
        yield from self._connection.pages(self._stub.ListFeedback, request)

    def import_feedback(
        self,
        parent: str,
        dataset_id: str,
        adapter: str,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        rule: feedback_pb2.FeedbackRule.ValueType = feedback_pb2.FEEDBACK_RULE_UNSPECIFIED,
        format: dataset_pb2.DatasetFormat.ValueType = dataset_pb2.DATASET_FORMAT_UNSPECIFIED,  # noqa: A002 - the field's name
        personal_data: dataset_pb2.PersonalDataMode.ValueType = (
            dataset_pb2.PERSONAL_DATA_MODE_UNSPECIFIED
        ),
    ) -> feedback_pb2.ImportFeedbackResponse:
        """Make a dataset of an adapter's feedback; the response says what became of each record."""
        request = feedback_pb2.ImportFeedbackRequest(
            parent=parent,
            dataset_id=dataset_id,
            adapter=adapter,
            since=_timestamp(since),
            until=_timestamp(until),
            rule=rule,
            format=format,
            personal_data=personal_data,
        )
        return self._connection.call(self._stub.ImportFeedback, request, timeout=None)

    def delete_feedback(self, name: str) -> None:
        """Delete a record of feedback, for good; datasets that were made of it keep it."""
        request = feedback_pb2.DeleteFeedbackRequest(name=name)
        self._connection.call(self._stub.DeleteFeedback, request)


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message
