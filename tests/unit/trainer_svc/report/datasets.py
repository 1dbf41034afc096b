"""A dataset whose report has everything in it that one may have."""

from __future__ import annotations

from datetime import UTC, datetime

from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.datasets.personal_data import PersonalDataReport
from trainer_svc.datasets.report.model import (
    Contradiction,
    Contradictions,
    DatasetReport,
    Duplicates,
    LabelClass,
    LanguageCount,
    Languages,
    LengthBin,
    Lengths,
    LinePair,
    NearDuplicates,
    NearPair,
    ScriptCount,
    ShortAnswers,
)


def lengths(*records: int) -> Lengths:
    bins = [
        LengthBin(at_least=16 * 2**place, below=32 * 2**place, records=count)
        for place, count in enumerate(records)
    ]
    last = LengthBin(at_least=2**20, below=None, records=1)
    return Lengths(total=123_456, median=48, longest=2**20 + 1, bins=(*bins, last))


def full_dataset(text: str = "returns", count: int = 1794) -> Dataset:
    """Everything that a report may have; `text` is what of the data stands in it."""
    report = DatasetReport(
        records=count,
        compared=count,
        prompts=lengths(900, 894),
        answers=lengths(1700, 94),
        duplicates=Duplicates(
            surplus=130,
            pairs=tuple(LinePair(line=line + 1000, copy_of=line) for line in range(1, 101)),
        ),
        near_duplicates=NearDuplicates(
            compared=1664,
            found=21,
            pairs=tuple(
                NearPair(line=line + 500, near_to=line, similarity=0.91) for line in range(1, 21)
            ),
        ),
        contradictions=Contradictions(
            questions=2, records=5, examples=(Contradiction(answers=3, lines=(7, 9, 48213)),)
        ),
        short_answers=ShortAnswers(records=3, lines=(17, 18, 19)),
        labels=(LabelClass(label=text, records=1700), LabelClass(label="תודה", records=94)),
        languages=Languages(
            sampled=256,
            counts=(
                LanguageCount(language="en", records=200),
                LanguageCount(language="und", records=56),
            ),
        ),
        scripts=(ScriptCount(script="Latin", letters=9000), ScriptCount(script="Han", letters=31)),
    )
    return Dataset(
        name="tenants/acme/datasets/tickets",
        format=DatasetFormat.CHAT,
        record_count=count,
        size_bytes=654_321,
        sha256="4be1" * 16,
        create_time=datetime(2026, 11, 22, 14, 3, tzinfo=UTC),
        ignored_fields=(text,),
        report=report,
        personal_data=PersonalDataReport(
            mode=Mode.SUBSTITUTE, records=40, counts={text: 44}, lines={text: (4, 5)}
        ),
    )
