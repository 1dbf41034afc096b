"""Records become token ids, a mask of what is trained, and an account of every one of them.

Formats (`DatasetRef.format`) and what serving does with the same input:

- chat: rendered turn by turn with the base's chat template. Each prompt is the template's rendering
  with the assistant's turn opened, tokenised as a whole, as serving does for a chat; the answer
  follows, tokenised by itself, up to and with its end-of-turn token, and only it is trained.
- instruction: a chat of one user message, `instruction` and, if there is one, a blank line and
  `input`, answered by `output`.
- prompt_completion: `prompt` tokenised with the tokenizer's usual special tokens, as serving does
  for a prompt, then `completion` and the end-of-sequence token, which are trained.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2.exceptions import TemplateError

from tailorbird.errors import DataCorrupt, FailedPrecondition
from trainer_svc.jobs.model import DataReport
from trainer_svc.protocol import DatasetRef

_LINES_REPORTED = 100

Message = dict[str, str]
Piece = tuple[list[int], bool]
"""Token ids, and whether they are trained."""


@dataclass(frozen=True)
class Example:
    """One sequence to train on, from line `line` (counted from 1) of its file.

    Both tensors are [tokens]: int64 ids, and whether each is trained; the first never is.
    """

    line: int
    token_ids: torch.Tensor
    trained: torch.Tensor


class RecordTokenizer:
    """Turns records of one format into pieces, with one base's tokenizer and chat template.

    Raises FailedPrecondition if the data needs a chat template and the base has none
    (BASE_HAS_NO_CHAT_TEMPLATE).
    """

    def __init__(self, tokenizer: Any, record_format: str) -> None:
        self._tokenizer = tokenizer
        self._format = record_format
        self._special = tuple(sorted(tokenizer.all_special_tokens, key=len, reverse=True))
        if record_format != "prompt_completion" and not tokenizer.chat_template:
            raise FailedPrecondition(
                "the base model has no chat template; train it on prompt and completion records",
                reason="BASE_HAS_NO_CHAT_TEMPLATE",
            )

    def sequences(self, record: dict[str, Any], line: int) -> list[list[Piece]]:
        """Return the sequences of one record, each a list of pieces; mostly one.

        A chat is one sequence for each assistant turn only where one sequence would differ from
        what serving tokenises. Raises FailedPrecondition for a record of another shape
        (INVALID_RECORD), and if the template's prompt is not the beginning of its rendering with
        the answer (CHAT_TEMPLATE_UNSUPPORTED).
        """
        try:
            if self._format == "prompt_completion":
                return [self._prompt_completion(record)]
            messages = (
                record["messages"] if self._format == "chat" else _instruction_messages(record)
            )
            return self._chat(messages, line)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _invalid(line, f"not a record of format {self._format}") from error
        except TemplateError as error:
            raise _invalid(line, f"the base's chat template refuses it: {error}") from error

    def _prompt_completion(self, record: dict[str, Any]) -> list[Piece]:
        prompt = list(self._tokenizer(record["prompt"])["input_ids"])
        end = self._tokenizer.eos_token_id
        completion = self._ids(record["completion"]) + ([] if end is None else [end])
        return [(prompt, False), (completion, True)]

    def _chat(self, messages: Sequence[Message], line: int) -> list[list[Piece]]:
        turns = [
            self._turn(messages[: index + 1], line)
            for index, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        return self._joined(turns) or [
            [(self._ids(prompt), False), (self._ids(answer), True)] for prompt, answer in turns
        ]

    def _turn(self, messages: Sequence[Message], line: int) -> tuple[str, str]:
        """Return the prompt, and the answer up to and with its end-of-turn token."""
        prompt = self._render(messages[:-1], add_generation_prompt=True)
        whole = self._render(messages, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise FailedPrecondition(
                f"line {line}: the base's chat template opens the assistant's turn differently "
                "when the answer follows, so that answers cannot be told from prompts",
                reason="CHAT_TEMPLATE_UNSUPPORTED",
                line=line,
            )
        answer = whole[len(prompt) :]
        bare = answer.rstrip()
        if bare != answer and bare.endswith(self._special):
            return prompt, bare
        return prompt, answer

    def _joined(self, turns: Sequence[tuple[str, str]]) -> list[list[Piece]] | None:
        """Return one sequence for all turns, or None if serving would tokenise a prompt otherwise.

        A template may also render earlier turns differently from the last one.
        """
        pieces: list[Piece] = []
        ids: list[int] = []
        text = ""
        for prompt, answer in turns:
            if not prompt.startswith(text):
                return None
            between = self._ids(prompt[len(text) :])
            if pieces and ids + between != self._ids(prompt):
                return None
            answered = self._ids(answer)
            pieces += [(between, False), (answered, True)]
            ids += between + answered
            text = prompt + answer
        return [pieces]

    def _render(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def read_examples(
    path: Path, ref: DatasetRef, tokenizer: Any, max_sequence_length: int
) -> tuple[list[Example], DataReport]:
    """Read the JSONL file of `ref` at `path`; return what is kept, and the account of all of it.

    Raises DataCorrupt (DATASET_CORRUPT) if the file is not the one `ref` names, FailedPrecondition
    for a line that cannot be trained on (INVALID_RECORD) or if nothing is kept
    (NO_TRAINABLE_RECORDS).
    """
    _check_digest(path, ref)
    records = RecordTokenizer(tokenizer, ref.format)
    examples: list[Example] = []
    dropped: list[int] = []
    count = 0
    for line, record in _records(path):
        count += 1
        sequences = [_example(pieces, line) for pieces in records.sequences(record, line)]
        if not any(bool(example.trained.any()) for example in sequences):
            raise _invalid(line, "it has no token of an answer to train on")
        if max(len(example.token_ids) for example in sequences) > max_sequence_length:
            dropped.append(line)
        else:
            examples += sequences
    kept = count - len(dropped)
    if not kept:
        raise FailedPrecondition(
            f"all {count} records of {ref.name} are longer than max_sequence_length, "
            f"{max_sequence_length} tokens",
            reason="NO_TRAINABLE_RECORDS",
        )
    return examples, _report(examples, dropped)


def split(
    examples: Sequence[Example], report: DataReport, fraction: float, seed: int
) -> tuple[list[Example], list[Example], DataReport, DataReport]:
    """Hold out `fraction` of the records, at least one on each side.

    Returns training and validation examples and their reports; dropped records stay in the
    training's. FailedPrecondition (NO_TRAINABLE_RECORDS) if there are fewer than two records.
    """
    lines = sorted({example.line for example in examples})
    if len(lines) < 2:
        raise FailedPrecondition(
            "job.spec.validation_fraction needs at least two records that can be trained on",
            reason="NO_TRAINABLE_RECORDS",
        )
    count = min(max(round(len(lines) * fraction), 1), len(lines) - 1)
    held = set(random.Random(f"validation:{seed}").sample(lines, count))  # noqa: S311
    training = [example for example in examples if example.line not in held]
    validation = [example for example in examples if example.line in held]
    trained = _report(training, report.dropped_lines, dropped_count=report.dropped_too_long)
    return training, validation, trained, _report(validation, [])


def _report(
    examples: Sequence[Example], dropped: Sequence[int], *, dropped_count: int | None = None
) -> DataReport:
    kept = len({example.line for example in examples})
    left_out = len(dropped) if dropped_count is None else dropped_count
    trained = sum(int(example.trained.sum()) for example in examples)
    return DataReport(
        records=kept + left_out,
        kept=kept,
        dropped_too_long=left_out,
        dropped_lines=tuple(dropped[:_LINES_REPORTED]),
        trained_tokens=trained,
        masked_tokens=sum(len(example.token_ids) for example in examples) - trained,
    )


def _example(pieces: Sequence[Piece], line: int) -> Example:
    ids = [token for piece, _ in pieces for token in piece]
    trained = torch.tensor([kept for piece, kept in pieces for _ in piece], dtype=torch.bool)
    trained[:1] = False
    return Example(line, torch.tensor(ids, dtype=torch.int64), trained)


def _instruction_messages(record: dict[str, Any]) -> list[Message]:
    question = record["instruction"]
    if record.get("input"):
        question = f"{question}\n\n{record['input']}"
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": record["output"]},
    ]


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                record = json.loads(raw)
            except ValueError as error:
                raise _invalid(line, "not JSON") from error
            if not isinstance(record, dict):
                raise _invalid(line, "not a JSON object")
            yield line, record


def _invalid(line: int, message: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"line {line} of the dataset cannot be trained on: {message}",
        reason="INVALID_RECORD",
        line=line,
    )


def _check_digest(path: Path, ref: DatasetRef) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != ref.sha256:
        raise DataCorrupt(
            f"the stored file of {ref.name} has the digest {found}, not {ref.sha256}",
            reason="DATASET_CORRUPT",
            dataset=ref.name,
        )
