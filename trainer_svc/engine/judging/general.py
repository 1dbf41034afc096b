"""What a tuned adapter leaves of its base's general ability, on the operator's own data."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from trainer_svc.datasets.general import GeneralData
from trainer_svc.engine.base import Base
from trainer_svc.engine.generation.greedy import generate
from trainer_svc.engine.generation.prompts import Prompt
from trainer_svc.engine.judging.questions import Asker, Question, Questions
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.judgement.metrics import exact_match
from trainer_svc.judgement.model import Retention
from trainer_svc.judgement.retention import retention_of

_TEXT_TOKENS = 256
"""Of a text at most so many are read."""


@dataclass(frozen=True)
class _Figures:
    """Mean loss of each text, in nats per token, and whether each question was answered right."""

    losses: Sequence[float]
    right: Sequence[bool]


class General:
    """Texts and questions in one base's tokens. The base's own figures are computed once."""

    def __init__(self, data: GeneralData, base: Base) -> None:
        tokenizer = base.tokenizer
        encoded = (tokenizer(text)["input_ids"][:_TEXT_TOKENS] for text in data.texts)
        self._texts = [torch.tensor(ids) for ids in encoded if len(ids) > 1]
        self._asker = Asker(tokenizer, data.format, base.context)
        self._questions: Questions | None = None
        if data.questions:
            asked = {
                line: self._asker.up_to_answer(record) for line, record in data.questions.items()
            }
            self._questions = self._asker.questions(asked, [])
        self._base: _Figures | None = None

    def retention(
        self, bank: AdapterBank, job: str, micro_tokens: int
    ) -> Generator[None, None, Retention]:
        """Return what the job's adapter, which is trained no more, leaves; in pieces."""
        before = self._base
        if before is None:
            before = self._base = _Figures(
                (yield from self._losses(bank, None, micro_tokens)),
                (yield from self._right(bank, None, micro_tokens, self._asked)),
            )
        losses = yield from self._losses(bank, job, micro_tokens)
        # What the base gets wrong cannot be forgotten, and is not asked again.
        known = [
            question for question, right in zip(self._asked, before.right, strict=True) if right
        ]
        still = iter((yield from self._right(bank, job, micro_tokens, known)))
        return retention_of(
            before.losses,
            losses,
            [len(text) - 1 for text in self._texts],
            before.right,
            [right and next(still) for right in before.right],
        )

    @property
    def _asked(self) -> Sequence[Question]:
        return () if self._questions is None else self._questions.all

    def _losses(
        self, bank: AdapterBank, job: str | None, micro_tokens: int
    ) -> Generator[None, None, list[float]]:
        losses: list[float] = []
        for start in range(0, len(self._texts), most := max(1, micro_tokens // _TEXT_TOKENS)):
            texts = self._texts[start : start + most]
            losses += [-float(each.mean()) for each in bank.logprobs(texts, job=job)]
            yield
        return losses

    def _right(
        self,
        bank: AdapterBank,
        job: str | None,
        micro_tokens: int,
        asked: Sequence[Question],
    ) -> Generator[None, None, list[bool]]:
        questions = self._questions
        if questions is None or not asked:
            return []
        answers = yield from generate(
            bank,
            [Prompt(each.asked, job, questions.max_new_tokens) for each in asked],
            stop_ids=questions.stop_ids,
            micro_tokens=micro_tokens,
        )
        return [
            exact_match(each.expected, self._asker.text(answer.token_ids)) == 1.0
            for each, answer in zip(asked, answers, strict=True)
        ]
