"""Prompts and answers become token ids, exactly as serving has them.

A prompt is tokenised as a whole, as serving does. An answer goes on where the prompt's ids end:
decoded after them it must give its own text and nothing else, because that is what serving sends.
Tokenizers that mark word starts (SentencePiece, Metaspace) put a space before an answer that is
tokenised by itself; "2+2= 4" would be learned for "2+2=4".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from threading import Lock
from typing import Any

import tokenizers

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.data.cuts import Cuts
from trainer_svc.engine.data.template import Turn

_first_use = Lock()


class Encoder:
    """Encodes turns with one tokenizer; several threads may each have one of the same tokenizer.

    `special_tokens`: prompts get the tokenizer's usual special tokens, as serving gives a prompt
    that no chat template rendered.
    """

    def __init__(self, tokenizer: Any, *, special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._special_tokens = special_tokens
        self._backend = backend = backend_of(tokenizer)
        self._unmarked = None if backend is None else _without_word_starts(backend)

    def encode(self, turns: Sequence[Turn]) -> list[tuple[list[int], list[int]]]:
        """Return each turn's prompt and answer as token ids.

        The answer's ids are those that the whole text has after the prompt's, if these decode to
        the answer; otherwise (a merge across the border, a mark that the text does not have) those
        of the answer alone, begun without a word-start mark. Raises FailedPrecondition for a turn
        without ids on either side, or where no ids give its answer (INVALID_RECORD).
        """
        texts = [turn.prompt for turn in turns]
        prompts = plain = self._ids(texts)
        if self._special_tokens:
            prompts = self._ids(texts, special_tokens=True)
        answers = [
            ids[len(start) :] if ids[: len(start)] == start else []
            for start, ids in zip(
                plain, self._ids([turn.prompt + turn.answer for turn in turns]), strict=True
            )
        ]
        before = self._decoded(prompts)
        after = self._decoded([[*p, *ids] for p, ids in zip(prompts, answers, strict=True)])
        for index, turn in enumerate(turns):
            if after[index] != before[index] + turn.answer:
                answers[index] = self._continued(
                    turn, prompts[index], answers[index], before[index]
                )
            if not prompts[index] or not answers[index]:
                what = "answer" if prompts[index] else "prompt"
                raise _invalid(turn.line, f"its {what} has no token")
        return list(zip(prompts, answers, strict=True))

    def encode_texts(self, turns: Sequence[Turn]) -> list[tuple[list[int], list[int]]]:
        """Return for each answer, which is a whole text, what serving puts before it, and its ids.

        The first are the tokenizer's special tokens, if it has some for a beginning. Raises
        FailedPrecondition for a text without ids (INVALID_RECORD).
        """
        texts = [turn.answer for turn in turns]
        encoded = []
        for turn, ids, whole in zip(
            turns, self._ids(texts), self._ids(texts, special_tokens=True), strict=True
        ):
            if not ids:
                raise _invalid(turn.line, "its text has no token")
            encoded.append((_before(ids, whole), ids))
        return encoded

    def cuts(self, prompt: str, ids: Sequence[int]) -> Cuts:
        """Return where `prompt`, whose ids without special tokens are `ids`, may be cut."""
        return Cuts(self._backend, prompt, ids)

    def _continued(self, turn: Turn, prompt: list[int], whole: list[int], before: str) -> list[int]:
        alone = self._alone(turn.answer)
        (text,) = self._decoded([prompt + alone])
        if text == before + turn.answer:
            return alone
        # No ids give this text back: the tokenizer rewrites or does not know some of it. What is
        # left must begin as the answer does.
        for ids in (alone, whole):
            (text,) = self._decoded([prompt + ids])
            if text.startswith(before) and _space(text[len(before) :]) == _space(turn.answer):
                return ids
        raise _invalid(turn.line, "the base's tokenizer cannot put its answer after its prompt")

    def _alone(self, text: str) -> list[int]:
        if self._unmarked is None:
            return self._ids([text])[0]
        return list(self._unmarked.encode(text, add_special_tokens=False).ids)

    def _ids(self, texts: Sequence[str], *, special_tokens: bool = False) -> list[list[int]]:
        encoded = self._tokenizer(
            list(texts), add_special_tokens=special_tokens, return_attention_mask=False
        )
        return [list(ids) for ids in encoded["input_ids"]]

    def _decoded(self, sequences: Sequence[list[int]]) -> list[str]:
        return [
            self._tokenizer.decode(
                ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            for ids in sequences
        ]


def backend_of(tokenizer: Any) -> Any:
    """Return the fast backend, as it is after a first call, or None.

    That call may reset what the tokenizer's file sets, which no other thread bears.
    """
    with _first_use:
        tokenizer("")
    return getattr(tokenizer, "backend_tokenizer", None)


def _without_word_starts(backend: Any) -> Any:
    """Return the same tokenizer, but one that takes no text's beginning for a word's."""
    parts = json.loads(backend.to_str())
    for name in ("normalizer", "pre_tokenizer"):
        parts[name] = _unmarking(parts[name])
    parts.update(truncation=None, padding=None)
    return tokenizers.Tokenizer.from_str(json.dumps(parts))


def _unmarking(part: dict[str, Any] | None) -> dict[str, Any] | None:
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    if "add_prefix_space" in part:
        return {**part, "add_prefix_space": False}
    for inner in {"normalizers", "pretokenizers"} & part.keys():
        kept = (_unmarking(each) for each in part[inner])
        return {**part, inner: [each for each in kept if each is not None]}
    return part


def _before(ids: list[int], whole: list[int]) -> list[int]:
    """Return what of `whole` stands before `ids`; nothing if they are not in it."""
    for start in range(len(whole) - len(ids) + 1):
        if whole[start : start + len(ids)] == ids:
            return whole[:start]
    return []


def _space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _invalid(line: int, message: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"line {line} of the dataset cannot be trained on: {message}",
        reason="INVALID_RECORD",
        line=line,
    )
