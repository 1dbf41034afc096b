"""A request, from protobuf: what is wrong is refused with its field, value and limit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serving_svc.api.convert_chat import chat
from serving_svc.api.convert_sampling import sampling
from serving_svc.generation.model import GenerationRequest, Input, Text, TokenIds
from tailorbird.errors import InvalidArgument
from tailorbird.metadata import ADAPTER, MODEL_REWRITE
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.serving.v1 import inference_service_pb2 as pb

REWRITE_METADATA = (MODEL_REWRITE, "x-gateway-model-name-rewrite")
"""By which an inference gateway says which model it chose; the newer name goes first."""

_MAX_ROUTING_KEY = 256
_MAX_PRIORITY = 100

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True, slots=True)
class _Model:
    """Who is to answer: `adapter` None means the tenant's use of the base model."""

    tenant: TenantName
    adapter: AdapterName | None

    @classmethod
    def parse(cls, name: str, field: str) -> _Model:
        if "/adapters/" not in name:
            return cls(TenantName.parse(name, field), None)
        return cls.of(AdapterName.parse(name, field))

    @classmethod
    def of(cls, adapter: AdapterName) -> _Model:
        return cls(TenantName(adapter.tenant), adapter)


def generation_request(
    message: pb.GenerateRequest,
    vocab_size: int,
    metadata: Metadata = (),
    *,
    max_prompt_tokens: int = 2**20,
    deadline: float | None = None,
    final_only: bool = False,
) -> GenerationRequest:
    """Read and check a request; `vocab_size` bounds token ids, `max_prompt_tokens` their number.

    A gateway's rewrite in the call's `metadata` takes the place of the model that the request
    names, unless it is the same name; `x-tailorbird-adapter` counts only where the request names
    none.
    """
    told = {key: value for key, value in metadata if isinstance(value, str)}
    model, version = _model(message, told)
    return GenerationRequest(
        model.tenant,
        model.adapter,
        version,
        _input(message, vocab_size, max_prompt_tokens),
        sampling(message.sampling, vocab_size),
        routing_key=_routing_key(message),
        min_route_generation=_min_route_generation(message, model),
        priority=_priority(message),
        final_only=final_only,
        deadline=deadline,
    )


def _model(
    message: pb.GenerateRequest, metadata: Mapping[str, str]
) -> tuple[_Model, VersionName | None]:
    for field in REWRITE_METADATA:
        rewrite = metadata.get(field)
        if not rewrite:
            continue
        # Our client names the request's own model there: what is wrong with it is the field's.
        if rewrite == (message.adapter or message.parent):
            break
        model = _Model.parse(rewrite, field)
        return model, _pinned_elsewhere(message, model)
    model = _named(message, metadata)
    if not message.version:
        return model, None
    if model.adapter is None:
        raise InvalidArgument(
            "version", f"{message.version!r} is given without an adapter it is a version of"
        )
    return model, model.adapter.version(message.version)


def _named(message: pb.GenerateRequest, metadata: Mapping[str, str]) -> _Model:
    match message.WhichOneof("model"):
        case "adapter":
            return _Model.of(AdapterName.parse(message.adapter, "adapter"))
        case "parent":
            return _Model(TenantName.parse(message.parent, "parent"), None)
        case _ if metadata.get(ADAPTER):
            return _Model.parse(metadata[ADAPTER], ADAPTER)
        case _:
            raise InvalidArgument("adapter", "one of adapter and parent is needed; neither is set")


def _pinned_elsewhere(message: pb.GenerateRequest, model: _Model) -> VersionName | None:
    """Return the version that the request pins if it is one of the rewritten model's, else None."""
    if not message.version or model.adapter is None or message.adapter != str(model.adapter):
        return None
    return model.adapter.version(message.version)


def _routing_key(message: pb.GenerateRequest) -> str:
    length = len(message.routing_key)
    if length > _MAX_ROUTING_KEY:
        raise InvalidArgument(
            "routing_key",
            f"it has {length} characters; at most {_MAX_ROUTING_KEY} are allowed",
        )
    return message.routing_key


def _min_route_generation(message: pb.GenerateRequest, model: _Model) -> int:
    generation = message.min_route_generation
    if generation < 0:
        raise InvalidArgument("min_route_generation", f"{generation} is negative")
    if generation and model.adapter is None:
        raise InvalidArgument(
            "min_route_generation", f"{generation} is given without an adapter that has routes"
        )
    return generation


def _priority(message: pb.GenerateRequest) -> int:
    if not -_MAX_PRIORITY <= message.priority <= _MAX_PRIORITY:
        raise InvalidArgument(
            "priority", f"{message.priority} is not {-_MAX_PRIORITY} to {_MAX_PRIORITY}"
        )
    return message.priority


def _input(message: pb.GenerateRequest, vocab_size: int, most: int) -> Input:
    match message.WhichOneof("input"):
        case "chat":
            return chat(message.chat)
        case "prompt":
            if not message.prompt:
                raise InvalidArgument("prompt", "it is empty; at least 1 character is needed")
            return Text(message.prompt)
        case "token_ids":
            return TokenIds(_token_ids(message.token_ids, vocab_size, most))
        case _:
            raise InvalidArgument(
                "chat", "one of chat, prompt and token_ids is needed; none is set"
            )


def _token_ids(message: pb.TokenIds, vocab_size: int, most: int) -> tuple[int, ...]:
    # Counted before they are looked at: a message may hold millions.
    if len(message.ids) > most:
        raise InvalidArgument(
            "token_ids.ids",
            f"{len(message.ids)} tokens are given; at most {most} are allowed",
            reason="PROMPT_TOO_LONG",
            limit=most,
        )
    ids = tuple(message.ids)
    if not ids:
        raise InvalidArgument("token_ids.ids", "it is empty; at least 1 token is needed")
    if min(ids) < 0 or max(ids) >= vocab_size:
        index, wrong = next((i, x) for i, x in enumerate(ids) if not 0 <= x < vocab_size)
        raise InvalidArgument(
            f"token_ids.ids[{index}]", f"{wrong} is not in [0, {vocab_size}), the vocabulary"
        )
    return ids
