"""What comes back of a generation, to protobuf; a stream's pieces are made once a token."""

from __future__ import annotations

from serving_svc.generation.model import (
    Answer,
    Chunk,
    Completion,
    FinishReason,
    TokenLogprob,
    TokenLogprobs,
    ToolCall,
    Usage,
)
from tailorbird.profile import ServingProfile
from tailorbird.serving.v1 import inference_service_pb2 as pb

_FINISH: dict[FinishReason, pb.FinishReason.ValueType] = {
    FinishReason.STOP: pb.FINISH_REASON_STOP,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
    FinishReason.TOOL_CALLS: pb.FINISH_REASON_TOOL_CALLS,
}


def generate_response(answer: Answer, *, with_token_ids: bool = False) -> pb.GenerateResponse:
    """Write a whole answer."""
    first, *others = (_completion(one, with_token_ids) for one in answer.completions)
    return pb.GenerateResponse(
        version=str(answer.version or ""),
        route_generation=answer.route_generation,
        text=first.text,
        finish_reason=first.finish_reason,
        usage=_usage(answer.usage),
        token_ids=first.token_ids,
        logprobs=first.logprobs,
        tool_calls=first.tool_calls,
        others=others,
    )


def stream_response(chunk: Chunk, *, with_token_ids: bool = False) -> pb.StreamGenerateResponse:
    """Write a piece of an answer; most have nothing but text."""
    message = pb.StreamGenerateResponse(text=chunk.text)
    if chunk.version is not None:
        message.version = str(chunk.version)
        message.route_generation = chunk.route_generation
    if chunk.index:
        message.index = chunk.index
    if with_token_ids:
        message.token_ids.extend(chunk.token_ids)
    if chunk.logprobs:
        message.logprobs.extend(map(_logprobs, chunk.logprobs))
    if chunk.finish_reason is not None:
        message.finish_reason = _FINISH[chunk.finish_reason]
        if chunk.tool_calls:
            message.tool_calls.extend(map(_tool_call, chunk.tool_calls))
    if chunk.usage is not None:
        message.usage.CopyFrom(_usage(chunk.usage))
    return message


def server_info(
    profile: ServingProfile, service_version: str, replica: str
) -> pb.GetServerInfoResponse:
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
        replica=replica,
    )


def _completion(completion: Completion, with_token_ids: bool) -> pb.Completion:
    return pb.Completion(
        text=completion.text,
        finish_reason=_FINISH[completion.finish_reason],
        token_ids=completion.token_ids if with_token_ids else (),
        logprobs=map(_logprobs, completion.logprobs),
        tool_calls=map(_tool_call, completion.tool_calls),
    )


def _logprobs(entry: TokenLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(token=_logprob(entry.token), top=map(_logprob, entry.top))


def _logprob(token: TokenLogprob) -> pb.TokenLogprob:
    return pb.TokenLogprob(id=token.id, text=token.text, logprob=token.logprob)


def _tool_call(call: ToolCall) -> pb.ToolCall:
    return pb.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)


def _usage(usage: Usage) -> pb.Usage:
    return pb.Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
