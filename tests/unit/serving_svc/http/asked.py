"""A chat and a completion, read as the routes read them."""

from __future__ import annotations

from typing import Any

import pytest

from serving_svc.http.convert_request import Asked, Served, read_chat, read_completion
from tailorbird.errors import InvalidArgument
from tailorbird.rpc.auth import Caller

SERVED = Served("demo-base", vocab_size=100, max_prompt_tokens=50)
ACME = Caller("acme", frozenset({"acme"}))
MODEL = "tenants/acme/adapters/support"
VERSION = f"{MODEL}/versions/20261122T100000-job-1"
HELLO = [{"role": "user", "content": "Hello"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells it.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def chat(caller: Caller = ACME, headers: dict[str, str] | None = None, **fields: Any) -> Asked:
    body = {"model": MODEL, "messages": HELLO} | fields
    return read_chat(body, headers or {}, caller, SERVED)


def complete(**fields: Any) -> Asked:
    return read_completion({"model": MODEL, "prompt": "Hello"} | fields, {}, ACME, SERVED)


def said(caught: pytest.ExceptionInfo[InvalidArgument]) -> tuple[str, str]:
    return caught.value.field, caught.value.description
