"""Every metric of one candidate's answers, record by record, and what a bootstrap makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer_svc.judgement.bootstrap import FloatArray
from trainer_svc.judgement.graders import grade
from trainer_svc.judgement.json_answers import field_accuracy, json_validity
from trainer_svc.judgement.json_schema import JsonSchema
from trainer_svc.judgement.kinds import GRADER_PREFIX
from trainer_svc.judgement.labels import NO_CLASS, Classes, macro_f1
from trainer_svc.judgement.metrics import TEXT_METRICS, phrases
from trainer_svc.judgement.model import Answer, AnswerKind, EvaluationSpec, HeldOut


@dataclass(frozen=True)
class Scores:
    """One metric of one candidate, and a statistic of it: from draws, [draws, records], to figures.

    The statistic is the mean of `values`, [records]; for macro F1, whose `values` are the right
    classes, it is made again from the `classes` (expected, answered) that a draw holds.
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

    def scores(self, held_out: Sequence[HeldOut], answers: Sequence[Answer]) -> dict[str, Scores]:
        """Return each metric's scores of one candidate's answers, in the order of the records."""
        return {name: self._metric(name, held_out, answers) for name in self.names}

    def _metric(self, name: str, held_out: Sequence[HeldOut], answers: Sequence[Answer]) -> Scores:
        if name == "macro_f1":
            expected = [self._classes.index(record.expected) for record in held_out]
            answered = [self._class(answer) for answer in answers]
            classes = np.asarray(expected, np.int64), np.asarray(answered, np.int64)
            return Scores((classes[0] == classes[1]).astype(np.float64), classes)
        score = self._function(name)
        values = [
            0.0 if answer.broken else score(record, answer.text)
            for record, answer in zip(held_out, answers, strict=True)
        ]
        return Scores(np.asarray(values, dtype=np.float64))

    def _class(self, answer: Answer) -> int:
        return NO_CLASS if answer.broken else self._classes.index(answer.text)

    def _function(self, name: str) -> Callable[[HeldOut, str], float]:
        if name in self._graders:
            return lambda record, text: self._grade(name, record, text)
        if name in TEXT_METRICS:
            metric = TEXT_METRICS[name]
            return lambda record, text: metric(record.expected, text)
        spec, schema = self._spec, self._schema
        return {
            "label_accuracy": self._is_right_class,
            "json_validity": lambda r, text: json_validity(r.expected, text, schema),
            "field_accuracy": lambda r, text: field_accuracy(r.expected, text),
            "phrases": lambda _, t: phrases(t, spec.required_phrases, spec.forbidden_phrases),
        }[name]

    def _is_right_class(self, record: HeldOut, text: str) -> float:
        return float(self._classes.index(record.expected) == self._classes.index(text))

    def _grade(self, name: str, record: HeldOut, text: str) -> float:
        return grade(
            self._graders[name],
            output_text=text,
            expected=record.expected,
            prompt=record.prompt,
            metadata=record.metadata,
        )
