"""From an assignment to data that can be trained on, with every choice made."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from tailorbird.errors import FailedPrecondition
from tailorbird.manifest import RenderedChat
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.chosen import Chosen, choose
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.data.hyperparameters import Choice, resolve, sequence_limit
from trainer_svc.engine.data.leaks import NOTHING_LEAKED, Leaked, Leaks
from trainer_svc.engine.data.prepare import prepare, prepared, split
from trainer_svc.engine.data.template import TEXT
from trainer_svc.engine.data.tokens import TokenDataset
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.jobs.data_account import check_too_long
from trainer_svc.jobs.events import DataReport, EventPayload, JobWarning, Prepared
from trainer_svc.jobs.held_out import (
    ENOUGH_RECORDS,
    NO_ANSWERS,
    no_validation,
    none_held_out,
    none_left,
    too_few,
)
from trainer_svc.jobs.model import DataPolicy, Hyperparameters, LoraSpec, TooLong
from trainer_svc.judgement.decision import MIN_RECORDS
from trainer_svc.protocol import Assignment, DatasetRef

Read = tuple[TokenDataset, DataReport]

_HELD_OUT = 0.1
_LEAST_HELD_OUT, _MOST_HELD_OUT = 10, 200


class PreparedFor(Protocol):
    """A base, as far as the preparation of data knows it."""

    @property
    def tokenizer(self) -> Any:
        """What its texts become ids with."""

    @property
    def token_ids(self) -> int:
        """How many ids it has."""

    @property
    def context(self) -> int:
        """Its longest sequence, in tokens."""

    @property
    def hidden_size(self) -> int:
        """Its width."""

    @property
    def why_alone(self) -> str:
        """Why each record is run by itself; empty where that is not so, or not known."""


@dataclass(frozen=True)
class Preparation:
    """The examples of one job and how it is trained on them."""

    training: TokenDataset
    validation: TokenDataset | tuple[()]
    training_report: DataReport
    validation_report: DataReport | None
    choice: Choice
    chosen: Chosen
    """What the result is judged on."""
    warnings: Sequence[JobWarning]
    chats: Sequence[RenderedChat]
    """Some of the training file's, for the certificate."""
    draw: str = ""
    """Another where others are held out, though the job is the same; "": drawn from all."""

    def told(self, trainable_parameters: int) -> list[EventPayload]:
        """Return what the job's history says of it."""
        prepared = Prepared(
            training=self.training_report,
            validation=self.validation_report,
            hyperparameters=self.choice.hyperparameters,
            reasons=self.choice.reasons,
            total_steps=self.choice.plan.total_steps,
            trainable_parameters=trainable_parameters,
        )
        return [prepared, *self.warnings]


class Preparer:
    """Prepares the data of a worker's jobs, beside the event loop and the step thread.

    `cache` holds what was tokenised before; what is not there is made of the dataset's file.
    `apart`: see `prepare`.
    """

    def __init__(
        self, base: PreparedFor, files: DatasetFiles, cache: DatasetCache, *, apart: bool = True
    ) -> None:
        self._base = base
        self._files = files
        self._leaks = Leaks(files)
        self._cache = cache
        self._apart = apart

    async def prepare(self, assignment: Assignment, folder: Path) -> Preparation:
        """Read the job's data and resolve what it left open.

        Raises NotFound (DATASET_NOT_FOUND), StoreUnavailable, and what reading the data and
        check_too_long raise, and FailedPrecondition (NO_VALIDATION_DATA) for early stopping
        without validation data.
        """
        asked = assignment.hyperparameters.max_sequence_length
        limit = sequence_limit(asked, self._base.context)
        training = await self._read(assignment.training, assignment.data, limit, folder)
        validation: Read | None = None
        leaked = NOTHING_LEAKED
        if assignment.validation is not None:
            validation = await self._read(assignment.validation, assignment.data, limit, folder)
            leaked = await self._leaks.between(
                assignment.training, assignment.validation, assignment.ancestors
            )
        elif assignment.hold_out or assignment.validation_fraction is not None:
            leaked = await self._leaks.within(assignment.training, assignment.ancestors)
        return await in_thread(lambda _: self._chosen(assignment, training, validation, leaked))

    def varied(self, data: Preparation, lora: LoraSpec, asked: Hyperparameters) -> Preparation:
        """Return the same data, trained on in another way. `asked` has the same seed."""
        choice = resolve(
            asked,
            data.choice.plan.lengths,
            lora=lora,
            hidden_size=self._base.hidden_size,
            context=self._base.context,
        )
        return replace(data, choice=choice)

    def _chosen(
        self, assignment: Assignment, training: Read, validation: Read | None, leaked: Leaked
    ) -> Preparation:
        asked, seed = assignment.hyperparameters, assignment.hyperparameters.seed or 0
        draw = ""
        if validation is None:
            seen = leaked.inherited
            training, validation, draw = _held_out(assignment, training, seed, seen)
            leaked = _with_other_draws(assignment, validation, leaked)
        if validation is None and asked.early_stopping_patience:
            raise no_validation(
                "early stopping looks at the loss",
                training[1].kept,
                hold_out=assignment.hold_out,
            )
        choice = resolve(
            asked,
            training[0].lengths,
            lora=assignment.lora,
            hidden_size=self._base.hidden_size,
            context=self._base.context,
        )
        held_out = ((), None) if validation is None else validation
        chosen = _judged(assignment, training, validation, leaked)
        return Preparation(
            training=training[0],
            validation=held_out[0],
            training_report=training[1],
            validation_report=held_out[1],
            choice=choice,
            chosen=chosen,
            warnings=(
                *_of_base(self._base),
                *choice.warnings,
                *_not_promoted(assignment, chosen),
            ),
            chats=training[0].chats,
            draw=draw,
        )

    async def _read(self, ref: DatasetRef, policy: DataPolicy, limit: int, folder: Path) -> Read:
        read = await self._tokenised(ref, limit, folder, policy.too_long is TooLong.TRUNCATE)
        check_too_long(read[1], policy, limit, ref.name)
        return read

    async def _tokenised(self, ref: DatasetRef, limit: int, folder: Path, truncate: bool) -> Read:
        tokenizer, rows = self._base.tokenizer, self._base.token_ids
        found = await in_thread(
            lambda _: prepared(ref, tokenizer, limit, self._cache, rows=rows, truncate=truncate)
        )
        if found is not None:
            return found
        file = await self._files.file(ref, folder)
        return await in_thread(
            lambda stop: prepare(
                file.path,
                ref,
                tokenizer,
                limit,
                self._cache,
                stop,
                rows=rows,
                truncate=truncate,
                apart=self._apart,
            )
        )


