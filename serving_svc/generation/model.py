"""What is asked of the model and what comes back: pure types, and the rules on lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from tailorbird.errors import Aborted, InvalidArgument
from tailorbird.names import AdapterName, TenantName, VersionName

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat for the base model's template, with the assistant's turn opened."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Text to continue."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenIds:
    """Token ids to continue, as they are."""

    ids: tuple[int, ...]


Input = Chat | Text | TokenIds


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when to stop; None leaves the choice to the model's limits."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request: `adapter` None means the base model; `version` pins one of the adapter's."""

    tenant: TenantName
    adapter: AdapterName | None
    version: VersionName | None
    input: Input
    sampling: Sampling


class FinishReason(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt, and tokens generated."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Chunk:
    """Text since the previous chunk.

    The engine sets `text`, and `finish_reason` with `usage` on the last one; the service sets who
    answers on the first. One object serves the whole way to the wire: it is made once a token.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    version: VersionName | None = None
    route_generation: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `version` None means that the base model gave it."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    version: VersionName | None
    route_generation: int

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Answer:
        """Join the chunks of one generation that ended."""
        first, last = chunks[0], chunks[-1]
        if last.finish_reason is None or last.usage is None:
            raise ValueError("the generation has not ended")
        text = "".join(chunk.text for chunk in chunks)
        return cls(text, last.finish_reason, last.usage, first.version, first.route_generation)


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What the engine can take: tokens of prompt and answer together, and the vocabulary's size."""

    max_model_len: int
    vocab_size: int


class EngineDied(Aborted):
    """The engine died with this request inside. It may be the cause: it is not tried again."""

    default_reason = "ENGINE_DIED"


def room_for_answer(prompt_tokens: int, max_tokens: int | None, max_model_len: int) -> int:
    """Return how many tokens may be generated; InvalidArgument if the request cannot fit."""
    if prompt_tokens == 0:
        raise InvalidArgument("input", "the prompt has no tokens; at least 1 is needed")
    room = max_model_len - prompt_tokens
    if room < 1:
        raise InvalidArgument(
            "input",
            f"the prompt has {prompt_tokens} tokens; the context of {max_model_len} takes at most "
            f"{max_model_len - 1}, to leave room for an answer",
            reason="PROMPT_TOO_LONG",
            prompt_tokens=prompt_tokens,
            limit=max_model_len - 1,
        )
    if max_tokens is not None and max_tokens > room:
        raise InvalidArgument(
            "sampling.max_tokens",
            f"{max_tokens} is more than the {room} tokens that a prompt of {prompt_tokens} leaves "
            f"of the context of {max_model_len}",
            reason="MAX_TOKENS_TOO_LARGE",
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            limit=room,
        )
    return max_tokens or room
