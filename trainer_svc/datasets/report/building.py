"""A dataset's report and its digest index, made record by record in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets.content import content
from trainer_svc.datasets.digests import content_digest
from trainer_svc.datasets.index import IndexWriter
from trainer_svc.datasets.report.labels import LabelCounter
from trainer_svc.datasets.report.languages import LanguageSample, ScriptCounter
from trainer_svc.datasets.report.lengths import LengthCounter
from trainer_svc.datasets.report.model import DatasetReport, ShortAnswers
from trainer_svc.datasets.report.near import NearDuplicateFinder
from trainer_svc.datasets.report.repeats import contradictions, duplicates

_SHORT, _USUAL = 2, 20
_MAX_LINES = 100


class ReportBuilder:
    """Looks at each record once. 48 bytes of memory a record up to 2^20 of them, and no more.

    `finish` takes as much again while it sorts. What finds near-duplicates, languages and labels
    has bounds of its own: tens of megabytes.
    """

    def __init__(self) -> None:
        self._records = 0
        self._index = IndexWriter()
        self._prompts = LengthCounter()
        self._answers = LengthCounter()
        self._near = NearDuplicateFinder()
        self._labels = LabelCounter()
        self._languages = LanguageSample()
        self._scripts = ScriptCounter()
        self._short = 0
        self._short_lines: list[int] = []

    def add(self, line: int, format_: DatasetFormat, record: Mapping[str, Any]) -> None:
        """Look at a record that `parse_record` accepts; lines come in their order."""
        of = content(format_, record)
        digest = content_digest(of)
        self._records += 1
        self._index.add(line, digest)
        self._prompts.add(of.prompt_characters)
        self._answers.add(len(of.answer))
        self._near.add(line, digest.record, of)
        self._labels.add(of.answer)
        self._languages.add(of)
        self._scripts.add(of)
        if len(of.answer.strip()) <= _SHORT:
            self._short += 1
            if len(self._short_lines) < _MAX_LINES:
                self._short_lines.append(line)

    def finish(self) -> DatasetReport:
        """Return the report; its JSON has less than 64 KiB."""
        index = self._index.index()
        answers, labels = self._answers.finish(), self._labels.finish()
        unusual = answers.median > _USUAL and not labels
        return DatasetReport(
            records=self._records,
            compared=len(index.lines),
            prompts=self._prompts.finish(),
            answers=answers,
            duplicates=duplicates(index),
            near_duplicates=self._near.finish(),
            contradictions=contradictions(index),
            short_answers=ShortAnswers(
                records=self._short if unusual else 0,
                lines=tuple(self._short_lines) if unusual else (),
            ),
            labels=labels,
            languages=self._languages.finish(),
            scripts=self._scripts.finish(),
        )

    def index_file(self) -> bytes:
        """Return the digest index as it is stored."""
        return self._index.to_bytes()
