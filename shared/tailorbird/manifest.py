"""What stands beside an adapter's weights: its manifest and its probes.

`manifest.json` is written last: its presence is the version's existence.

Readers keep fields they do not know, so that an old replica can live beside a newer trainer; a
`schema_version` above theirs is read as long as the fields they know are sound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from operator import not_
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from tailorbird.errors import DataCorrupt

MANIFEST = "manifest.json"
PROBES = "probes.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_CARD = "README.md"
REPORT = "report.json"
REPORT_PAGE = "report.html"

RANKS = (8, 16, 32, 64, 128)
"""LoRA ranks that training offers. Serving loads any rank up to its cap."""

MAX_MANIFEST_BYTES = 2**20
"""Some four times what the largest dense models need: about 150 bytes for each of 2,000 tensors."""

MAX_PROBES_BYTES = 2**20
"""Four sequences of 128 tokens take a twentieth; four chats of the longest fit beside them."""

MAX_REPORT_BYTES = 2**20
"""Of report.json and of report.html. A judgement takes at most a quarter of the first."""

MAX_CHATS = 4
MAX_CHAT_CHARS = 2**15
"""Of one chat of a certificate: its messages, calls and tools together."""
MAX_CHAT_TOKENS = 2**12

_MAX_CHAT_PARTS = 128
"""Messages of a chat, calls of a message, tools."""
_MAX_DEPTH = 64
_MAX_FAULT_CHARS = 200
_MAX_FAULTS = 64

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Instant = Annotated[
    AwareDatetime,
    Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9999, 1, 1, tzinfo=UTC)),
]
"""A time with its zone, within what the API can say."""
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Sha256OrNone = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


def _is_none(value: object) -> bool:
    return value is None


class _Record(BaseModel):
    """A value of a file in the object store; what a newer writer added stays in it."""

    model_config = ConfigDict(frozen=True, extra="allow")


class FileEntry(_Record):
    """One file of a version: size in bytes and SHA-256."""

    size: Annotated[int, Field(ge=0, le=2**63 - 1)]
    sha256: Sha256


class Lineage(_Record):
    """Where a version came from: a job of ours, or `imported_from` and the rest empty.

    `from_version` is the one whose weights its training began with; `parent_version` is the same
    or, where training began with fresh weights, the version routed when its job began.
    """

    job: str
    training_dataset: str
    training_dataset_sha256: _Sha256OrNone
    spec_sha256: _Sha256OrNone
    parent_version: str
    code_version: str
    imported_from: str = ""
    from_version: Annotated[str, Field(exclude_if=not_)] = ""
    """Not written where it is empty: what an earlier release committed stays as it is."""
    validation_dataset: Annotated[str, Field(exclude_if=not_)] = ""
    validation_dataset_sha256: Annotated[_Sha256OrNone, Field(exclude_if=not_)] = ""
    held_out_records: Annotated[Count | None, Field(exclude_if=_is_none)] = None
    """Of the training dataset, not trained but judged by; None of earlier releases."""


class Decision(_Record):
    """Whether the evidence says that a version should take the traffic, and why.

    `route_generation` is that of the adapter's route when the version was judged, 0 without one.
    """

    promote: bool
    reason: str
    message: str
    route_generation: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0


class EvaluationSummary(_Record):
    """How a version did; losses in nats per trained token. Of an import nothing is known."""

    steps: Count = 0
    training_loss: FiniteFloat | None = None
    validation_loss: FiniteFloat | None = None
    base_validation_loss: FiniteFloat | None = None
    decision: Annotated[Decision | None, Field(exclude_if=not_)] = None
    """None where nothing was judged but the loss; not written then."""


class AdapterManifest(_Record):
    """Everything serving must know to trust a version, and a person to understand it."""

    schema_version: Annotated[Count, Field(ge=1)] = 1
    version: str
    create_time: Instant
    base_model: str
    base_model_digest: Digest
    chat_template_digest: Digest
    rank: Count
    alpha: FiniteFloat
    use_rslora: bool
    target_modules: tuple[str, ...]
    tensors: dict[str, tuple[int, ...]]
    """Shape of each tensor in adapter_model.safetensors."""
    files: dict[str, FileEntry]
    lineage: Lineage
    evaluation: EvaluationSummary

    def to_json(self) -> bytes:
        """Return the bytes to store."""
        return self.model_dump_json(indent=2).encode()

    @classmethod
    def from_json(cls, data: bytes) -> AdapterManifest:
        """Read stored bytes; DataCorrupt if they are no manifest, or too many."""
        _check_size(MANIFEST, data, MAX_MANIFEST_BYTES, "MANIFEST_INVALID")
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise DataCorrupt(
                f"{MANIFEST} is not a manifest: {_first(error)}", reason="MANIFEST_INVALID"
            ) from error


class ProbeSequence(_Record):
    """One probe: what a forward pass must give, teacher-forced.

    `token_ids` has n >= 2 ids; both logprob lists have n - 1 values, in nats: entry i is the
    logprob of token i + 1 given the tokens before it.
    """

    token_ids: Annotated[tuple[int, ...], Field(min_length=2)]
    base_logprobs: tuple[float, ...]
    adapter_logprobs: tuple[float, ...]


def _checked_object(text: str) -> str:
    """Return JSON text of an object that nests at most 64 deep; ValueError for any other."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deeply") from error
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - pydantic's validators raise it
    level: list[object] = [found]
    for _ in range(_MAX_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
    if level:
        raise ValueError(f"it nests more than {_MAX_DEPTH} deep")
    return text


def _inside(value: object) -> Iterable[object]:
    inner: Iterable[object] = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list):
        inner = value
    return (one for one in inner if isinstance(one, dict | list))


