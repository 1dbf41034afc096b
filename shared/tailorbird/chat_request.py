"""Requests that ask one thing, which is what most callers want."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from tailorbird.errors import InvalidArgument
from tailorbird.serving.v1 import inference_service_pb2 as serving


class ChatOptions(TypedDict, total=False):
    """The options of `chat_request`, for those that pass them on."""

    system: str
    version: str
    max_tokens: int | None
    temperature: float | None
    n: int | None
    logprobs: int | None
    json_schema: str | None
    regex: str | None
    choices: Sequence[str] | None
    grammar: str | None
    routing_key: str
    min_route_generation: int
    priority: int


def chat_request(
    model: str,
    text: str,
    *,
    system: str = "",
    version: str = "",
    max_tokens: int | None = None,
    temperature: float | None = None,
    n: int | None = None,
    logprobs: int | None = None,
    json_schema: str | None = None,
    regex: str | None = None,
    choices: Sequence[str] | None = None,
    grammar: str | None = None,
    routing_key: str = "",
    min_route_generation: int = 0,
    priority: int = 0,
) -> serving.GenerateRequest:
    """Return a request that asks `model` one thing, under the instructions `system` if any.

    `model` is tenants/{tenant}/adapters/{adapter}, or tenants/{tenant} for the base model itself;
    `version` the last part of a version's name, to pin it. At most one of `json_schema`, `regex`,
    `choices` and `grammar` says what the answer must look like; InvalidArgument for more. What is
    None is left to the service.

    >>> request = chat_request("tenants/acme/adapters/support", "Where is it?", max_tokens=20)
    >>> request.sampling.max_tokens
    20
    """
    structures = {"json_schema": json_schema, "regex": regex, "grammar": grammar}
    given = {name: value for name, value in structures.items() if value is not None}
    if len(given) + (choices is not None) > 1:
        names = [*given, *(["choices"] if choices is not None else [])]
        raise InvalidArgument(names[-1], f"at most one of {', '.join(names)} can be asked for")
    messages = [serving.Message(role=serving.ROLE_USER, content=text)]
    if system:
        messages.insert(0, serving.Message(role=serving.ROLE_SYSTEM, content=system))
    request = serving.GenerateRequest(
        version=version,
        chat=serving.Chat(messages=messages),
        sampling=serving.SamplingParameters(
            max_tokens=max_tokens,
            temperature=temperature,
            n=n,
            logprobs=logprobs,
            choices=None if choices is None else serving.Choices(choices=choices),
        ),
        routing_key=routing_key,
        min_route_generation=min_route_generation,
        priority=priority,
    )
    for name, value in given.items():
        setattr(request.sampling, name, value)
    if "/adapters/" in model:
        request.adapter = model
    else:
        request.parent = model
    return request


def feedback_request(
    version: str,
    text: str,
    answer: str,
    *,
    system: str = "",
    correction: str = "",
    rating: serving.Rating.ValueType = serving.RATING_UNSPECIFIED,
    labels: Mapping[str, str] | None = None,
    route_generation: int = 0,
    request_id: str = "",
) -> serving.RecordFeedbackRequest:
    """Return a request that keeps what `version`, named in full, said to one question.

    `version` and `route_generation` are the answer's own. `correction` is what should have been
    said, "" if nobody says.

    >>> version = "tenants/acme/adapters/support/versions/20261122T100000-job-1"
    >>> from tailorbird.serving.v1.inference_service_pb2 import RATING_GOOD
    >>> feedback_request(version, "Where is it?", "Here.", rating=RATING_GOOD).answer.text
    'Here.'
    """
    messages = [serving.Message(role=serving.ROLE_USER, content=text)]
    if system:
        messages.insert(0, serving.Message(role=serving.ROLE_SYSTEM, content=system))
    return serving.RecordFeedbackRequest(
        version=version,
        route_generation=route_generation,
        chat=serving.Chat(messages=messages),
        answer=serving.FeedbackAnswer(text=answer),
        correction=serving.FeedbackAnswer(text=correction) if correction else None,
        rating=rating,
        labels=labels,
        request_id=request_id,
    )
