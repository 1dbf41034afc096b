"""OpenAI's routes on a port, over what a test says is generated."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from serving_svc.generation.model import (
    Answer,
    Completion,
    FinishReason,
    GenerationRequest,
    TokenLogprob,
    TokenLogprobs,
    ToolCall,
    Usage,
)
from serving_svc.http.convert_request import Served
from serving_svc.http.models import Models
from serving_svc.http.routes import OpenAiRoutes
from tailorbird.errors import NotFound
from tailorbird.http.server import HttpServer
from tailorbird.names import AdapterName, VersionName
from tailorbird.rpc.auth import Caller, TokenVerifier
from tests.integration.test_streams import Scripted

TOKEN = "let-me-in"
VERSION = VersionName.parse("tenants/acme/adapters/support/versions/20261122T100000-job-1")
STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
USAGE = Usage(3, 2)
CALL = ToolCall("call_1", "weather", '{"city":"Rome"}')
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CHAT: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "Hi"}]}
STREAM: dict[str, Any] = CHAT | {"stream": True}
LOGPROBS = TokenLogprobs(
    TokenLogprob(5, "é", -0.5), (TokenLogprob(5, "é", -0.5), TokenLogprob(6, "\ufffd", -1.5))
)


class OneAdapter:
    """A registry that knows nothing."""

    async def list_adapters(self, *_: Any) -> Any:
        return [], ""

    async def get_adapter(self, name: AdapterName) -> Any:
        raise NotFound(name)

    async def get_version(self, name: VersionName) -> Any:
        raise NotFound(name)


class Edge:
    """The routes on a port, what they generate, and what was counted."""

    def __init__(self) -> None:
        self.scripted = Scripted()
        self.registry = CollectorRegistry()
        digest = sha256(TOKEN.encode()).hexdigest()
        verifier = TokenVerifier({digest: Caller("acme", frozenset({"acme"}))})
        self.server = HttpServer("127.0.0.1", 0, verifier, self.registry)
        models = Models(OneAdapter(), "demo-base", 2048, datetime.now(UTC))
        served = Served("demo-base", vocab_size=100, max_prompt_tokens=2048)
        self.server.add(OpenAiRoutes(self.scripted, models, served, reader_patience=0.3).all())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}/v1"

    def handled(self, code: int, route: str = "/v1/chat/completions") -> float:
        labels = {"route": route, "code": str(code)}
        return self.registry.get_sample_value("tailorbird_http_handled_total", labels) or 0

    def client(self, token: str = TOKEN) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    async def post(self, body: Any, path: str = "/chat/completions") -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, json=body)

    async def events(self, body: Any, path: str = "/chat/completions") -> list[Any]:
        """Return what a stream's events say; "[DONE]" as it is."""
        told = await self.post(body, path)
        assert told.status_code == 200, told.text
        assert told.headers["content-type"].startswith("text/event-stream")
        *events, nothing = told.text.split("\n\n")
        assert nothing == ""
        data = [event.removeprefix("data: ") for event in events]
        return [one if one == "[DONE]" else json.loads(one) for one in data]


def answers(edge: Edge, *completions: Completion, version: VersionName | None = None) -> None:
    async def generate(request: GenerationRequest) -> Answer:
        edge.scripted.asked.append(request)
        return Answer(completions, USAGE, version, 7 if version else 0)

    edge.scripted.generate = generate  # type: ignore[method-assign]
