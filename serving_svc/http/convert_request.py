"""A chat or a completion, from OpenAI's JSON to what is generated.

Kinds and names of fields are checked here; then it is the message that a caller of gRPC would have
sent, and is read and checked as that.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from serving_svc.api.convert_generation import generation_request
from serving_svc.generation.model import GenerationRequest
from serving_svc.http import convert_messages, convert_sampling
from serving_svc.http.naming import Named, chosen
from serving_svc.http.refusals import Refusals
from serving_svc.http.tool_choice import Choice
from tailorbird.errors import InvalidArgument
from tailorbird.http.fields import Fields, shown
from tailorbird.rpc.auth import Caller
from tailorbird.serving.v1 import inference_service_pb2 as pb

# As OpenAI says of completions; a chat's answer may fill the context.
_COMPLETION_TOKENS = 16

# In which OpenAI's clients for Python and for Node say how many seconds they wait for a first byte.
_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")
_LONGEST_TIMEOUT = 86_400.0


@dataclass(frozen=True, slots=True)
class Served:
    """The base model's name, its vocabulary's size, and tokens of a prompt at most."""

    base: str
    vocab_size: int
    max_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and how its answer is to be told."""

    request: GenerationRequest
    model: str
    """As the caller named it."""
    chat: bool
    stream: bool
    with_usage: bool
    """At a stream's end."""
    choice: Choice = field(default_factory=Choice)
    refusals: Refusals = field(default_factory=Refusals)


def read_chat(
    body: Mapping[str, Any], headers: Mapping[str, str], caller: Caller, served: Served
) -> Asked:
    """Read a body of /v1/chat/completions."""
    fields, renamed = Fields(body), dict[str, str]()
    model = fields.needed_text("model")
    choice = Choice.read(fields)
    sampling = convert_sampling.sampling(fields, renamed)
    given = convert_sampling.max_tokens(sampling, fields, "max_completion_tokens", "max_tokens")
    renamed["max_tokens"] = given or "max_tokens"
    _chat_logprobs(fields, sampling, renamed)
    tools = convert_messages.tools(fields, held=choice.forced)
    message = pb.GenerateRequest(chat=pb.Chat(messages=convert_messages.messages(fields)))
    if not choice.none:
        message.chat.tools.extend(tools)
    one_call = _one_call(fields, choice)
    if choice.forced:
        if sampling.WhichOneof("structure") is not None:
            raise InvalidArgument("tool_choice", "a call cannot be forced into another structure")
        sampling.json_schema = choice.structure(tools, one_call=one_call)
        renamed["json_schema"] = "tools"
    fields.only("modalities", ["text"], why="the model writes text only")
    message.sampling.CopyFrom(sampling)
    refusals = Refusals(renamed, "messages")
    return _asked(fields, message, model, headers, caller, served, refusals, choice)


def read_completion(
    body: Mapping[str, Any], headers: Mapping[str, str], caller: Caller, served: Served
) -> Asked:
    """Read a body of /v1/completions."""
    fields, renamed = Fields(body), dict[str, str]()
    model = fields.needed_text("model")
    sampling = convert_sampling.sampling(fields, renamed)
    if convert_sampling.max_tokens(sampling, fields, "max_tokens") is None:
        sampling.max_tokens = max(_COMPLETION_TOKENS, sampling.min_tokens)
    logprobs = fields.whole("logprobs")
    if logprobs is not None:
        sampling.logprobs = logprobs
    fields.only("echo", False, why="the prompt is not repeated")
    fields.only("suffix", "", why="nothing is inserted before a text")
    fields.only("best_of", sampling.n or 1, why="as many as n are made, and all are returned")
    message = pb.GenerateRequest(sampling=sampling)
    _prompt(fields, message)
    refusals = Refusals(renamed, "prompt")
    return _asked(fields, message, model, headers, caller, served, refusals, None)


