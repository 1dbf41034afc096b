"""A dataset and its report as messages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from tailorbird.errors import InvalidArgument
from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat
from tailorbird.tuning.v1 import dataset_pb2
from tailorbird.tuning.v1 import tuning_service_pb2 as pb
from trainer_svc.api.convert import timestamp
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.datasets.report import model
from trainer_svc.datasets.report.limits import DataLimits, findings, to_tell
from trainer_svc.jobs.events import JobWarning

_Report = dataset_pb2.DatasetReport

_MODE = "PERSONAL_DATA_MODE_"

_FORMATS = {
    DatasetFormat.CHAT: dataset_pb2.DATASET_FORMAT_CHAT,
    DatasetFormat.PROMPT_COMPLETION: dataset_pb2.DATASET_FORMAT_PROMPT_COMPLETION,
    DatasetFormat.INSTRUCTION: dataset_pb2.DATASET_FORMAT_INSTRUCTION,
    DatasetFormat.TEXT: dataset_pb2.DATASET_FORMAT_TEXT,
}
_NAMED_FORMATS = {value: format_ for format_, value in _FORMATS.items()} | {
    dataset_pb2.DATASET_FORMAT_UNSPECIFIED: None
}


async def upload_header(requests: AsyncIterator[pb.UploadDatasetRequest]) -> pb.UploadDatasetHeader:
    """Return the first message of an upload; InvalidArgument if it is no header."""
    async for request in requests:
        if request.WhichOneof("content") == "header":
            return request.header
        break
    raise InvalidArgument("header", "the first message must be the header")


async def upload_chunks(requests: AsyncIterator[pb.UploadDatasetRequest]) -> AsyncIterator[bytes]:
    """Yield what the other messages of an upload hold; InvalidArgument if one is no chunk."""
    async for request in requests:
        if request.WhichOneof("content") != "chunk":
            raise InvalidArgument("chunk", "every message after the first must be a chunk")
        yield request.chunk


def format_from_proto(
    value: dataset_pb2.DatasetFormat.ValueType, at: str = ""
) -> DatasetFormat | None:
    """Return the format that is named, or None if none is; `at` begins the field's name."""
    if value not in _NAMED_FORMATS:
        raise InvalidArgument(f"{at}format", f"{value} is not a format")
    return _NAMED_FORMATS[value]


def personal_data_mode(mode: dataset_pb2.PersonalDataMode.ValueType, at: str = "") -> Mode | None:
    """Return what is asked to be done about personal data; None: the operator's setting.

    `at` begins the field's name.
    """
    if mode == dataset_pb2.PERSONAL_DATA_MODE_UNSPECIFIED:
        return None
    if mode not in dataset_pb2.PersonalDataMode.values():
        raise InvalidArgument(f"{at}personal_data", f"{mode} is not a mode")
    return Mode(dataset_pb2.PersonalDataMode.Name(mode).removeprefix(_MODE).lower())


def dataset_to_proto(dataset: Dataset) -> dataset_pb2.Dataset:
    """Return the message for a dataset."""
    return dataset_pb2.Dataset(
        name=dataset.name,
        format=_FORMATS[dataset.format],
        record_count=dataset.record_count,
        size_bytes=dataset.size_bytes,
        sha256=dataset.sha256,
        create_time=timestamp(dataset.create_time),
        ignored_fields=dataset.ignored_fields,
        report=None if dataset.report is None else report_to_proto(dataset.report),
        source_sha256=dataset.source_sha256 or dataset.sha256,
        personal_data=_personal_data_to_proto(dataset.personal_data),
        source_uri=dataset.source_uri,
    )


def summary_to_proto(dataset: Dataset) -> dataset_pb2.Dataset:
    """Return the message for a dataset in a listing: of a bounded size, however many there are."""
    found = dataset.personal_data
    less = {
        "report": None,
        "ignored_fields": (),
        "personal_data": found and found.model_copy(update={"counts": {}, "lines": {}}),
    }
    return dataset_to_proto(dataset.model_copy(update=less))


def _personal_data_to_proto(
    report: PersonalDataReport | None,
) -> dataset_pb2.PersonalDataReport | None:
    if report is None:
        return None
    kinds = [
        dataset_pb2.PersonalDataKind(kind=kind, count=count, lines=report.lines.get(kind, ()))
        for kind, count in report.counts.items()
    ]
    return dataset_pb2.PersonalDataReport(
        mode=dataset_pb2.PersonalDataMode.Value(f"{_MODE}{report.mode.upper()}"),
        record_count=report.records,
        kinds=kinds,
    )


def report_to_proto(report: model.DatasetReport) -> dataset_pb2.DatasetReport:
    """Return the message for a report, with what it is warned of by default."""
    return _Report(
        records=report.records,
        compared_records=report.compared,
        warnings=[
            dataset_pb2.DataWarning(reason=one.reason, message=one.message)
            for one in to_tell(findings(report), DataLimits())
        ],
        prompts=_lengths(report.prompts),
        answers=_lengths(report.answers),
        duplicates=_Report.Duplicates(
            surplus=report.duplicates.surplus,
            pairs=[
                _Report.Pair(line=pair.line, earlier_line=pair.copy_of, similarity=1)
                for pair in report.duplicates.pairs
            ],
        ),
        near_duplicates=_near(report.near_duplicates),
        contradictions=_contradictions(report.contradictions),
        short_answers=_Report.ShortAnswers(**report.short_answers.model_dump()),
        labels=[_Report.Label(label=one.label, records=one.records) for one in report.labels],
        languages=_languages(report.languages),
        scripts=[_Report.Script(script=s.script, letters=s.letters) for s in report.scripts],
    )


def warnings_to_proto(warnings: Iterable[JobWarning]) -> list[dataset_pb2.DataWarning]:
    """Return the messages for what a job's data is warned of."""
    return [dataset_pb2.DataWarning(reason=one.reason, message=one.message) for one in warnings]


def _lengths(lengths: model.Lengths) -> dataset_pb2.DatasetReport.Lengths:
    return _Report.Lengths(
        total=lengths.total,
        median=lengths.median,
        longest=lengths.longest,
        bins=[_Report.Bin(**one.model_dump(exclude_none=True)) for one in lengths.bins],
    )


def _near(near: model.NearDuplicates) -> dataset_pb2.DatasetReport.NearDuplicates:
    return _Report.NearDuplicates(
        compared=near.compared,
        found=near.found,
        pairs=[
            _Report.Pair(line=pair.line, earlier_line=pair.near_to, similarity=pair.similarity)
            for pair in near.pairs
        ],
    )


def _contradictions(found: model.Contradictions) -> dataset_pb2.DatasetReport.Contradictions:
    return _Report.Contradictions(
        questions=found.questions,
        records=found.records,
        examples=[_Report.Contradiction(**one.model_dump()) for one in found.examples],
    )


def _languages(languages: model.Languages) -> dataset_pb2.DatasetReport.Languages:
    return _Report.Languages(
        sampled=languages.sampled,
        languages=[
            _Report.Language(code=one.language, records=one.records) for one in languages.counts
        ],
    )