def _held_out(
    assignment: Assignment, training: Read, seed: int, seen: npt.NDArray[np.int64]
) -> tuple[Read, Read | None, str]:
    """Split the training records where that is asked for, or needed and possible.

    Not of the lines `seen`, where nobody says what share it shall be and there are enough others.
    Returns also what tells this draw from one of all records.
    """
    records, rather_not = training[1].kept, None
    unseen = int((~np.isin(np.unique(training[0].lines), seen)).sum())
    if assignment.validation_fraction is None and ENOUGH_RECORDS <= unseen < records:
        records, rather_not = unseen, seen
    share = _share(assignment, records)
    if share is None:
        return training, None, ""
    fraction, least = share
    try:
        kept, held, kept_report, held_report = split(
            *training, fraction, seed, least=least, rather_not=rather_not
        )
    except FailedPrecondition:
        if assignment.validation_fraction is None:
            # Nobody asked for it: records that are all the same have none to spare.
            return training, None, ""
        raise
    draw = "" if rather_not is None else hashlib.sha256(np.unique(held.lines).tobytes()).hexdigest()
    return (kept, kept_report), (held, held_report), draw


def _share(assignment: Assignment, records: int) -> tuple[float, int] | None:
    """Return which share of the records is held out, and how many at least; None if none is."""
    if assignment.validation_fraction is not None:
        return assignment.validation_fraction, 1
    if not assignment.hold_out or records < ENOUGH_RECORDS:
        return None
    return min(_HELD_OUT, _MOST_HELD_OUT / records), _LEAST_HELD_OUT


def _with_other_draws(assignment: Assignment, held_out: Read | None, leaked: Leaked) -> Leaked:
    """Leave no held-out record to be judged on if one of the versions before was trained on some.

    Which it held out of the same data is drawn by the seed: the same where their number and the
    seed are, and neither of both saw other data of which that has a part. A seed that is not known
    is taken for the same.
    """
    if held_out is None:
        return leaked
    lines, report = held_out[0].lines, held_out[1]
    seed = assignment.hyperparameters.seed or 0
    others_since = False
    for one in assignment.ancestors:
        if one.sha256 != assignment.training.sha256:
            others_since = leaked.inherited.size > 0
            continue
        same = one.held_out_records == report.records and one.seed in (seed, None)
        if others_since or not same:
            return replace(leaked, inherited=np.unique(lines))
    return leaked


def _judged(
    assignment: Assignment, training: Read, validation: Read | None, leaked: Leaked
) -> Chosen:
    """Choose what the version is judged on, and say why if it is nothing."""
    lines = np.empty(0, np.int64) if validation is None else validation[0].lines
    seed, most = assignment.hyperparameters.seed or 0, assignment.evaluation.max_records
    chosen = choose(training[0].lines, lines, most, seed, leaked)
    unjudged = None
    if (assignment.validation or assignment.training).format == TEXT:
        unjudged = NO_ANSWERS
    elif validation is None:
        unjudged = none_held_out(training[1].kept)
    elif not chosen.held_out:
        unjudged = none_left(chosen.leaked)
    return replace(chosen, unjudged=unjudged)


def _not_promoted(assignment: Assignment, chosen: Chosen) -> Sequence[JobWarning]:
    """Say before anything is trained that nothing will be promoted by itself."""
    if not assignment.hold_out or not assignment.evaluation.max_records:
        return ()
    if chosen.unjudged is not None:
        return (chosen.unjudged,)
    if len(chosen.held_out) < MIN_RECORDS:
        return (too_few(len(chosen.held_out), chosen.leaked),)
    return ()


def _of_base(base: PreparedFor) -> Sequence[JobWarning]:
    if not base.why_alone:
        return ()
    return (
        JobWarning(
            reason="BASE_LEAKS",
            message=f"this base is trained one record at a time: {base.why_alone}. The result is "
            "exact; steps of many short records take longer than on a base that packs them",
        ),
    )
