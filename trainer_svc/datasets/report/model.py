"""The report on a dataset: figures and line numbers, bounded in size. Pure.

Lines are counted from 1; characters are Unicode code points; lists are cut at the lengths that
each says, and the counts beside them are not. Of the data's text it has the labels, nothing else.
"""

from __future__ import annotations

from trainer_svc.record import Record


class LengthBin(Record):
    """Texts of `at_least` and fewer than `below` characters; None: no limit."""

    at_least: int
    below: int | None
    records: int


class Lengths(Record):
    """Lengths in characters of one text a record; the bins that are not empty, in order."""

    total: int
    median: int
    longest: int
    bins: tuple[LengthBin, ...]


class LinePair(Record):
    """A record's line and that of the first record it is a copy of."""

    line: int
    copy_of: int


class Duplicates(Record):
    """Records with question and answer of an earlier one; the first 100."""

    surplus: int
    pairs: tuple[LinePair, ...]


class NearPair(Record):
    """A record's line, that of an earlier one, and the estimated Jaccard similarity of both."""

    line: int
    near_to: int
    similarity: float


class NearDuplicates(Record):
    """Records that are almost as an earlier one, of the `compared` that were looked at; 20."""

    compared: int
    found: int
    pairs: tuple[NearPair, ...]


class Contradiction(Record):
    """One question: how many answers it has, and the lines of the first 5 of them."""

    answers: int
    lines: tuple[int, ...]


class Contradictions(Record):
    """Questions with several answers, the records that ask them, and the first 20 of them."""

    questions: int
    records: int
    examples: tuple[Contradiction, ...]


class ShortAnswers(Record):
    """Answers of at most 2 characters where half of all have more than 20; the first 100 lines."""

    records: int
    lines: tuple[int, ...]


class LabelClass(Record):
    """An answer that many records give."""

    label: str
    records: int


class LanguageCount(Record):
    """Records in a language: its ISO 639 code, or "und" where it cannot be told."""

    language: str
    records: int


class Languages(Record):
    """The languages of a sample, the most frequent first; 20 at most."""

    sampled: int
    counts: tuple[LanguageCount, ...]


class ScriptCount(Record):
    """Letters in a script, by the name that Unicode's character names begin with: "Latin"."""

    script: str
    letters: int


class DatasetReport(Record):
    """What one dataset is like.

    `compared` records were looked at for duplicates and contradictions: the first 2^20.
    `labels` are the classes of answers, the largest first, or () where they form none.
    """

    records: int
    compared: int
    prompts: Lengths
    answers: Lengths
    duplicates: Duplicates
    near_duplicates: NearDuplicates
    contradictions: Contradictions
    short_answers: ShortAnswers
    labels: tuple[LabelClass, ...]
    languages: Languages
    scripts: tuple[ScriptCount, ...]

    @property
    def duplicate_share(self) -> float:
        """The part of the compared records that repeat another."""
        return self.duplicates.surplus / max(self.compared, 1)

    @property
    def near_duplicate_share(self) -> float:
        """The part of the compared records that are almost as another."""
        return self.near_duplicates.found / max(self.near_duplicates.compared, 1)

    @property
    def contradiction_share(self) -> float:
        """The part of the compared records whose question has several answers."""
        return self.contradictions.records / max(self.compared, 1)

    @property
    def label_share(self) -> float:
        """The part of the records that the largest class has; 0 without classes."""
        return self.labels[0].records / max(self.records, 1) if self.labels else 0.0
