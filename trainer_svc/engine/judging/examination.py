"""The examination of a tuned adapter: every candidate answers the held-out records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tailorbird.object_store import ObjectStore
from trainer_svc.engine.data.chosen import Chosen
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.elsewhere import finished, in_thread
from trainer_svc.engine.generation.greedy import generate
from trainer_svc.engine.generation.likelihood import score
from trainer_svc.engine.generation.prompts import Generated, Prompt
from trainer_svc.engine.judging.questions import Asker
from trainer_svc.engine.judging.reading import Material, material
from trainer_svc.engine.judging.records import check_judged, judged_records
from trainer_svc.engine.judging.references import References
from trainer_svc.engine.judging.routed import Routed, attach, routed_version
from trainer_svc.engine.judging.screening import Screened
from trainer_svc.engine.parent import Shapes
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.model import LoraSpec
from trainer_svc.judgement.judge import Evidence, judge_answers
from trainer_svc.judgement.model import Answer, Candidate, HeldOut, Judgement, Retention
from trainer_svc.protocol import Assignment, DatasetRef

T = TypeVar("T")


class Device(Protocol):
    """The step thread, as far as an examination needs it."""

    async def on_step_thread(self, action: Callable[[], T]) -> T:
        """Run `action` between two passes."""

    async def pieces(self, work: Generator[None, None, T]) -> T:
        """Run `work` piece by piece, under a share of the device."""


@dataclass(frozen=True)
class Answers:
    """What all candidates gave, each in the order of the questions."""

    generated: Mapping[Candidate, Sequence[Generated]]
    swapped: Sequence[Generated]
    label_logprobs: Mapping[Candidate, npt.NDArray[np.float64]]
    retention: Retention | None


@dataclass(frozen=True)
class Examiner:
    """Examines one job's adapter, which is attached to `bank` under its job and trained no more.

    `folder` is the job's own; a dataset's file is downloaded there.
    """

    bank: AdapterBank
    store: ObjectStore
    files: DatasetFiles
    device: Device
    assignment: Assignment
    chosen: Chosen
    references: References
    screened: Screened
    """What was found in the training data before training."""
    folder: Path
    micro_tokens: int

    async def check(self) -> None:
        """Raise what `check_judged` does; before anything is trained."""
        base = self.bank.base
        await check_judged(
            self.files, self.assignment, self.chosen, self.folder, base.tokenizer, base.context
        )

    async def examine(self) -> tuple[Judgement, Routed]:
        """Return the judgement, and where the adapter's traffic went when it was made.

        Raises NotFound (DATASET_NOT_FOUND), StoreUnavailable, DataCorrupt, InvalidArgument for what
        cannot be measured of such answers, and FailedPrecondition (OUT_OF_MEMORY) where a question
        does not fit into the device's memory.
        """
        found = await self._material()
        routed = await routed_version(self.store, self.assignment, self._shapes)
        try:
            if routed.weights is not None:
                await self.device.on_step_thread(lambda: attach(self.bank, self._beside, routed))
            answers = await self.device.pieces(self._answers(found, routed))
        finally:
            await self._detached()
        judgement = await in_thread(lambda _: self._judged(found, answers, routed))
        notes = (*judgement.notes, *self._left_out(judgement.records))
        return judgement.model_copy(update={"notes": notes}), routed

    def _left_out(self, records: int) -> Iterator[str]:
        """Say what was held out and is not judged on, or perhaps should not be."""
        drawn = len(self.chosen.held_out)
        if records != drawn:
            yield f"{records} of {drawn} held-out records were answered: the others are long"
        if self.chosen.leaked:
            yield self.chosen.leaked
        if self.chosen.unknown:
            yield (
                "it is not known of all held-out records whether training has asked the same: "
                f"{self.chosen.unknown}"
            )
        if self.screened.note:
            yield self.screened.note

    async def _detached(self) -> None:
        """Take the routed version off, also where the job is cancelled while that waits its turn.

        Nobody else knows of it: it would stay until the worker's end.
        """
        detach = self.device.on_step_thread(lambda: self.bank.detach(self._beside))
        await finished(asyncio.ensure_future(detach), lambda: None)

    @property
    def _beside(self) -> str:
        """What the routed version is attached as."""
        return f"{self.assignment.lease.job}/routed"

    @property
    def _seed(self) -> int:
        return self.assignment.hyperparameters.seed or 0

    async def _material(self) -> Material:
        assignment = self.assignment
        held_out, training = await judged_records(self.files, assignment, self.chosen, self.folder)
        return await in_thread(
            lambda _: material(
                held_out,
                training,
                self._asker(assignment.validation or assignment.training),
                self._asker(assignment.training),
                assignment.evaluation,
                self.references.screen,
                self._seed,
            )
        )

    def _asker(self, ref: DatasetRef) -> Asker:
        return Asker(self.bank.base.tokenizer, ref.format, self.bank.base.context)

    async def _shapes(self, lora: LoraSpec) -> Shapes:
        return await self.device.on_step_thread(lambda: self.bank.shapes(lora))

    def _answers(self, found: Material, routed: Routed) -> Generator[None, None, Answers]:
        """Have every candidate answer every question, all in one batch."""
        questions, job = found.questions, self.assignment.lease.job
        most = questions.max_new_tokens
        asked = {
            Candidate.TUNED: [Prompt(each.asked, job, most) for each in questions.all],
            Candidate.BASE: [Prompt(each.asked, None, most) for each in questions.all],
        }
        if questions.examples:
            asked[Candidate.FEW_SHOT] = [Prompt(each.shown, None, most) for each in questions.all]
        if routed.weights is not None:
            beside = self._beside
            asked[Candidate.ROUTED] = [Prompt(each.asked, beside, most) for each in questions.all]
        swapped = [Prompt(ids, job, most) for ids in found.swapped_ids]
        generated = yield from generate(
            self.bank,
            [prompt for prompts in (*asked.values(), swapped) for prompt in prompts],
            stop_ids=questions.stop_ids,
            micro_tokens=self.micro_tokens,
        )
        count = len(questions.all)
        logprobs = {}
        if found.label_ids:
            for candidate, prompts in asked.items():
                scores = yield from score(
                    self.bank, prompts, found.label_ids, micro_tokens=self.micro_tokens
                )
                logprobs[candidate] = scores.double().numpy()
        retention: Retention | None = None
        if self.references.general is not None:
            retention = yield from self.references.general.retention(
                self.bank, job, self.micro_tokens
            )
        return Answers(
            generated={
                candidate: generated[place * count : (place + 1) * count]
                for place, candidate in enumerate(asked)
            },
            swapped=generated[len(asked) * count :],
            label_logprobs=logprobs,
            retention=retention,
        )

    def _judged(self, found: Material, answers: Answers, routed: Routed) -> Judgement:
        asker = self._asker(self.assignment.validation or self.assignment.training)

        def said(generated: Sequence[Generated]) -> list[Answer]:
            return [
                Answer(
                    text=asker.text(each.token_ids), unfinished=each.truncated, broken=each.broken
                )
                for each in generated
            ]

        evidence = Evidence(
            label_logprobs=answers.label_logprobs,
            labels=found.labels,
            swapped_prompts=found.swapped,
            swapped_answers=said(answers.swapped),
            retention=answers.retention,
            screen=self.references.screen,
            data_findings=(*self.screened.findings, *found.findings),
            few_shot_examples=found.questions.examples,
            few_shot_reason=found.few_shot_reason,
            versions={Candidate.ROUTED: str(routed.version)},
            leaked=self.chosen.leaked,
        )
        return judge_answers(
            self.assignment.evaluation,
            [
                HeldOut(
                    line=each.line,
                    prompt=each.prompt,
                    expected=each.expected,
                    metadata=each.metadata,
                )
                for each in found.questions.all
            ],
            found.training_answers,
            {candidate: said(given) for candidate, given in answers.generated.items()},
            evidence,
            seed=self._seed,
        )
