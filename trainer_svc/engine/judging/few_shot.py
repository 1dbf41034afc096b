"""A question with examples of the training data before it, as somebody would prompt the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer_svc.engine.data.template import PROMPT_COMPLETION, messages_of

Record = Mapping[str, Any]


class FewShot:
    """Puts `examples` before the question of any of `questions`; all are of one format.

    Chats become one chat: the examples' turns, then the question's. A system message that all have
    stands first; where they differ, each stands at the head of its record's first user turn, or is
    one where it has none, in examples and question alike, so that the beginning is the same for
    every question.
    """

    def __init__(
        self, record_format: str, examples: Sequence[Record], questions: Sequence[Record]
    ) -> None:
        self._plain = record_format == PROMPT_COMPLETION
        self._examples = examples
        systems = {_system(record) for record in (*examples, *questions)} if not self._plain else ()
        self._system = next(iter(systems)) if len(systems) == 1 else ""

    def before(self, question: Record, count: int) -> Record:
        """Return the question with the first `count` examples before it."""
        examples = self._examples[:count]
        if self._plain:
            shown = [each["prompt"] + each["completion"] for each in examples]
            return {**question, "prompt": "\n\n".join([*shown, question["prompt"]])}
        turns = [turn for record in (*examples, question) for turn in self._turns(record)]
        if self._system:
            turns.insert(0, {"role": "system", "content": self._system})
        return {**question, "messages": turns}

    def _turns(self, record: Record) -> list[Mapping[str, Any]]:
        turns = [turn for turn in messages_of(record) if turn["role"] not in _SYSTEM]
        system = _system(record)
        if not system or self._system:
            return turns
        users = (index for index, turn in enumerate(turns) if turn["role"] == "user")
        first = next(users, None)
        if first is None:
            return [{"role": "user", "content": system}, *turns]
        merged = {**turns[first], "content": f"{system}\n\n{turns[first]['content']}"}
        return [*turns[:first], merged, *turns[first + 1 :]]


_SYSTEM = frozenset({"system", "developer"})


def _system(record: Record) -> str:
    return "\n\n".join(turn["content"] for turn in messages_of(record) if turn["role"] in _SYSTEM)
