"""Records of the validation data that the training data has, too. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer_svc.datasets.index import RecordIndex
from trainer_svc.datasets.report.model import LinePair
from trainer_svc.record import Record

_MAX_PAIRS = 100


class Leakage(Record):
    """What of the validation data training sees: `leaked` records' questions, `copies` whole.

    `compared` validation records were looked for; `pairs` are the first 100 found, each the line in
    the validation data and the first such line in the training data.
    """

    compared: int
    leaked: int
    copies: int
    pairs: tuple[LinePair, ...]

    @property
    def share(self) -> float:
        """The part of the compared records whose question occurs in the training data."""
        return self.leaked / self.compared if self.compared else 0.0


def leakage(training: RecordIndex, validation: RecordIndex) -> Leakage:
    """Compare two datasets by their digests.

    Takes the time to sort both. Of a dataset whose index is not complete, what it has is compared.
    """
    questions, first = np.unique(training.prompts, return_index=True)
    at = np.searchsorted(questions, validation.prompts)
    # What would come after the last is compared with the last, and is not equal to it.
    at[at == len(questions)] = len(questions) - 1
    leaked = questions[at] == validation.prompts
    copies = np.isin(validation.whole, training.whole)
    seen = np.flatnonzero(leaked)[:_MAX_PAIRS]
    return Leakage(
        compared=len(validation.lines),
        leaked=int(leaked.sum()),
        copies=int(copies.sum()),
        pairs=tuple(
            LinePair(line=line, copy_of=of)
            for line, of in zip(
                validation.lines[seen].tolist(),
                training.lines[first[at[seen]]].tolist(),
                strict=True,
            )
        ),
    )


def leaked_lines(training: RecordIndex, validation: RecordIndex) -> npt.NDArray[np.int64]:
    """Return the lines of the validation data whose question the training data has, ascending."""
    seen = np.isin(validation.prompts, training.prompts)
    return validation.lines[seen].astype(np.int64)
