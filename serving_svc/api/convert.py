"""Protobuf to domain and back: what is wrong is refused here, with its field, value and limit."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from serving_svc.adapters.paging import Page
from serving_svc.adapters.service import AdapterState, PublishedVersion
from serving_svc.generation.model import (
    Answer,
    Chat,
    Chunk,
    FinishReason,
    GenerationRequest,
    Input,
    Message,
    Role,
    Sampling,
    Text,
    TokenIds,
    Usage,
)
from tailorbird.adapters.v1 import adapter_service_pb2 as adapters_pb
from tailorbird.errors import InvalidArgument
from tailorbird.manifest import AdapterManifest
from tailorbird.names import AdapterName, TenantName, VersionName
from tailorbird.profile import ServingProfile
from tailorbird.registry import Route
from tailorbird.serving.v1 import inference_service_pb2 as pb

_MAX_TEMPERATURE = 2.0
_MAX_STOPS = 16
_MAX_STOP_CHARS = 256

_ROLES: dict[pb.Role.ValueType, Role] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
}
_FINISH: dict[FinishReason, pb.FinishReason.ValueType] = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


def generation_request(message: pb.GenerateRequest, vocab_size: int) -> GenerationRequest:
    """Read and check a request; `vocab_size` bounds token ids."""
    adapter: AdapterName | None = None
    match message.WhichOneof("model"):
        case "adapter":
            adapter = AdapterName.parse(message.adapter, "adapter")
            tenant = TenantName(adapter.tenant)
        case "parent":
            tenant = TenantName.parse(message.parent, "parent")
        case _:
            raise InvalidArgument("adapter", "one of adapter and parent is needed; neither is set")
    version = None
    if message.version:
        if adapter is None:
            raise InvalidArgument(
                "version", f"{message.version!r} is given without an adapter it is a version of"
            )
        version = adapter.version(message.version)
    return GenerationRequest(
        tenant, adapter, version, _input(message, vocab_size), _sampling(message.sampling)
    )


def generate_response(answer: Answer) -> pb.GenerateResponse:
    """Write a whole answer."""
    return pb.GenerateResponse(
        version=str(answer.version or ""),
        route_generation=answer.route_generation,
        text=answer.text,
        finish_reason=_FINISH[answer.finish_reason],
        usage=_usage(answer.usage),
    )


def stream_response(chunk: Chunk) -> pb.StreamGenerateResponse:
    """Write a piece of an answer."""
    message = pb.StreamGenerateResponse(text=chunk.text)
    if chunk.version is not None:
        message.version = str(chunk.version)
        message.route_generation = chunk.route_generation
    if chunk.finish_reason is not None and chunk.usage is not None:
        message.finish_reason = _FINISH[chunk.finish_reason]
        message.usage.CopyFrom(_usage(chunk.usage))
    return message


def server_info(profile: ServingProfile, service_version: str) -> pb.GetServerInfoResponse:
    """Write what this replica serves."""
    return pb.GetServerInfoResponse(
        profile=profile.profile,
        base_model=profile.base_model,
        base_model_digest=profile.base_model_digest,
        chat_template_digest=profile.chat_template_digest,
        max_model_len=profile.max_model_len,
        max_lora_rank=profile.max_lora_rank,
        adapter_slots=profile.adapter_slots,
        dtype=profile.dtype,
        service_version=service_version,
    )


def adapters_page(message: adapters_pb.ListAdaptersRequest) -> tuple[TenantName, Page]:
    """Read a request for a tenant's adapters."""
    tenant = TenantName.parse(message.parent)
    return tenant, Page.parse(f"{tenant}/adapters", message.page_size, message.page_token)


def versions_page(message: adapters_pb.ListVersionsRequest) -> tuple[AdapterName, Page]:
    """Read a request for an adapter's versions."""
    adapter = AdapterName.parse(message.parent, "parent")
    return adapter, Page.parse(f"{adapter}/versions", message.page_size, message.page_token)


def rollback_request(
    message: adapters_pb.RollbackRequest,
) -> tuple[AdapterName, VersionName | None]:
    """Read a request for an earlier version to be routed."""
    to_version = VersionName.parse(message.to_version, "to_version") if message.to_version else None
    return AdapterName.parse(message.name), to_version


def adapter(state: AdapterState) -> adapters_pb.Adapter:
    """Write an adapter."""
    return adapters_pb.Adapter(
        name=str(state.name),
        route=None if state.route is None else route(state.name, state.route),
        effective_generation=state.effective_generation,
        refusals=[
            adapters_pb.Refusal(
                version=str(version), reason=refusal.reason, message=refusal.message
            )
            for version, refusal in sorted(state.refusals.items())
        ],
    )


