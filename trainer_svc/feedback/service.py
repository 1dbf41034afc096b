"""The use cases of feedback: list it, make a dataset of it, delete it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from tailorbird.errors import FailedPrecondition, InvalidArgument
from tailorbird.feedback import (
    FeedbackPage,
    FeedbackRecord,
    FeedbackStore,
    Found,
    Period,
)
from tailorbird.names import AdapterName, DatasetName, FeedbackName, TenantName
from tailorbird.personal_data.modes import Mode
from tailorbird.records.formats import DatasetFormat
from tailorbird.turns import Turns
from trainer_svc.datasets.dataset import Dataset
from trainer_svc.feedback.lines import Rule, Unusable, dataset_line

MAX_IMPORTED = 100_000
"""Records that are read for one dataset."""
_MAX_TOLD = 100
_IMPORTS = 2
"""Imports at a time, of all tenants in turn: each reads many small objects."""
_LISTINGS = 4
"""Pages at a time: each reads up to 16 records of up to 2 MiB at once."""


class Datasets(Protocol):
    """Where datasets are uploaded to."""

    async def upload(
        self,
        name: DatasetName,
        size_bytes: int | None,
        chunks: AsyncIterator[bytes],
        format_: DatasetFormat | None = None,
        personal_data: Mode | None = None,
    ) -> Dataset: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is listed: "" and None are any."""

    rating: str = ""
    has_correction: bool | None = None

    def has(self, record: FeedbackRecord) -> bool:
        """Tell whether a record is one of these."""
        if self.rating and record.rating != self.rating:
            return False
        return self.has_correction in (None, record.correction is not None)


@dataclass(frozen=True, slots=True)
class Import:
    """What a dataset is made of."""

    adapter: AdapterName
    period: Period = field(default_factory=Period)
    rule: Rule = Rule.CORRECTIONS_AND_GOOD
    format: DatasetFormat = DatasetFormat.CHAT


@dataclass(slots=True)
class Imported:
    """What became of each record that was looked at."""

    read: int = 0
    imported: int = 0
    other: int = 0
    vanished: int = 0
    unusable_count: int = 0
    unusable: list[tuple[FeedbackName, str]] = field(default_factory=list)
    """The first 100, and what is wrong with each."""

    def is_unusable(self, name: FeedbackName, problem: str) -> None:
        """Count a record that cannot be used, and say why."""
        self.unusable_count += 1
        if len(self.unusable) < _MAX_TOLD:
            self.unusable.append((name, problem))


class FeedbackService:
    """Reads what serving wrote; a line of a dataset has at most `max_record_bytes`."""

    def __init__(
        self,
        store: FeedbackStore,
        datasets: Datasets,
        *,
        max_record_bytes: int,
        max_imported: int = MAX_IMPORTED,
    ) -> None:
        self._store = store
        self._datasets = datasets
        self._max_record_bytes = max_record_bytes
        self._max_imported = max_imported
        self._importing = Turns(
            _IMPORTS, waiting="feedback to be imported", reason="IMPORTS_WAITING"
        )
        self._listing = Turns(_LISTINGS, waiting="feedback to be listed", reason="LISTINGS_WAITING")

    async def list(
        self, adapter: AdapterName, period: Period, wanted: Wanted, size: int, after: str
    ) -> FeedbackPage:
        """Return a page of an adapter's feedback, newest first; see FeedbackStore.page."""
        async with self._listing.turn(adapter.tenant):
            return await self._store.page(adapter, period, size, wanted.has, after)

    async def delete(self, name: FeedbackName) -> None:
        """Delete a record; NotFound if there is none."""
        await self._store.delete(name)

    async def import_(
        self, name: DatasetName, asked: Import, personal_data: Mode | None = None
    ) -> tuple[Dataset, Imported]:
        """Store a dataset of feedback, the oldest first, and say what became of each record.

        Raises FailedPrecondition (NO_FEEDBACK, TOO_MUCH_FEEDBACK) and what DatasetStore.upload
        does; then nothing is stored.
        """
        imported = Imported()
        async with (
            self._importing.turn(name.tenant),
            aclosing(self._lines(asked, imported)) as lines,
        ):
            try:
                dataset = await self._datasets.upload(
                    name, None, lines, asked.format, personal_data
                )
            except InvalidArgument as error:
                if error.reason != "DATASET_EMPTY":
                    raise
                raise _none_taken(asked, imported) from error
        return dataset, imported

    async def _lines(self, asked: Import, imported: Imported) -> AsyncGenerator[bytes]:
        tenant = TenantName(asked.adapter.tenant)
        for day in await self._store.days(tenant, asked.period):
            entries = await self._store.entries(asked.adapter, day)
            async with aclosing(self._store.read(entries)) as reading:
                async for found in reading:
                    line = await self._line(found, asked, imported)
                    if line is not None:
                        imported.imported += 1
                        yield line

    async def _line(self, found: Found, asked: Import, imported: Imported) -> bytes | None:
        record = found.record
        if record is not None and record.create_time not in asked.period:
            return None
        imported.read += 1
        if imported.read > self._max_imported:
            raise FailedPrecondition(
                f"{asked.adapter} has more than {self._max_imported} records of feedback of this"
                " time, the most of one dataset: set since and until closer together",
                reason="TOO_MUCH_FEEDBACK",
                limit=self._max_imported,
            )
        if record is None:
            if found.problem:
                imported.is_unusable(found.entry.name, found.problem)
            else:
                imported.vanished += 1
            return None
        try:
            line = await asyncio.to_thread(
                dataset_line, record, asked.rule, asked.format, self._max_record_bytes
            )
        except Unusable as error:
            imported.is_unusable(found.entry.name, str(error))
            return None
        imported.other += line is None
        return line


def _none_taken(asked: Import, imported: Imported) -> FailedPrecondition:
    return FailedPrecondition(
        f"none of {imported.read} records of feedback of {asked.adapter} is taken:"
        f" {imported.other} are not what the rule and the format ask for,"
        f" {imported.unusable_count} cannot be used",
        reason="NO_FEEDBACK",
        adapter=asked.adapter,
        read=imported.read,
    )
