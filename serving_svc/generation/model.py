"""What is asked of the model and what comes back: pure types, and the rules on lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, Protocol

from serving_svc.adapters.model import LoadedAdapter
from tailorbird.errors import Aborted, InvalidArgument, TailorbirdError
from tailorbird.names import AdapterName, TenantName, VersionName

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `arguments_json` as the model wrote it."""

    id: str
    name: str
    arguments_json: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `parameters_json_schema` "" for no arguments."""

    name: str
    description: str = ""
    parameters_json_schema: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat; `tool_calls` are the assistant's, `tool_call_id` is the tool's."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat for the base model's template, with the assistant's turn opened."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


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
class Structure:
    """What the answer must look like; `value` is the schema, expression or grammar as text."""

    kind: Literal["json_schema", "regex", "choices", "grammar"]
    value: str = ""
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen and when to stop; None leaves the choice to the model's limits."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    min_p: float = 0.0
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    """Most probable tokens to tell beside each generated one; None: tell no logprobs."""
    n: int = 1
    return_token_ids: bool = False
    structure: Structure | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One request: `adapter` None means the base model; `version` pins one of the adapter's."""

    tenant: TenantName
    adapter: AdapterName | None
    version: VersionName | None
    input: Input
    sampling: Sampling
    routing_key: str = ""
    min_route_generation: int = 0
    priority: int = 0
    deadline: float | None = None
    """When the caller stops waiting, by time.monotonic()."""
    final_only: bool = False
    """Only the whole answer is wanted: nothing is passed on before the end."""
    read_calls: bool = True
    """Calls of the chat's tools are found in the answer; otherwise it is text."""


class FinishReason(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its text, and its logprob in nats."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The generated token, and the most probable ones in its place, most probable first."""

    token: TokenLogprob
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of the prompt, and tokens generated (of all completions together)."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(slots=True)
class Chunk:
    """What one completion grew by in one or more steps of the engine.

    The engine sets what comes before `usage`; `finish_reason` is set on the last chunk of an index.
    The service sets who answers on the first chunk of all, and `usage` on the last. One object
    serves the whole way to the wire: it is made once a token, or once every few tokens.
    """

    text: str
    finish_reason: FinishReason | None = None
    token_ids: Sequence[int] = ()
    index: int = 0
    logprobs: Sequence[TokenLogprobs] = ()
    tool_calls: Sequence[ToolCall] = ()
    usage: Usage | None = None
    version: VersionName | None = None
    route_generation: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One whole answer to a prompt."""

    text: str
    finish_reason: FinishReason
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """All completions of a request, by index; `version` None: the base model gave them."""

    completions: tuple[Completion, ...]
    usage: Usage
    version: VersionName | None
    route_generation: int


class Sink(Protocol):
    """Takes a request's output from the engine's output loop. No method blocks or raises."""

    def count(self, tokens: int) -> None:
        """Take the number of tokens just generated, of all completions, shown or not."""

    def put(self, chunk: Chunk) -> None:
        """Take a chunk. After the last one of the last completion nothing comes any more."""

    def fail(self, error: TailorbirdError) -> None:
        """Take the error that ended the request. Nothing comes after it."""


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What the engine is given: `max_tokens` fits the context; `tenant` salts the prefix cache."""

    token_ids: Sequence[int]
    sampling: Sampling
    max_tokens: int
    tenant: str
    adapter: LoadedAdapter | None
    final_only: bool = False
    tools: tuple[Tool, ...] = ()
    """Calls of these are found in the answer, which then comes at its end."""


class Handle(Protocol):
    """A request inside the engine."""

    def abort(self) -> None:
        """End it, and free what it holds; its sink hears nothing more. Done before: nothing."""


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