def route(name: AdapterName, found: Route) -> adapters_pb.Route:
    """Write one generation of an adapter's route."""
    create_time = Timestamp()
    create_time.FromDatetime(found.create_time)
    return adapters_pb.Route(
        generation=found.generation,
        version=f"{name}/versions/{found.version}",
        reason=found.reason,
        actor=found.actor,
        create_time=create_time,
    )


def version(published: PublishedVersion) -> adapters_pb.Version:
    """Write a version."""
    message = adapters_pb.Version(name=str(published.name))
    if published.manifest is not None:
        _describe(message, published.manifest)
    return message


def _input(message: pb.GenerateRequest, vocab_size: int) -> Input:
    match message.WhichOneof("input"):
        case "chat":
            return _chat(message.chat)
        case "prompt":
            if not message.prompt:
                raise InvalidArgument("prompt", "it is empty; at least 1 character is needed")
            return Text(message.prompt)
        case "token_ids":
            return TokenIds(_token_ids(message.token_ids, vocab_size))
        case _:
            raise InvalidArgument(
                "chat", "one of chat, prompt and token_ids is needed; none is set"
            )


def _chat(chat: pb.Chat) -> Chat:
    if not chat.messages:
        raise InvalidArgument("chat.messages", "it is empty; at least 1 message is needed")
    messages = []
    for index, message in enumerate(chat.messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidArgument(
                f"chat.messages[{index}].role",
                f"{message.role} is not ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT",
            )
        messages.append(Message(role, message.content))
    if messages[-1].role == "assistant":
        raise InvalidArgument(
            f"chat.messages[{len(messages) - 1}].role",
            "the last message is ROLE_ASSISTANT's; the answer must have something to answer",
        )
    return Chat(tuple(messages))


def _token_ids(message: pb.TokenIds, vocab_size: int) -> tuple[int, ...]:
    ids = tuple(message.ids)
    if not ids:
        raise InvalidArgument("token_ids.ids", "it is empty; at least 1 token is needed")
    if min(ids) < 0 or max(ids) >= vocab_size:
        index, wrong = next((i, x) for i, x in enumerate(ids) if not 0 <= x < vocab_size)
        raise InvalidArgument(
            f"token_ids.ids[{index}]", f"{wrong} is not in [0, {vocab_size}), the vocabulary"
        )
    return ids


def _sampling(message: pb.SamplingParameters) -> Sampling:
    given = {
        name: getattr(message, name)
        for name in ("temperature", "top_p", "top_k", "max_tokens", "seed")
        if message.HasField(name)
    }
    sampling = Sampling(**given, stop=_stops(message))
    # Written so that NaN is refused as well.
    if not 0 <= sampling.temperature <= _MAX_TEMPERATURE:
        raise _out_of_range("temperature", sampling.temperature, f"0 to {_MAX_TEMPERATURE:g}")
    if not 0 < sampling.top_p <= 1:
        raise _out_of_range("top_p", sampling.top_p, "above 0 and at most 1")
    if sampling.top_k is not None and sampling.top_k < 1:
        raise _out_of_range("top_k", sampling.top_k, "at least 1")
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise _out_of_range("max_tokens", sampling.max_tokens, "at least 1")
    return sampling


def _stops(message: pb.SamplingParameters) -> tuple[str, ...]:
    stops = tuple(message.stop)
    if len(stops) > _MAX_STOPS:
        raise InvalidArgument(
            "sampling.stop", f"{len(stops)} strings are given; at most {_MAX_STOPS} are allowed"
        )
    for index, stop in enumerate(stops):
        if not 1 <= len(stop) <= _MAX_STOP_CHARS:
            raise InvalidArgument(
                f"sampling.stop[{index}]",
                f"it has {len(stop)} characters; 1 to {_MAX_STOP_CHARS} are allowed",
            )
    return stops


def _out_of_range(name: str, value: float, limit: str) -> InvalidArgument:
    return InvalidArgument(f"sampling.{name}", f"{value:g} is not {limit}")


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)


def _describe(message: adapters_pb.Version, manifest: AdapterManifest) -> None:
    message.create_time.FromDatetime(manifest.create_time)
    message.base_model = manifest.base_model
    message.base_model_digest = manifest.base_model_digest
    message.rank = manifest.rank
    message.alpha = manifest.alpha
    message.target_modules.extend(manifest.target_modules)
    for path, entry in sorted(manifest.files.items()):
        message.files.add(path=path, size_bytes=entry.size, sha256=entry.sha256)
    message.lineage.CopyFrom(adapters_pb.Version.Lineage(**manifest.lineage.model_dump()))
    message.evaluation.CopyFrom(
        adapters_pb.Version.Evaluation(**manifest.evaluation.model_dump(exclude_none=True))
    )
