"""Whether answers form few classes, and how many records each has."""

from __future__ import annotations

from collections import Counter

from trainer_svc.datasets.content import normalised
from trainer_svc.datasets.report.model import LabelClass

MAX_CLASSES, MAX_LABEL_CHARACTERS, RECORDS_PER_CLASS = 20, 64, 5


class LabelCounter:
    """Counts answers until they are too many or too long to be labels; then it forgets them.

    Answers are labels where there are at most 20 of them, each of at most 64 characters, and at
    least 5 records for each on average.
    """

    def __init__(self) -> None:
        self._answers: Counter[str] | None = Counter()

    def add(self, answer: str) -> None:
        """Count one record's answer."""
        if self._answers is None:
            return
        # What trimming may take away is bounded, as the work is.
        if len(answer) > 2 * MAX_LABEL_CHARACTERS:
            self._answers = None
            return
        label = normalised(answer)
        self._answers[label] += 1
        if len(label) > MAX_LABEL_CHARACTERS or len(self._answers) > MAX_CLASSES:
            self._answers = None

    def finish(self) -> tuple[LabelClass, ...]:
        """Return the classes, the largest first; () where answers form none."""
        answers = self._answers or Counter()
        if answers.total() < RECORDS_PER_CLASS * len(answers):
            return ()
        return tuple(LabelClass(label=label, records=n) for label, n in answers.most_common())
