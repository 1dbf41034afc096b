"""Serving's routes over HTTP: each converts, calls once, converts."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serving_svc.generation.model import Answer, Chunk, GenerationRequest
from serving_svc.http.convert_answers import Json, chat_answer, text_answer
from serving_svc.http.convert_request import Asked, Served, read_chat, read_completion
from serving_svc.http.events import events
from serving_svc.http.models import Models
from serving_svc.http.stream import EventStream, answerer
from tailorbird.http.body import read_json
from tailorbird.http.exchange import Exchange
from tailorbird.rpc.auth import Caller, current_caller

_Read = Callable[[Mapping[str, Any], Mapping[str, str], Caller, Served], Asked]
_Write = Callable[[Asked, Answer, str, int], Json]


class Generations(Protocol):
    """What the edge needs of generating."""

    async def generate(self, request: GenerationRequest) -> Answer:
        """Return the whole answer."""

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Yield the answer as it comes; closing the iterator ends the generation."""


class OpenAiRoutes:
    """OpenAI's routes; docs/openai.md."""

    def __init__(
        self,
        generations: Generations,
        models: Models,
        served: Served,
        *,
        reader_patience: float = 60.0,
    ) -> None:
        self._generations = generations
        self._models = models
        self._served = served
        self._reader_patience = reader_patience

    def all(self) -> list[Route]:
        """Return them, for `HttpServer.add`."""
        return [
            Route("/v1/models", self._models.every, methods=["GET"]),
            Route("/v1/models/{model:path}", self._models.one, methods=["GET"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
        ]

    async def chat(self, request: Request) -> Response | EventStream:
        """Answer POST /v1/chat/completions."""
        return await self._answer(request, "chatcmpl", read_chat, chat_answer)

    async def complete(self, request: Request) -> Response | EventStream:
        """Answer POST /v1/completions."""
        return await self._answer(request, "cmpl", read_completion, text_answer)

    async def _answer(
        self, request: Request, kind: str, read: _Read, write: _Write
    ) -> Response | EventStream:
        body = await read_json(request)
        asked = read(body, request.headers, current_caller(), self._served)
        answer_id, created = f"{kind}-{uuid.uuid4().hex}", int(time.time())
        if asked.stream:
            chunks = self._generations.stream(asked.request)
            return EventStream(
                asked, chunks, events(asked, answer_id, created), self._reader_patience
            )
        async with Exchange.of(request.scope).present():
            with asked.refusals.told(asked.model):
                answer = await self._generations.generate(asked.request)
        response = Response(
            json.dumps(write(asked, answer, answer_id, created)), media_type="application/json"
        )
        response.raw_headers += answerer(answer.version, answer.route_generation)
        return response
