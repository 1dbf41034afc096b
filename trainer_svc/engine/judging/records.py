"""The records that a version is judged on, read again from the datasets' files, and their answers.

No torch is imported: what only looks at data asks the same of it as what judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tailorbird.errors import InvalidArgument
from trainer_svc.engine.data.chosen import Chosen, read_records
from trainer_svc.engine.data.files import DatasetFiles
from trainer_svc.engine.data.template import TEXT
from trainer_svc.engine.elsewhere import in_thread
from trainer_svc.engine.judging.questions import Asker, metadata_of
from trainer_svc.engine.judging.reading import Records, asked_messages
from trainer_svc.judgement.check import FIELD, check_answers
from trainer_svc.judgement.counterfactuals import swap_prompts
from trainer_svc.judgement.graders import is_blank, metadata_keys
from trainer_svc.judgement.interchangeable import DEFAULT
from trainer_svc.judgement.model import EvaluationSpec
from trainer_svc.protocol import Assignment, DatasetRef

_SAID = 10
_MAX_NAME = 64


async def judged_records(
    files: DatasetFiles, assignment: Assignment, chosen: Chosen, folder: Path
) -> tuple[Records, Records]:
    """Return the held-out records and those to draw examples from; of each as `read_records` says.

    A dataset's file is downloaded into `folder` where it must be. Raises what `DatasetFiles.file`
    does.
    """

    async def read(
        ref: DatasetRef, lines: tuple[int, ...], sample: tuple[int, ...] = ()
    ) -> Records:
        file = await files.file(ref, folder)
        return await in_thread(lambda _: read_records(file.path, lines, sample))

    if assignment.validation is not None:
        held_out = await read(assignment.validation, chosen.held_out)
        return held_out, await read(assignment.training, (), chosen.training)
    every = await read(assignment.training, chosen.held_out, chosen.training)
    return (
        {line: every[line] for line in chosen.held_out if line in every},
        {line: every[line] for line in chosen.training if line in every},
    )


async def check_judged(
    files: DatasetFiles,
    assignment: Assignment,
    chosen: Chosen,
    folder: Path,
    tokenizer: Any,
    context: int,
) -> None:
    """Raise InvalidArgument if the records have not what the job names to be judged by.

    That is its primary metric, a schema which none of them meets (see `check_answers`), a field of
    its slices or graders that no held-out record has (UNKNOWN_SLICE_FIELD, UNKNOWN_GRADER_FIELD),
    or words to be swapped that no prompt has (WORDS_IN_NO_PROMPT). Raises also what reading the
    records does.
    """
    spec = assignment.evaluation
    of_answers = spec.primary_metric or spec.json_schema
    of_records = spec.slice_fields or spec.graders or spec.counterfactuals
    if not chosen.held_out or not (of_answers or of_records):
        return
    held_out, training = await judged_records(files, assignment, chosen, folder)
    _check_metadata(spec, held_out)
    asked, shown = (
        Asker(tokenizer, ref.format, context)
        for ref in (assignment.validation or assignment.training, assignment.training)
    )
    if asked.kind != TEXT:
        await in_thread(lambda _: _check_words(spec, held_out, asked))
    if not of_answers:
        return
    if asked.kind == TEXT:
        raise InvalidArgument(FIELD, "plain text has no answers that a metric could measure")
    await in_thread(lambda _: _check_answers(spec, held_out, training, asked, shown))


def _check_answers(
    spec: EvaluationSpec, held_out: Records, training: Records, asked: Asker, shown: Asker
) -> None:
    pairs = [asked.pair(asked.up_to_answer(each)) for each in held_out.values()]
    alike = training.values() if shown.kind == asked.kind else ()
    answers = [shown.pair(shown.up_to_answer(each))[1] for each in alike]
    check_answers(spec, [one for one, _ in pairs], [one for _, one in pairs], answers)


def _check_words(spec: EvaluationSpec, held_out: Records, asked: Asker) -> None:
    prompts = [
        (line, asked_messages(asked.up_to_answer(record))) for line, record in held_out.items()
    ]
    for index, words in enumerate(spec.counterfactuals):
        # Which of ours the prompts have is for the judgement to find out.
        if tuple(words) == (DEFAULT,) or swap_prompts(prompts, [words], most=1):
            continue
        raise InvalidArgument(
            f"{FIELD}.counterfactuals[{index}]",
            f"none of the {len(prompts)} held-out prompts has one of the words {', '.join(words)}",
            reason="WORDS_IN_NO_PROMPT",
        )


def _check_metadata(spec: EvaluationSpec, held_out: Records) -> None:
    known: dict[str, None] = {}
    for record in held_out.values():
        said = metadata_of(record).items()
        known.update(dict.fromkeys(key for key, value in said if not is_blank(value)))
    for place, key, reason in _metadata_asked(spec):
        if key in known:
            continue
        names = ", ".join(name[:_MAX_NAME] for name in list(known)[:_SAID])
        raise InvalidArgument(
            f"{FIELD}.{place}",
            f"none of the {len(held_out)} held-out records has metadata.{key[:_MAX_NAME]}; "
            + (f"there are {names}" if known else "they have no metadata"),
            reason=reason,
        )


def _metadata_asked(spec: EvaluationSpec) -> Iterator[tuple[str, str, str]]:
    """Yield the place, the key and the error's reason of what records are to have."""
    for index, field in enumerate(spec.slice_fields):
        yield f"slice_fields[{index}]", field, "UNKNOWN_SLICE_FIELD"
    for index, grader in enumerate(spec.graders):
        for part, key in metadata_keys(grader):
            yield f"graders[{index}].{part}", key, "UNKNOWN_GRADER_FIELD"