JsonObject = Annotated[str, AfterValidator(_checked_object)]


class ChatToolCall(_Record):
    """A call of a tool, as serving's API has it."""

    id: str
    name: str
    arguments_json: JsonObject


class ChatMessage(_Record):
    """A message of a chat, as serving's API has it."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: Annotated[tuple[ChatToolCall, ...], Field(max_length=_MAX_CHAT_PARTS)] = ()
    tool_call_id: str = ""


class ChatTool(_Record):
    """A tool that a chat offers, as serving's API has it; "" for no arguments."""

    name: str
    description: str = ""
    parameters_json_schema: Literal[""] | JsonObject = ""


class RenderedChat(_Record):
    """A chat, and the ids that the chat template and the tokenizer must make of it.

    With the assistant's turn opened. At most MAX_CHAT_CHARS characters and MAX_CHAT_TOKENS ids.
    """

    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1, max_length=_MAX_CHAT_PARTS)]
    tools: Annotated[tuple[ChatTool, ...], Field(max_length=_MAX_CHAT_PARTS)] = ()
    token_ids: Annotated[
        tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...],
        Field(min_length=1, max_length=MAX_CHAT_TOKENS),
    ]

    @model_validator(mode="after")
    def _check_chars(self) -> Self:
        texts = [text for tool in self.tools for text in _texts(tool)]
        for message in self.messages:
            texts += _texts(message)
            texts += [text for call in message.tool_calls for text in _texts(call)]
        chars = sum(map(len, texts))
        if chars > MAX_CHAT_CHARS:
            raise ValueError(f"it has {chars} characters; at most {MAX_CHAT_CHARS} are accepted")
        return self


def _texts(record: _Record) -> list[str]:
    known = (getattr(record, name) for name in type(record).model_fields)
    return [value for value in known if isinstance(value, str)]


class Probes(_Record):
    """The certificate of a version: replayed by serving before the version gets traffic."""

    sequences: Annotated[tuple[ProbeSequence, ...], Field(min_length=1, max_length=4)]
    chats: Annotated[tuple[RenderedChat, ...], Field(max_length=MAX_CHATS, exclude_if=not_)] = ()
    """None of a version that was not trained on chats, of an import, or of an earlier release."""

    def to_json(self) -> bytes:
        """Return the bytes to store."""
        return self.model_dump_json().encode()

    @classmethod
    def from_json(cls, data: bytes) -> Probes:
        """Read stored bytes; DataCorrupt if they are no probes, or a length is wrong."""
        _check_size(PROBES, data, MAX_PROBES_BYTES, "PROBES_INVALID")
        try:
            probes = cls.model_validate_json(data)
        except ValidationError as error:
            raise DataCorrupt(
                f"{PROBES} is not a set of probes: {_first(error)}", reason="PROBES_INVALID"
            ) from error
        for sequence in probes.sequences:
            expected = len(sequence.token_ids) - 1
            if {len(sequence.base_logprobs), len(sequence.adapter_logprobs)} != {expected}:
                raise DataCorrupt(
                    f"{PROBES}: {expected + 1} token ids need {expected} logprobs each",
                    reason="PROBES_INVALID",
                )
        return probes


def file_entry(path: Path) -> FileEntry:
    """Return size and SHA-256 of the file at `path`, read in bounded memory."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(size=path.stat().st_size, sha256=digest)


def _check_size(name: str, data: bytes, most: int, reason: str) -> None:
    if len(data) > most:
        raise DataCorrupt(
            f"{name} has {len(data)} bytes; at most {most} are accepted", reason=reason
        )


def _first(error: ValidationError) -> str:
    # Pydantic finds every fault, and to list a hundred thousand of them takes seconds.
    if error.error_count() > _MAX_FAULTS:
        return f"{error.error_count()} of its values are wrong"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    text = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return text[:_MAX_FAULT_CHARS]
