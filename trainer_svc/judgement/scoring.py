"""Every metric of one candidate's answers, record by record, and what a bootstrap makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer_svc.judgement.bootstrap import FloatArray
from trainer_svc.judgement.graders import grade, lacking
from trainer_svc.judgement.json_answers import field_accuracy, json_validity
from trainer_svc.judgement.json_schema import JsonSchema
from trainer_svc.judgement.kinds import GRADER_PREFIX
from trainer_svc.judgement.labels import NO_CLASS, Classes, macro_f1
from trainer_svc.judgement.metrics import TEXT_METRICS, Text, phrases
from trainer_svc.judgement.model import Answer, AnswerKind, Candidate, EvaluationSpec, HeldOut

_Score = Callable[[HeldOut, Text, Text], float]
"""Of a record, its expected answer, and what is said."""


@dataclass(frozen=True)
class Scores:
    """One metric of one candidate, and a statistic of it: from draws, [draws, records], to figures.

    The statistic is the mean of `values`, [records]; for macro F1, whose `values` are the right
    classes, it is made again from the `classes` (expected, answered) that a draw holds. A record
    that cannot be measured is nan, for every candidate alike: no statistic holds with it.
    """

    values: FloatArray
    classes: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def taken(self, places: Sequence[int]) -> Scores:
        """Return the scores of some of the records."""
        at = np.asarray(places, dtype=np.int64)
        if self.classes is None:
            return Scores(self.values[at])
        return Scores(self.values[at], (self.classes[0][at], self.classes[1][at]))

    def __call__(self, weights: FloatArray) -> FloatArray:
        """Return the figure of each draw."""
        if self.classes is not None:
            return macro_f1(*self.classes)(weights)
        means: FloatArray = weights @ self.values / weights.sum(axis=1)
        return means

    @property
    def measured(self) -> list[int]:
        """Where the records stand that are measured."""
        places: list[int] = np.flatnonzero(~np.isnan(self.values)).tolist()
        return places

    @property
    def figure(self) -> float:
        """The figure over all records, each once."""
        return float(self(np.ones((1, len(self.values))))[0])


class Scorer:
    """The metrics that are measured of answers of this kind, and their scores."""

    def __init__(
        self,
        spec: EvaluationSpec,
        kind: AnswerKind,
        primary: str,
        classes: Classes,
        schema: JsonSchema | None,
    ) -> None:
        self._spec = spec
        self._classes = classes
        self._schema = schema
        self._graders = {GRADER_PREFIX + grader.name: grader for grader in spec.graders}
        names = ["exact_match", "token_f1"]
        if kind in (AnswerKind.SUMMARY, AnswerKind.TEXT):
            names.append("rouge_l")
        if kind is AnswerKind.LABELS:
            names += ["label_accuracy", "macro_f1"]
        if kind is AnswerKind.JSON:
            names += ["json_validity", "field_accuracy"]
        if spec.required_phrases or spec.forbidden_phrases:
            names.append("phrases")
        self.names = tuple(dict.fromkeys([*names, *self._graders, primary]))
        self._functions = {name: self._function(name) for name in self.names}

    def scores(
        self, held_out: Sequence[HeldOut], answers: Mapping[Candidate, Sequence[Answer]]
    ) -> dict[Candidate, dict[str, Scores]]:
        """Return each metric's scores of each candidate's answers, in the order of the records.

        A text is cut into words once, and its words are not kept: they may be many.
        """
        blank = self._blank(held_out)
        values = {
            candidate: {name: zeros.copy() for name, zeros in blank.items()}
            for candidate in answers
        }
        for place, record in enumerate(held_out):
            expected = Text(record.expected)
            for candidate, given in answers.items():
                if not given[place].broken:
                    self._score(values[candidate], place, record, expected, given[place])
        return {
            candidate: {
                name: self._scores(name, values[candidate][name], held_out, given)
                for name in self.names
            }
            for candidate, given in answers.items()
        }

    def _blank(self, held_out: Sequence[HeldOut]) -> dict[str, FloatArray]:
        """Return 0, which broken answers keep; nan of graders whose fields a record lacks."""
        blank = {name: np.zeros(len(held_out)) for name in self.names}
        for name, grader in self._graders.items():
            without = [place for place, r in enumerate(held_out) if lacking(grader, r.metadata)]
            blank[name][without] = np.nan
        return blank

    def _score(
        self,
        values: Mapping[str, FloatArray],
        place: int,
        record: HeldOut,
        expected: Text,
        answer: Answer,
    ) -> None:
        said = Text(answer.text)
        for name, score in self._functions.items():
            if np.isnan(values[name][place]):
                continue
            values[name][place] = score(record, expected, said)

    def _scores(
        self,
        name: str,
        values: FloatArray,
        held_out: Sequence[HeldOut],
        answers: Sequence[Answer],
    ) -> Scores:
        if name != "macro_f1":
            return Scores(values)
        expected = [self._classes.index(record.expected) for record in held_out]
        answered = [self._class(answer) for answer in answers]
        return Scores(values, (np.asarray(expected, np.int64), np.asarray(answered, np.int64)))

    def _class(self, answer: Answer) -> int:
        return NO_CLASS if answer.broken else self._classes.index(answer.text)

    def _function(self, name: str) -> _Score:
        if name in self._graders:
            return lambda record, _, said: self._grade(name, record, said.text)
        if name in TEXT_METRICS:
            metric = TEXT_METRICS[name]
            return lambda _, expected, said: metric(expected, said)
        spec, schema = self._spec, self._schema
        return {
            "label_accuracy": self._is_right_class,
            "macro_f1": self._is_right_class,
            "json_validity": lambda r, _, said: json_validity(r.expected, said.text, schema),
            "field_accuracy": lambda r, _, said: field_accuracy(r.expected, said.text),
            "phrases": lambda _, __, said: phrases(
                said, spec.required_phrases, spec.forbidden_phrases
            ),
        }[name]

    def _is_right_class(self, record: HeldOut, _: Text, said: Text) -> float:
        return float(self._classes.index(record.expected) == self._classes.index(said.text))

    def _grade(self, name: str, record: HeldOut, text: str) -> float:
        return grade(
            self._graders[name],
            output_text=text,
            expected=record.expected,
            prompt=record.prompt,
            metadata=record.metadata,
        )