def _asked(
    fields: Fields,
    message: pb.GenerateRequest,
    model: str,
    headers: Mapping[str, str],
    caller: Caller,
    served: Served,
    refusals: Refusals,
    choice: Choice | None,
) -> Asked:
    stream = bool(fields.flag("stream"))
    with_usage = _with_usage(fields, stream)
    message.routing_key = fields.text("routing_key") or ""
    message.min_route_generation = fields.whole("min_route_generation", wide=True) or 0
    message.priority = fields.whole("priority") or 0
    fields.only("store", False, why="no answer is kept")
    fields.only("service_tier", "auto", "default", why="there is one tier")
    fields.ignore(
        "user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"
    )
    fields.end()
    _set_model(message, chosen(model, headers, caller, served.base))
    # A forced call is the whole answer, and no parser of calls knows how it is written.
    forced = choice is not None and choice.forced
    with refusals.told(model):
        request = generation_request(
            message,
            served.vocab_size,
            max_prompt_tokens=served.max_prompt_tokens,
            deadline=_deadline(headers),
            final_only=not stream or forced,
        )
    return Asked(
        replace(request, read_calls=not forced),
        model,
        choice is not None,
        stream,
        with_usage,
        choice or Choice(),
        refusals,
    )


def _deadline(headers: Mapping[str, str]) -> float | None:
    """Return until when the caller waits for its turn, on the monotonic clock, if it says so."""
    for name in _TIMEOUTS:
        try:
            seconds = float(headers.get(name, "")[:20])
        except ValueError:
            continue
        # A client that waits for ever says nothing, or what is no time.
        if 0 < seconds <= _LONGEST_TIMEOUT:
            return time.monotonic() + seconds
    return None


def _set_model(message: pb.GenerateRequest, found: Named) -> None:
    if found.adapter is None:
        message.parent = str(found.tenant)
    else:
        message.adapter = str(found.adapter)
    if found.version is not None:
        message.version = found.version.version


def _chat_logprobs(
    fields: Fields, sampling: pb.SamplingParameters, renamed: dict[str, str]
) -> None:
    renamed["logprobs"] = "top_logprobs"
    wanted, top = fields.flag("logprobs"), fields.whole("top_logprobs")
    if wanted:
        sampling.logprobs = top or 0
    elif top:
        raise InvalidArgument("top_logprobs", f"{top} is given without logprobs: true")


def _one_call(fields: Fields, choice: Choice) -> bool:
    if choice.required:
        return fields.flag("parallel_tool_calls") is False
    fields.only(
        "parallel_tool_calls",
        *((True, False) if choice.name is not None or choice.none else (True,)),
        why="the model may call several tools, unless tool_choice names one or is 'required'",
    )
    return True


def _with_usage(fields: Fields, stream: bool) -> bool:
    options = fields.inner("stream_options")
    if options is None:
        return False
    if not stream:
        raise InvalidArgument("stream_options", "it is given without stream: true")
    found = bool(options.flag("include_usage"))
    options.ignore("include_obfuscation")
    options.end()
    return found


def _prompt(fields: Fields, message: pb.GenerateRequest) -> None:
    found = fields.any("prompt")
    if isinstance(found, list) and len(found) == 1 and isinstance(found[0], str | list):
        found = found[0]
    if isinstance(found, str):
        message.prompt = found
        return
    if found is None:
        raise InvalidArgument("prompt", "it is needed, and not given")
    if not isinstance(found, list):
        raise InvalidArgument("prompt", f"{shown(found)} is neither a string nor an array of ids")
    if any(isinstance(one, str | list) for one in found):
        raise InvalidArgument(
            "prompt", f"it has {len(found)} prompts; 1 a request is allowed", limit=1
        )
    for index, one in enumerate(found):
        if not isinstance(one, int) or isinstance(one, bool) or not 0 <= one < 2**31:
            raise InvalidArgument(f"prompt[{index}]", f"{shown(one)} is not a token's id")
    message.token_ids.ids.extend(found)
