"""Records become turns: the text that serving is asked with, and the answer that follows it.

Formats (`DatasetRef.format`) and what serving does with the same input:

- chat: rendered turn by turn with the base's chat template. A prompt is the template's rendering
  with the assistant's turn opened; the answer is what the rendering with the answer adds, up to and
  with its end-of-turn token.
- instruction: a chat of one user message, `instruction` and, if there is one, a blank line and
  `input`, answered by `output`.
- prompt_completion: `prompt` and `completion` as they are; the end-of-sequence token follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tailorbird.errors import FailedPrecondition

PROMPT_COMPLETION = "prompt_completion"

Message = Mapping[str, str]


@dataclass(frozen=True)
class Turn:
    """An answer to train, from line `line`, and everything before it."""

    line: int
    prompt: str
    answer: str


class Renderer:
    """Renders records of one format with one base's chat template.

    Raises FailedPrecondition if the data needs a chat template and the base has none
    (BASE_HAS_NO_CHAT_TEMPLATE).
    """

    def __init__(self, tokenizer: Any, record_format: str) -> None:
        self._tokenizer = tokenizer
        self._format = record_format
        self._special = tuple(tokenizer.all_special_tokens)
        if record_format != PROMPT_COMPLETION and not tokenizer.chat_template:
            raise FailedPrecondition(
                "the base model has no chat template; train it on prompt and completion records",
                reason="BASE_HAS_NO_CHAT_TEMPLATE",
            )

    def turns(self, record: Mapping[str, Any], line: int) -> Iterator[Turn]:
        """Yield the record's turns, the last first, which is the longest.

        Raises FailedPrecondition for what the template refuses (CHAT_TEMPLATE_REFUSED), and if its
        prompt is not the beginning of its rendering with the answer (CHAT_TEMPLATE_UNSUPPORTED).
        """
        if self._format == PROMPT_COMPLETION:
            yield Turn(line, record["prompt"], record["completion"])
            return
        messages = messages_of(record)
        for index in reversed(range(len(messages))):
            if messages[index]["role"] == "assistant":
                yield self._turn(messages[: index + 1], line)

    def _turn(self, messages: Sequence[Message], line: int) -> Turn:
        prompt = self._render(messages[:-1], line, add_generation_prompt=True)
        whole = self._render(messages, line, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise FailedPrecondition(
                f"line {line}: the base's chat template opens the assistant's turn differently "
                "when the answer follows, so that answers cannot be told from prompts",
                reason="CHAT_TEMPLATE_UNSUPPORTED",
                line=line,
            )
        answer = whole[len(prompt) :]
        bare = answer.rstrip()
        return Turn(line, prompt, bare if bare.endswith(self._special) else answer)

    def _render(
        self, messages: Sequence[Message], line: int, *, add_generation_prompt: bool
    ) -> str:
        try:
            return self._apply(messages, add_generation_prompt=add_generation_prompt)
        except Exception as error:
            role = self._refused_role(messages)
            what = f"a message of the role {role}" if role else "the messages"
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise FailedPrecondition(
                f"line {line} of the dataset cannot be trained on: the base's chat template "
                f"refuses {what}: {text}",
                reason="CHAT_TEMPLATE_REFUSED",
                line=line,
                role=role,
            ) from error

    def _refused_role(self, messages: Sequence[Message]) -> str:
        """Return the role without whose messages the rest can be rendered, or ""."""
        for role in ("system", "assistant", "user"):
            rest = [message for message in messages if message["role"] != role]
            if rest and len(rest) < len(messages):
                try:
                    self._apply(rest, add_generation_prompt=False)
                except Exception:  # noqa: S112 - the next role may be the one
                    continue
                return role
        return ""

    def _apply(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        text: str = self._tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text


def messages_of(record: Mapping[str, Any]) -> Sequence[Message]:
    """Return the chat that a record is, of a format that is rendered as one."""
    if "messages" in record:
        messages: Sequence[Message] = record["messages"]
        return messages
    question = record["instruction"]
    if record.get("input"):
        question = f"{question}\n\n{record['input']}"
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": record["output"]},
    ]
