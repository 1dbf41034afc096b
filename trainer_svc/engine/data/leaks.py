"""Which held-out records training sees, by the digests that stand beside both datasets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DataCorrupt, NotFound
from trainer_svc.datasets.index import RecordIndex
from trainer_svc.datasets.leakage import leaked_lines
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.protocol import DatasetRef


@dataclass(frozen=True)
class Leaked:
    """Lines of the validation data that ask what the training data asks, ascending.

    `unknown` says of which records it is not known; "" where all were looked at.
    """

    lines: npt.NDArray[np.int64]
    unknown: str = ""


NOTHING_LEAKED = Leaked(np.empty(0, np.int64))


class Leaks:
    """Compares datasets, one pair after another: each may have 40 MiB of digests."""

    def __init__(self, files: DatasetFiles) -> None:
        self._files = files
        self._turn = asyncio.Lock()

    async def between(self, training: DatasetRef, validation: DatasetRef) -> Leaked:
        """Return what leaks; that it cannot be said fails no job. Raises StoreUnavailable."""
        async with self._turn:
            try:
                known, asked = (
                    await self._files.index(training),
                    await self._files.index(validation),
                )
            except (NotFound, DataCorrupt) as error:
                return _unknown(f"the digests of a dataset are lost: {error.message}")
            if known is None or asked is None:
                return _unknown(
                    "a dataset was uploaded to another release, which left no digests that this "
                    "one reads"
                )
            lines = await in_thread(lambda _: leaked_lines(known, asked))
        read = ((training, known), (validation, asked))
        return Leaked(lines, "; ".join(_told(*each) for each in read if not each[1].complete))


def _unknown(why: str) -> Leaked:
    return Leaked(NOTHING_LEAKED.lines, why)


def _told(ref: DatasetRef, index: RecordIndex) -> str:
    return (
        f"of the {index.records:,} records of {ref.name} the first {len(index.lines):,} were "
        "looked at"
    )
