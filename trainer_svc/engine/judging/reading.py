"""What a job is examined on: its held-out records and examples, read from the datasets' files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer_svc.engine.data.template import messages_of
from trainer_svc.engine.judging.questions import Asker, Questions
from trainer_svc.judgement.counterfactuals import SwappedPrompt, swap_prompts
from trainer_svc.judgement.few_shot import Example, choose_examples, few_shot_reason
from trainer_svc.judgement.kinds import kind_of
from trainer_svc.judgement.labels import Classes
from trainer_svc.judgement.model import AnswerKind, EvaluationSpec, SafetyFinding
from trainer_svc.judgement.safety import SafetyScreen

Records = Mapping[int, Mapping[str, Any]]

_UNLIKE = "the training data is of another format than the validation data"


@dataclass(frozen=True)
class Material:
    """Everything about the data that is known before the first answer."""

    questions: Questions
    training_answers: Sequence[str]
    few_shot_reason: str
    labels: Sequence[str]
    """Classes of the answers; () where they form none, or one alone."""
    label_ids: Sequence[tuple[int, ...]]
    """What each label is as an answer."""
    swapped: Sequence[SwappedPrompt]
    swapped_ids: Sequence[tuple[int, ...]]
    findings: Sequence[SafetyFinding]
    """What the screen finds in the held-out answers."""


def material(
    held_out: Records,
    training: Records,
    held_out_asker: Asker,
    training_asker: Asker,
    spec: EvaluationSpec,
    screen: SafetyScreen | None,
    seed: int,
) -> Material:
    """Make questions of the records, in the order of their lines. Raises what Asker raises."""
    held_out = {line: held_out_asker.up_to_answer(each) for line, each in held_out.items()}
    # Examples of another kind than the questions are none, and plain text has no answers.
    alike = training_asker.kind == held_out_asker.kind
    training = (
        {line: training_asker.up_to_answer(each) for line, each in training.items()}
        if alike
        else {}
    )
    pairs = [held_out_asker.pair(held_out[line]) for line in sorted(held_out)]
    pool = [
        Example(line, *training_asker.pair(record)) for line, record in sorted(training.items())
    ]
    answers = [example.answer for example in pool]
    expected = [answer for _, answer in pairs]
    kind = kind_of([prompt for prompt, _ in pairs], expected, answers)
    examples = choose_examples(
        pool,
        (prompt for prompt, _ in pairs),
        spec.few_shot_examples,
        kind=kind,
        seed=seed,
    )
    questions = held_out_asker.questions(held_out, [training[each.line] for each in examples])
    labels = Classes([*expected, *answers]).names if kind is AnswerKind.LABELS else ()
    if len(labels) < 2:
        # Of one label alone everybody is certain.
        labels = ()
    swapped = _swapped(held_out, spec, seed)
    return Material(
        questions=questions,
        training_answers=answers,
        few_shot_reason=("" if alike else _UNLIKE)
        or questions.refusal
        or few_shot_reason(spec.few_shot_examples, len(examples), questions.examples),
        labels=labels,
        label_ids=held_out_asker.labels(held_out[min(held_out)], labels),
        swapped=swapped,
        swapped_ids=[
            held_out_asker.prompt_ids(_with(held_out[each.line], each.messages), each.line)
            for each in swapped
        ],
        findings=[] if screen is None else screen.scan("validation", sorted(held_out), expected),
    )


def _swapped(held_out: Records, spec: EvaluationSpec, seed: int) -> list[SwappedPrompt]:
    if not spec.counterfactuals:
        return []
    prompts = [(line, asked_messages(held_out[line])) for line in sorted(held_out)]
    return swap_prompts(prompts, spec.counterfactuals, seed=seed)


def asked_messages(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the messages of a record's last question."""
    if "messages" not in record:
        return [{"role": "user", "content": record["prompt"]}]
    return messages_of(record)[:-1]


def _with(record: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the record with another question."""
    if "messages" not in record:
        return {**record, "prompt": asked[0]["content"]}
    return {**record, "messages": [*asked, messages_of(record)[-1]]}
