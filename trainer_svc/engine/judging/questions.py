"""Held-out records as prompts, as serving would be asked them: alone and with examples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from tailorbird.errors import FailedPrecondition
from tailorbird.records.chats import is_trained
from trainer_svc.engine.data.encoding import Encoder
from trainer_svc.engine.data.template import (
    PLAIN,
    PROMPT_COMPLETION,
    Renderer,
    Turn,
    as_chat,
    messages_of,
)
from trainer_svc.engine.judging.few_shot import FewShot
from trainer_svc.judgement.few_shot import how_many_fit

_SLACK = 1.125
"""An answer may be so many times as long as the longest that is expected, and a bit."""
_MORE_TOKENS = 4
_MOST_TOKENS = 1024
_TOGETHER = 16
"""Turns that are encoded at once: each is there as text and as ids, several times over."""
_PLAIN_KEYS = ("prompt", "completion", "metadata")

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """The last answer of one held-out record, and what is asked for it.

    `expected` is what a right answer decodes to; `asked` are the prompt's ids, `shown` those of the
    prompt with examples before it, () where none fit.
    """

    line: int
    prompt: str
    expected: str
    metadata: Mapping[str, Any]
    asked: tuple[int, ...]
    shown: tuple[int, ...]


@dataclass(frozen=True)
class Questions:
    """What all candidates are asked. `examples` is how many stand before each question `shown`.

    `refusal` says why there are none although there is room.
    """

    all: tuple[Question, ...]
    examples: int
    refusal: str
    max_new_tokens: int
    stop_ids: frozenset[int]


class _Expected(NamedTuple):
    """An answer as it decodes, how many ids it has, and the last of these."""

    text: str
    tokens: int
    last: int


class Asker:
    """Makes questions of records of one format, with one base's tokenizer and chat template.

    Records of plain text have none. All others are given as `up_to_answer` returns them.
    """

    def __init__(self, tokenizer: Any, record_format: str, context: int) -> None:
        self._tokenizer = tokenizer
        self._format = record_format
        self.kind = record_format if record_format in PLAIN else "chat"
        """Records of one kind may stand before each other's questions."""
        self._plain = record_format == PROMPT_COMPLETION
        self._renderer = Renderer(tokenizer, record_format if self._plain else "chat")
        self._encoder = Encoder(tokenizer, special_tokens=self._plain)
        self._context = context
        end = tokenizer.eos_token_id
        self._end = (end,) if self._plain and end is not None else ()

    def up_to_answer(self, record: Record) -> Record:
        """Return a record's last answer that is trained, and what is before it.

        Of a plain prompt that and its completion, of all else a chat.
        """
        if self._plain:
            return {key: record[key] for key in _PLAIN_KEYS if key in record}
        chat = as_chat(record)
        messages = chat["messages"]
        last = max(place for place, message in enumerate(messages) if is_trained(message))
        return {**chat, "messages": messages[: last + 1]}

    def questions(self, held_out: Mapping[int, Record], examples: Sequence[Record]) -> Questions:
        """Return the questions, in the order of their lines; as many examples as fit into all.

        Raises what Renderer.turns and Encoder.encode raise.
        """
        turns = [self._last(held_out[line], line) for line in sorted(held_out)]
        encoded = list(self._encoded(turns))
        longest = max((answer.tokens for _, answer in encoded), default=0)
        most = min(math.ceil(_SLACK * longest) + _MORE_TOKENS, _MOST_TOKENS)
        refusal = ""
        try:
            count, shown = self._shown(
                turns, [prompt for prompt, _ in encoded], held_out, examples, self._context - most
            )
        except FailedPrecondition as error:
            # Of a template that takes no examples, the other candidates are asked all the same.
            count, shown, refusal = 0, [()] * len(turns), error.message
        return Questions(
            all=tuple(
                Question(
                    line=turn.line,
                    prompt=self._readable(held_out[turn.line]),
                    expected=answer.text,
                    metadata=metadata_of(held_out[turn.line]),
                    asked=prompt,
                    shown=with_examples,
                )
                for turn, (prompt, answer), with_examples in zip(turns, encoded, shown, strict=True)
            ),
            examples=count,
            refusal=refusal,
            max_new_tokens=most,
            stop_ids=self._stops({answer.last for _, answer in encoded}),
        )

    def pair(self, record: Record) -> tuple[str, str]:
        """Return a record's last question and its answer, as a person reads them.

        Calls of tools are what the template makes of them: so are they answered. Raises what
        `questions` does for these.
        """
        if self._plain:
            return record["prompt"], record["completion"]
        answer = messages_of(record)[-1]
        if not answer.get("tool_calls"):
            return self._readable(record), answer["content"]
        ((_, called),) = self._encoded([self._last(record, 0)])
        return self._readable(record), called.text

    def prompt_ids(self, record: Record, line: int) -> tuple[int, ...]:
        """Return the ids of a record's last question."""
        ((prompt, _),) = self._encoded([self._last(record, line)])
        return prompt

    def labels(self, record: Record, names: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the ids of each name as the answer to a record's last question, with its end."""
        if not names:
            return []
        turns = [self._last(self._answered(record, name), 0) for name in names]
        return [tuple(answer) + self._end for _, answer in self._encoder.encode(turns)]

    def _last(self, record: Record, line: int) -> Turn:
        """Return the last turn that is trained."""
        return self._renderer.turns(record, line)[-1]

    def _answered(self, record: Record, answer: str) -> Record:
        if self._plain:
            return {**record, "completion": answer}
        messages = [*messages_of(record)[:-1], {"role": "assistant", "content": answer}]
        return {**record, "messages": messages}

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer, without what ends it."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _encoded(self, turns: Sequence[Turn]) -> Iterator[tuple[tuple[int, ...], _Expected]]:
        """Yield each turn's prompt, as far as the base reads it, and its answer; a few at a time.

        A prompt that fills the context has no answer, however much longer it is.
        """
        for start in range(0, len(turns), _TOGETHER):
            for prompt, answer in self._encoder.encode(turns[start : start + _TOGETHER]):
                expected = _Expected(self.text(answer), len(answer), answer[-1])
                yield tuple(prompt[: self._context]), expected

    def _shown(
        self,
        turns: Sequence[Turn],
        asked: Sequence[Sequence[int]],
        held_out: Mapping[int, Record],
        examples: Sequence[Record],
        limit: int,
    ) -> tuple[int, list[tuple[int, ...]]]:
        """Return how many examples fit before every question, and the prompts with them.

        Looked for with the longest question: all of them are many times the data's size.
        """
        prompter = FewShot(self._format, examples, [held_out[turn.line] for turn in turns])

        def shown(some: Sequence[Turn], count: int) -> list[tuple[int, ...]]:
            before = [
                self._last(prompter.before(held_out[turn.line], count), turn.line) for turn in some
            ]
            return [prompt for prompt, _ in self._encoded(before)]

        longest = max(zip(map(len, asked), turns, strict=True), key=itemgetter(0), default=None)
        for count in range(self._may_fit(examples, limit), 0, -1):
            if longest is None or len(shown([longest[1]], count)[0]) > limit:
                continue
            prompts = shown(turns, count)
            if max(map(len, prompts)) <= limit:
                return count, prompts
        return 0, [()] * len(turns)

    def _may_fit(self, examples: Sequence[Record], limit: int) -> int:
        """Return how many examples are not much too long, by what each takes by itself."""
        turns = [self._last(example, 0) for example in examples]
        lengths = [len(prompt) + answer.tokens for prompt, answer in self._encoded(turns)]
        # A template may put more around a record alone than around one of several.
        return how_many_fit(lengths, 2 * limit)

    def _stops(self, ends: Set[int]) -> frozenset[int]:
        """Return the ids that end an answer: the base's own, and those that end answers here."""
        special = set(self._tokenizer.all_special_ids)
        own = self._tokenizer.eos_token_id
        found = ends & special
        return frozenset(found if own is None else {*found, own})

    def _readable(self, record: Record) -> str:
        if self._plain:
            return str(record["prompt"])
        turns = list(messages_of(record))
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()
        if len(turns) == 1:
            return str(turns[0]["content"])
        return "\n".join(f"{turn['role']}: {turn.get('content') or ''}" for turn in turns)


def metadata_of(record: Record) -> Mapping[str, Any]:
    """Return what a record says of itself; what is null is not there, as in files of tables."""
    found = record.get("metadata")
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if value is not None}
