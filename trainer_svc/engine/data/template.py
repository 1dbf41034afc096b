"""Records become turns: the text that serving is asked with, and the answer that follows it.

Formats (`DatasetRef.format`) and what serving does with the same input:

- chat: rendered turn by turn with the base's chat template, from what serving gives it: see
  `tailorbird.records.chats`. A prompt is the template's rendering with the assistant's turn
  opened; the answer, which may be calls of tools, is what the rendering with the answer adds, up to
  and with its end-of-turn token. An answer of the weight 0 is no turn; it is in the prompts of
  later ones.
- instruction: a chat of one user message, `instruction` and, if there is one, a blank line and
  `input`, answered by `output`.
- prompt_completion: `prompt` and `completion` as they are; the end-of-sequence token follows.
- text: all of `text` is the answer to an empty prompt; the end-of-sequence token follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from tailorbird.errors import FailedPrecondition
from tailorbird.records.chats import is_trained, template_messages, template_tools
from trainer_svc.encoding.chat_template import ChatTemplate

PROMPT_COMPLETION = "prompt_completion"
TEXT = "text"
PLAIN = (PROMPT_COMPLETION, TEXT)
"""Formats that no chat template renders."""

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True)
class Turn:
    """An answer to train, from line `line`, and everything before it."""

    line: int
    prompt: str
    answer: str


@dataclass(frozen=True)
class Turns(Sequence[Turn]):
    """The turns of one record, first to last, each rendered when it is asked for.

    Asking raises FailedPrecondition for what the template refuses (CHAT_TEMPLATE_REFUSED), if its
    prompt is not the beginning of its rendering with the answer (CHAT_TEMPLATE_UNSUPPORTED), and if
    it shows no tools or no calls where the record has some (TEMPLATE_WITHOUT_TOOLS).
    """

    places: Sequence[int]
    render: Callable[[int], Turn]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Turn: ...
    @overload
    def __getitem__(self, index: slice) -> Turns: ...
    def __getitem__(self, index: int | slice) -> Turn | Turns:
        if isinstance(index, slice):
            return Turns(self.places[index], self.render)
        return self.render(self.places[index])


class Renderer:
    """Renders records of one format with one base's chat template.

    Raises FailedPrecondition if the data needs a chat template and the base has none
    (BASE_HAS_NO_CHAT_TEMPLATE).
    """

    def __init__(self, tokenizer: Any, record_format: str) -> None:
        self._format = record_format
        self._special = tuple(tokenizer.all_special_tokens)
        if record_format in PLAIN:
            return
        if not tokenizer.chat_template:
            raise FailedPrecondition(
                "the base model has no chat template; train it on prompt and completion records",
                reason="BASE_HAS_NO_CHAT_TEMPLATE",
            )
        self._template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map)

    def turns(self, record: Mapping[str, Any], line: int) -> Turns:
        """Return the record's turns; none if every answer has the weight 0."""
        if self._format in PLAIN:
            prompt, answer = _plain(record, self._format)
            return Turns([0], lambda _: Turn(line, prompt, answer))
        if self._format == "instruction":
            record = as_chat(record)
        messages = record["messages"]
        trained = [place for place, one in enumerate(messages) if is_trained(one)]
        # What follows the last answer is never rendered, and however long it is, not held.
        end = trained[-1] + 1 if trained else 0
        chat = _Chat(self._template, self._special, {**record, "messages": messages[:end]}, line)
        return Turns(trained, chat.turn)


class _Chat:
    """One record as its template gets it."""

    def __init__(
        self,
        template: ChatTemplate,
        special: tuple[str, ...],
        record: Mapping[str, Any],
        line: int,
    ) -> None:
        self._template = template
        self._special = special
        self._messages = template_messages(record)
        self._tools = template_tools(record)
        self._line = line
        self._tools_shown = self._tools is None
        self._calls_shown = False

    def turn(self, place: int) -> Turn:
        """Return the turn that the message at `place` answers."""
        messages = self._messages[: place + 1]
        prompt = self._render(messages[:-1], opened=True)
        whole = self._render(messages)
        if not whole.startswith(prompt):
            raise FailedPrecondition(
                f"line {self._line}: the base's chat template opens the assistant's turn "
                "differently when the answer follows, so that answers cannot be told from prompts",
                reason="CHAT_TEMPLATE_UNSUPPORTED",
                line=self._line,
            )
        self._check_shown(messages, prompt, whole)
        answer = whole[len(prompt) :]
        bare = answer.rstrip()
        return Turn(self._line, prompt, bare if bare.endswith(self._special) else answer)

    def _check_shown(self, messages: Sequence[Message], prompt: str, whole: str) -> None:
        """Refuse a template that drops tools or their calls: it is given them and says nothing."""
        if not self._tools_shown:
            if self._same(prompt, messages[:-1], None, opened=True):
                raise self._not_shown("the record's tools")
            self._tools_shown = True
        if "tool_calls" in messages[-1] and not self._calls_shown:
            bare = {key: value for key, value in messages[-1].items() if key != "tool_calls"}
            if self._same(whole, [*messages[:-1], bare], self._tools):
                raise self._not_shown("the assistant's calls of tools")
            self._calls_shown = True

    def _same(
        self, text: str, messages: Sequence[Message], tools: Tools, *, opened: bool = False
    ) -> bool:
        try:
            return self._template.render(messages, tools, opened=opened) == text
        except Exception:
            # It looks at what is left out here.
            return False

    def _not_shown(self, what: str) -> FailedPrecondition:
        return FailedPrecondition(
            f"line {self._line} of the dataset cannot be trained on: the base's chat template does "
            f"not show {what}; take a base whose template has tools, or records without",
            reason="TEMPLATE_WITHOUT_TOOLS",
            line=self._line,
        )

    def _render(self, messages: Sequence[Message], *, opened: bool = False) -> str:
        try:
            return self._template.render(messages, self._tools, opened=opened)
        except Exception as error:
            role = self._refused_role(messages)
            what = f"a message of the role {role}" if role else "the messages"
            text = " ".join(str(error).split())[:300] or type(error).__name__
            raise FailedPrecondition(
                f"line {self._line} of the dataset cannot be trained on: the base's chat template "
                f"refuses {what}: {text}",
                reason="CHAT_TEMPLATE_REFUSED",
                line=self._line,
                role=role,
            ) from error

    def _refused_role(self, messages: Sequence[Message]) -> str:
        """Return the role without whose messages the rest can be rendered, or ""."""
        for role in ("system", "tool", "assistant", "user"):
            rest = [message for message in messages if message["role"] != role]
            if rest and len(rest) < len(messages):
                try:
                    self._template.render(rest, self._tools)
                except Exception:  # noqa: S112 - the next role may be the one
                    continue
                return role
        return ""


def messages_of(record: Mapping[str, Any]) -> Sequence[Message]:
    """Return the chat that a record is, of a format that is rendered as one."""
    messages: Sequence[Message] = as_chat(record)["messages"]
    return messages


def _plain(record: Mapping[str, Any], record_format: str) -> tuple[str, str]:
    if record_format == TEXT:
        return "", record["text"]
    return record["prompt"], record["completion"]


def as_chat(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a chat or an instruction as a chat; what else the record has stays."""
    if "messages" in record:
        return record
    question = record["instruction"]
    if record.get("input"):
        question = f"{question}\n\n{record['input']}"
    return {
        **record,
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": record["output"]},
        ],
    }
