"""Which held-out records training sees, by the digests that stand beside the datasets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DataCorrupt, NotFound
from trainer_svc.datasets.index import RecordIndex
from trainer_svc.datasets.leakage import leaked_lines
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.protocol import AncestorRef, DatasetRef

Lines = npt.NDArray[np.int64]

_OTHER_RELEASE = (
    "a dataset was uploaded to another release, which left no digests that this one reads"
)


def _no_lines() -> Lines:
    return np.empty(0, np.int64)


@dataclass(frozen=True)
class Leaked:
    """Lines of the data that held-out records are of, ascending, which are not to be judged on.

    `own` ask what the training data asks, `inherited` what the data of a version asks that the
    weights come from. `unknown` says of what it is not known; "" where all was looked at.
    """

    own: Lines = field(default_factory=_no_lines)
    inherited: Lines = field(default_factory=_no_lines)
    unknown: str = ""


NOTHING_LEAKED = Leaked()


@dataclass(frozen=True)
class _Found:
    """What came of one comparison."""

    lines: Lines
    unknown: str = ""


class Leaks:
    """Compares datasets, one pair after another: each may have 40 MiB of digests.

    That it cannot be said what leaks fails no job.
    """

    def __init__(self, files: DatasetFiles) -> None:
        self._files = files
        self._turn = asyncio.Lock()

    async def between(
        self, training: DatasetRef, validation: DatasetRef, ancestors: Iterable[AncestorRef] = ()
    ) -> Leaked:
        """Return what leaks of the validation data. Raises StoreUnavailable."""
        async with self._turn:
            asked = await self._digests(validation.index_key)
            if isinstance(asked, str):
                return Leaked(unknown=asked)
            own = await self._compared(training.name, training.index_key, asked)
            seen = await self._seen(_others(training, ancestors), asked)
        partly = "" if asked.complete else _told(validation.name, asked)
        unknown = _joined([own.unknown, partly, seen.unknown])
        return Leaked(own.lines, seen.lines, unknown)

    async def within(self, training: DatasetRef, ancestors: Iterable[AncestorRef]) -> Leaked:
        """Return what of the training data, some of which is held out, other data has already.

        Raises StoreUnavailable.
        """
        others = _others(training, ancestors)
        if not others:
            return NOTHING_LEAKED
        async with self._turn:
            asked = await self._digests(training.index_key)
            if isinstance(asked, str):
                return Leaked(unknown=asked)
            seen = await self._seen(others, asked)
        partly = "" if asked.complete else _told(training.name, asked)
        return Leaked(inherited=seen.lines, unknown=_joined([partly, seen.unknown]))

    async def _seen(self, ancestors: Iterable[AncestorRef], asked: RecordIndex) -> _Found:
        lines, unknown = _no_lines(), []
        for one in ancestors:
            found = await self._ancestor(one, asked)
            lines = np.union1d(lines, found.lines)
            unknown.append(found.unknown)
        return _Found(lines, _joined(unknown))

    async def _ancestor(self, of: AncestorRef, asked: RecordIndex) -> _Found:
        if not of.dataset:
            return _Found(_no_lines(), f"what {of.version} was trained on is known no more")
        lost = (
            f"of {of.dataset}, as {of.version} was trained on it, no digests are left that this "
            "release reads"
        )
        return await self._compared(of.dataset, of.index_key, asked, lost)

    async def _compared(self, name: str, key: str, asked: RecordIndex, lost: str = "") -> _Found:
        known = await self._digests(key)
        if isinstance(known, str):
            return _Found(_no_lines(), lost or known)
        lines = await in_thread(lambda _: leaked_lines(known, asked))
        return _Found(lines, "" if known.complete else _told(name, known))

    async def _digests(self, key: str) -> RecordIndex | str:
        """Return a dataset's digests, or why there are none."""
        try:
            found = await self._files.index(key)
        except (NotFound, DataCorrupt) as error:
            return f"the digests of a dataset are lost: {error.message}"
        return _OTHER_RELEASE if found is None else found


def _others(training: DatasetRef, ancestors: Iterable[AncestorRef]) -> list[AncestorRef]:
    """Return those with other data than the job's own, of the same data the nearest."""
    found: dict[str, AncestorRef] = {}
    for one in ancestors:
        if one.sha256 != training.sha256:
            found.setdefault(one.sha256, one)
    return list(found.values())


def _told(name: str, index: RecordIndex) -> str:
    return (
        f"of the {index.records:,} records of {name} the first {len(index.lines):,} were looked at"
    )


def _joined(said: Iterable[str]) -> str:
    return "; ".join(filter(None, said))
