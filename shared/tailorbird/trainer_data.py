# Made by tools/twins.py from aio/trainer_data.py, with `make twins`: change that file instead.
"""The trainer's client, as far as it is about data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from tailorbird.connection import Connection
from tailorbird.serving.v1.inference_service_pb2 import RATING_UNSPECIFIED, Rating
from tailorbird.tuning.v1 import dataset_pb2, feedback_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as tuning
from tailorbird.tuning.v1.tuning_service_pb2_grpc import TuningServiceStub
from tailorbird.upload import Data, chunks_of

_VERSIONS_A_PAGE = 1000
"""As many as there may be: a page of them takes the trainer about a second."""


class TrainerData:
    """The calls about datasets, and about feedback that becomes one.

    `stub` is the generated one, for whatever is not here: its calls carry the token.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.stub = TuningServiceStub(connection.channel)

    def upload_dataset(
        self,
        parent: str,
        dataset_id: str,
        data: Data,
        *,
        personal_data: dataset_pb2.PersonalDataMode.ValueType = (
            dataset_pb2.PERSONAL_DATA_MODE_UNSPECIFIED
        ),
        sent: Callable[[int], None] | None = None,
        format: dataset_pb2.DatasetFormat.ValueType = dataset_pb2.DATASET_FORMAT_UNSPECIFIED,  # noqa: A002 - the field's name
    ) -> dataset_pb2.Dataset:
        """Upload records of any number in bounded memory; `sent` hears the bytes sent so far.

        `data` is the path of a JSONL file, an open file of that kind, which is read from where it
        stands, or an iterable of records, each a dict or a line of JSON. It is read on another
        thread. Every record must be of `format`, or where it is unspecified of the first one's.
        `personal_data` is what is done about it; UNSPECIFIED leaves it to the trainer's operator.
        Raises OSError if the file cannot be opened, InvalidArgument of `tailorbird.errors` for what
        is no record, and whatever the iterable raises: nothing is stored then.

        >>> greetings = [{"prompt": f"Hello {name}.", "completion": "Hi!"} for name in "abc"]
        >>> dataset = trainer.upload_dataset("tenants/acme", "greetings", greetings)
        >>> dataset.name, dataset.record_count
        ('tenants/acme/datasets/greetings', 3)
        """
        with chunks_of(data) as (size, chunks):
            header = tuning.UploadDatasetHeader(
                parent=parent,
                dataset_id=dataset_id,
                size_bytes=size,
                format=format,
                personal_data=personal_data,
            )
            response = self._connection.upload(
                lambda opened: TuningServiceStub(opened).UploadDataset,
                _requests(header, chunks, sent),
            )
            return response.dataset

    def get_dataset(self, name: str) -> dataset_pb2.Dataset:
        """Return one dataset's record.

        >>> dataset = trainer.get_dataset("tenants/acme/datasets/greetings")
        >>> dataset.name
        'tenants/acme/datasets/greetings'
        """
        request = tuning.GetDatasetRequest(name=name)
        response = self._connection.call(self.stub.GetDataset, request, again=True)
        return response.dataset

    def get_dataset_report(self, name: str) -> bytes:
        """Return the page that shows the report on a dataset, in UTF-8.

        >>> page = trainer.get_dataset_report("tenants/acme/datasets/greetings")
        >>> page.decode()
        '<p>größer</p>'
        """
        request = tuning.GetDatasetReportRequest(name=name)
        response = self._connection.call(self.stub.GetDatasetReport, request, again=True)
        return response.content

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
        """Let the trainer read a dataset from a URI, however long that takes.

        >>> uri = "s3://bucket/chats.jsonl"
        >>> dataset = trainer.import_dataset("tenants/acme", "chats", uri)
        """
        request = tuning.ImportDatasetRequest(
            parent=parent,
            dataset_id=dataset_id,
            uri=uri,
            format=format,
            personal_data=personal_data,
        )
        response = self._connection.call(self.stub.ImportDataset, request, timeout=None)
        return response.dataset

    def list_datasets(self, parent: str) -> Iterator[dataset_pb2.Dataset]:
        """Yield a tenant's datasets by id, without reports; pages are fetched as needed.

        >>> [dataset.name for dataset in trainer.list_datasets("tenants/acme")]
        []
        """
        request = tuning.ListDatasetsRequest(parent=parent)
        return self._connection.items(self.stub.ListDatasets, request, lambda page: page.datasets)

    def delete_dataset(self, name: str) -> None:
        """Delete a dataset; again, if it fails half-way.

        >>> trainer.delete_dataset("tenants/acme/datasets/greetings")
        """
        request = tuning.DeleteDatasetRequest(name=name)
        self._connection.call(self.stub.DeleteDataset, request)

    def find_record(
        self, parent: str, record: bytes
    ) -> Iterator[dataset_pb2.RecordMatch | dataset_pb2.UnsearchedDataset]:
        """Yield the tenant's datasets that hold a record, and those that may.

        >>> record = b'{"prompt": "Hello a.", "completion": "Hi!"}'
        >>> [found for found in trainer.find_record("tenants/acme", record)]
        []
        """
        request = tuning.FindRecordRequest(parent=parent, record=record)
        return self._connection.items(self.stub.FindRecord, request, _found)

    def list_trained_versions(
        self, parent: str, dataset_sha256: Iterable[str]
    ) -> Iterator[dataset_pb2.TrainedVersion | str]:
        """Yield the tenant's versions that have seen any of these datasets.

        A name alone is that of a version of which it is not known.

        >>> [seen for seen in trainer.list_trained_versions("tenants/acme", ["0" * 64])]
        []
        """
        request = tuning.ListTrainedVersionsRequest(
            parent=parent, dataset_sha256=dataset_sha256, page_size=_VERSIONS_A_PAGE
        )
        return self._connection.items(self.stub.ListTrainedVersions, request, _trained)

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

        >>> pages = trainer.list_feedback("tenants/acme/adapters/support")
        >>> [len(page.feedback) for page in pages]
        [1, 1]
        """
        request = feedback_pb2.ListFeedbackRequest(
            parent=parent,
            since=_timestamp(since),
            until=_timestamp(until),
            rating=rating,
            has_correction=has_correction,
        )
        return self._connection.pages(self.stub.ListFeedback, request)

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
        """Make a dataset of an adapter's feedback; the response says what became of each record.

        >>> adapter = "tenants/acme/adapters/support"
        >>> response = trainer.import_feedback("tenants/acme", "corrected", adapter)
        >>> response.read_count, response.imported_count
        (3, 1)
        """
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
        return self._connection.call(self.stub.ImportFeedback, request, timeout=None)

    def delete_feedback(self, name: str) -> None:
        """Delete a record of feedback, for good; datasets that were made of it keep it.

        >>> name = "tenants/acme/adapters/support/feedback/20261123-" + "0" * 32
        >>> trainer.delete_feedback(name)
        """
        request = feedback_pb2.DeleteFeedbackRequest(name=name)
        self._connection.call(self.stub.DeleteFeedback, request)


def _requests(
    header: tuning.UploadDatasetHeader,
    chunks: Iterable[bytes],
    sent: Callable[[int], None] | None,
) -> Iterator[tuning.UploadDatasetRequest]:
    yield tuning.UploadDatasetRequest(header=header)
    total = 0
    for chunk in chunks:
        yield tuning.UploadDatasetRequest(chunk=chunk)
        total += len(chunk)
        if sent is not None:
            sent(total)


def _found(
    page: tuning.FindRecordResponse,
) -> Iterator[dataset_pb2.RecordMatch | dataset_pb2.UnsearchedDataset]:
    yield from page.matches
    yield from page.unsearched


def _trained(
    page: tuning.ListTrainedVersionsResponse,
) -> Iterator[dataset_pb2.TrainedVersion | str]:
    yield from page.versions
    yield from page.unknown_versions


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message
